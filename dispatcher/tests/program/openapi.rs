//! Compares `/openapi.json` with the responses of the dispatcher's program. schemathesis (from PyPI) sends valid and
//! invalid requests and checks the responses. If it is not installed, the test is reported as skipped.

use crate::process::{Program, report_skipped};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use service::respond::{self, Reply};
use service::wire::{Answer, BodyFormat, Code, Prediction, ReadyBody, RequestError, Timing};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;

/// The longest time for one run of schemathesis, which usually takes a few seconds.
const RUN_LIMIT: Duration = Duration::from_secs(60);

const TOKEN: &str = "s3cret";

/// The operations that classify an image.
const IMAGE_OPERATIONS: [(&str, &str); 4] =
    [("/predict", "post"), ("/infer", "post"), ("/predictions/{model}", "post"), ("/predictions/{model}", "put")];

/// The document that answers `GET /openapi.json`.
fn document() -> Value {
    serde_json::from_str(include_str!("../../src/openapi.json")).expect("the document is JSON")
}

/// A stub replica. It accepts any bytes as an image if they are at the place of the image in the body's format.
async fn stub(request: Request<Incoming>) -> Reply {
    if request.uri().path() == "/readyz" {
        return respond::json(StatusCode::OK, &ReadyBody { ready: true, capacity: Some(8) });
    }
    let format =
        BodyFormat::from_content_type(request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()));
    let has_image = match (format, request.into_body().collect().await) {
        (Ok(format), Ok(body)) => has_image(format, &body.to_bytes()),
        _ => false,
    };
    if !has_image {
        return respond::error(&RequestError::new(Code::BadRequest, "no image"), "stub");
    }
    let prediction = Prediction { class_index: 0, label: "stub".into(), confidence: 1.0 };
    respond::json(StatusCode::OK, &Answer::new(vec![prediction], "stub", "stub", Timing::default()))
}

/// Whether the body has bytes at the place of the image in its format.
fn has_image(format: BodyFormat, body: &[u8]) -> bool {
    match format {
        BodyFormat::Raw => !body.is_empty(),
        BodyFormat::Json => serde_json::from_slice::<Value>(body)
            .is_ok_and(|body| body["image"].as_str().is_some_and(|base64| base64.chars().count() >= 4)),
        BodyFormat::Form => {
            let form = String::from_utf8_lossy(body);
            let image = form.split('&').find_map(|field| field.strip_prefix("image="));
            image.is_some_and(|image| percent_decode_str(image).decode_utf8_lossy().chars().count() >= 4)
        }
        BodyFormat::Multipart => {
            let parts = String::from_utf8_lossy(body);
            let part = parts.split_once("name=\"image\"").and_then(|(_, rest)| rest.split_once("\r\n\r\n"));
            part.is_some_and(|(_, image)| !image.starts_with("\r\n--"))
        }
    }
}

/// Starts the dispatcher with one stub replica.
async fn start_dispatcher(flags: &[&str]) -> Program {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
    let replicas = format!("--replicas=static:{}", listener.local_addr().expect("the socket is bound"));
    tokio::spawn(service::server::serve(listener, None, stub, std::future::pending(), Duration::ZERO));
    Program::start(&[&["--log=error", &replicas], flags].concat(), &[]).await
}

/// Runs schemathesis in `folder`. Returns whether it is installed. If it is not, the test is reported as skipped.
///
/// # Panics
/// If schemathesis finds a wrong response.
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
    match tokio::time::timeout(RUN_LIMIT, command.output()).await.expect("schemathesis ends") {
        Ok(output) => {
            let printed = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "schemathesis {flags:?}:\n{}", String::from_utf8_lossy(&printed));
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            report_skipped(&format!(
                "{} is not installed; run python3 -m venv target/tools/schemathesis && \
                 target/tools/schemathesis/bin/pip install schemathesis",
                program.display()
            ));
            false
        }
        Err(error) => panic!("run {}: {error}", program.display()),
    }
}

#[tokio::test]
async fn the_responses_match_the_openapi_document() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let open = start_dispatcher(&[]).await;
    let url = format!("http://{}", open.address);
    if !schemathesis(folder.path(), &[&format!("{url}/openapi.json")]).await {
        return;
    }

    // The document says that a token is optional. For a dispatcher with a token, it must be required.
    let mut document = document();
    for (path, method) in IMAGE_OPERATIONS {
        document["paths"][path][method]["security"] = json!([{"token": []}]);
    }
    let file = |name| folder.path().join(name).to_str().expect("the path is UTF-8").to_owned();
    let (strict, token) = (file("strict.json"), file("token"));
    std::fs::write(&strict, document.to_string()).expect("the temporary folder is writable");
    std::fs::write(&token, TOKEN).expect("the temporary folder is writable");
    let closed = start_dispatcher(&["--token-file", &token]).await;
    let url = format!("http://{}", closed.address);
    let header = format!("Authorization: Bearer {TOKEN}");
    schemathesis(folder.path(), &[&strict, "--url", &url, "--header", &header, "--include-tag", "images"]).await;
}

/// The code after `code` in a list of all codes. The match has no wildcard, so a new code does not compile before it is
/// added here.
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
        Code::Poison => Code::RateLimited,
        Code::RateLimited => Code::Internal,
        Code::Internal => Code::ReplicaFailed,
        Code::ReplicaFailed => Code::QueueFull,
        Code::QueueFull => Code::Overloaded,
        Code::Overloaded => Code::Busy,
        Code::Busy => Code::DeadlineExceeded,
        Code::DeadlineExceeded => return None,
    })
}

/// The value to which `value` refers; `value` itself if it is no reference.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} is not in the document"))
        }
        None => value,
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().expect("this part of the document is an object").iter()
}

#[test]
fn every_code_is_described_with_its_status() {
    let document = document();
    let mut described = BTreeSet::new();
    let operations = entries(&document["paths"]).flat_map(|(_, path)| entries(path));
    // The parameters in a path stand beside its operations.
    for (_, operation) in operations.filter(|(name, _)| *name != "parameters") {
        for (status, response) in entries(&operation["responses"]) {
            let schema = &resolved(&document, response)["content"]["application/json"]["schema"];
            for code in schema["allOf"][1]["properties"]["code"]["enum"].as_array().into_iter().flatten() {
                described
                    .insert((status.parse().expect("the key is a status"), code.as_str().expect("a code is a string")));
            }
        }
    }
    // A client never receives `busy`, because the dispatcher sends the request to another replica.
    let all = std::iter::successors(Some(Code::BadRequest), |&code| after(code)).filter(|&code| code != Code::Busy);
    assert_eq!(described, all.map(|code| (code.status(), code.as_str())).collect());
}

#[test]
fn the_aliases_are_described_like_predict_and_the_version_matches() {
    let document = document();
    let predict = &document["paths"]["/predict"]["post"];
    for (path, method) in IMAGE_OPERATIONS {
        for part in ["security", "parameters", "requestBody", "responses"] {
            assert_eq!(document["paths"][path][method][part], predict[part], "{method} {path}: {part}");
        }
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}
