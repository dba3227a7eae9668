//! `/openapi.json` against what the dispatcher's program answers. schemathesis (PyPI) makes the requests, right ones and
//! wrong ones, and judges the answers; without it the test says that it was skipped.

mod program;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use program::{Program, say};
use serde_json::{Value, json};
use service::respond::{self, Reply};
use service::wire::{Answer, BodyFormat, Code, Prediction, ReadyBody, RequestError as Fault, Timing};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;

/// For one run; it takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

const TOKEN: &str = "s3cret";

fn document() -> Value {
    serde_json::from_str(include_str!("../src/openapi.json")).expect("JSON")
}

/// A replica to which any bytes are a picture, as long as there are some where its form says.
async fn stub(request: Request<Incoming>) -> Reply {
    if request.uri().path() == "/readyz" {
        return respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(8) });
    }
    let form = BodyFormat::from_content_type(request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()));
    let has_picture = match (form, request.into_body().collect().await) {
        (Ok(form), Ok(body)) => has_picture(form, &body.to_bytes()),
        _ => false,
    };
    if !has_picture {
        return respond::error(&Fault::new(Code::BadRequest, "no picture"), "stub");
    }
    let prediction = Prediction { class_index: 0, label: "stub".into(), confidence: 1.0 };
    respond::json(StatusCode::OK, &Answer::new(vec![prediction], "stub", "stub", Timing::default()))
}

fn has_picture(form: BodyFormat, body: &[u8]) -> bool {
    match form {
        BodyFormat::Raw => !body.is_empty(),
        BodyFormat::Json => serde_json::from_slice::<Value>(body)
            .is_ok_and(|body| body["image"].as_str().is_some_and(|base64| base64.chars().count() >= 4)),
        BodyFormat::Multipart => {
            let parts = String::from_utf8_lossy(body);
            let part = parts.split_once("name=\"image\"").and_then(|(_, rest)| rest.split_once("\r\n\r\n"));
            part.is_some_and(|(_, picture)| !picture.starts_with("\r\n--"))
        }
    }
}

async fn dispatcher(flags: &[&str]) -> Program {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let replicas = format!("--replicas=static:{}", listener.local_addr().expect("bound"));
    tokio::spawn(service::server::serve(listener, None, stub, std::future::pending(), Duration::ZERO));
    Program::start(&[&["--log=error", &replicas], flags].concat(), &[]).await
}

/// Runs schemathesis in `folder`. Whether there is one.
async fn schemathesis(folder: &Path, flags: &[&str]) -> bool {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = crate_folder.join("../target/tools/schemathesis/bin/schemathesis");
    let program = match std::env::var_os("ROUNDHOUSE_SCHEMATHESIS") {
        Some(named) => PathBuf::from(named),
        None if installed.exists() => installed,
        None => "schemathesis".into(),
    };
    let mut command = Command::new(&program);
    command.arg("--config-file").arg(crate_folder.join("tests/openapi/schemathesis.toml"));
    command.args(["run", "--no-color"]).args(flags).current_dir(folder).env("no_proxy", "127.0.0.1").kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await.expect("schemathesis ends") {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "schemathesis {flags:?}:\n{}", String::from_utf8_lossy(&said));
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            say(&format!(
                "skipped: {} is not there; to have it: python3 -m venv target/tools/schemathesis && \
                 target/tools/schemathesis/bin/pip install schemathesis",
                program.display()
            ));
            false
        }
        Err(error) => panic!("{}: {error}", program.display()),
    }
}

#[tokio::test]
async fn the_dispatcher_answers_as_described() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = dispatcher(&[]).await;
    let url = format!("http://{}", open.address);
    if !schemathesis(folder.path(), &[&format!("{url}/openapi.json")]).await {
        return;
    }

    // Where a token is configured it is no longer optional, which the document cannot know.
    let mut document = document();
    for path in ["/predict", "/infer"] {
        document["paths"][path]["post"]["security"] = json!([{"token": []}]);
    }
    let file = |name| folder.path().join(name).to_str().expect("a path in UTF-8").to_owned();
    let (strict, token) = (file("strict.json"), file("token"));
    std::fs::write(&strict, document.to_string()).expect("writable");
    std::fs::write(&token, TOKEN).expect("writable");
    let closed = dispatcher(&["--token-file", &token]).await;
    let url = format!("http://{}", closed.address);
    let header = format!("Authorization: Bearer {TOKEN}");
    schemathesis(folder.path(), &[&strict, "--url", &url, "--header", &header, "--include-tag", "pictures"]).await;
}

/// The next of all codes; a new one does not compile until it has its place here.
fn after(code: Code) -> Option<Code> {
    Some(match code {
        Code::BadRequest => Code::BadImage,
        Code::BadImage => Code::Unauthorized,
        Code::Unauthorized => Code::NotFound,
        Code::NotFound => Code::MethodNotAllowed,
        Code::MethodNotAllowed => Code::SlowBody,
        Code::SlowBody => Code::TooLarge,
        Code::TooLarge => Code::UnsupportedMediaType,
        Code::UnsupportedMediaType => Code::Poison,
        Code::Poison => Code::Internal,
        Code::Internal => Code::ReplicaFailed,
        Code::ReplicaFailed => Code::QueueFull,
        Code::QueueFull => Code::Overloaded,
        Code::Overloaded => Code::Busy,
        Code::Busy => Code::DeadlineExceeded,
        Code::DeadlineExceeded => return None,
    })
}

/// What `value` refers to, or itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} is nowhere")),
        None => value,
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().expect("an object").iter()
}

#[test]
fn every_code_is_described_with_its_status_and_no_other() {
    let document = document();
    let mut described = BTreeSet::new();
    for (_, operation) in entries(&document["paths"]).flat_map(|(_, path)| entries(path)) {
        for (status, response) in entries(&operation["responses"]) {
            let schema = &resolved(&document, response)["content"]["application/json"]["schema"];
            for code in schema["allOf"][1]["properties"]["code"]["enum"].as_array().into_iter().flatten() {
                described.insert((status.parse().expect("a status"), code.as_str().expect("text")));
            }
        }
    }
    // One that is busy does not show: the request goes to another.
    let all = std::iter::successors(Some(Code::BadRequest), |&code| after(code)).filter(|&code| code != Code::Busy);
    assert_eq!(described, all.map(|code| (code.status(), code.as_str())).collect());
}

#[test]
fn the_alias_and_the_version_are_those_of_the_program() {
    let document = document();
    let [predict, infer] = ["/predict", "/infer"].map(|path| &document["paths"][path]["post"]);
    for part in ["security", "parameters", "requestBody", "responses"] {
        assert_eq!(predict[part], infer[part], "{part}");
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}
