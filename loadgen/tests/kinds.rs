//! Runs against servers that are not ours: what loadgen sends them, and how it judges their answers.

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::server::{self, ANSWER, Reply, Settings};
use common::{check_made, program, run, stderr};
use hyper::body::Bytes;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const LOAD: [&str; 3] = ["--rate=30", "--duration=500ms", "--arrivals=uniform"];

/// The summary of a run against a server that gives `reply` to each request.
fn summary(flags: &[&str], reply: Reply) -> Value {
    let (address, _) = server::start(Settings::default(), move |_, _| reply.clone());
    let url = format!("--url=http://{address}/v2/models/m/infer");
    run(&[&LOAD[..], &[&url], flags].concat()).report["summary"].clone()
}

/// The bodies and the heads, in words, that a server with `ANSWER` receives.
fn received(flags: &[&str]) -> Vec<(String, Bytes)> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorded = seen.clone();
    let (address, _) = server::start(Settings::default(), move |head, body| {
        let header = |name: &str| head.headers.get(name).map(|value| value.to_str().expect("text").to_owned());
        let words = format!(
            "{} {} {}",
            header("content-type").unwrap_or_default(),
            header("inference-header-content-length").unwrap_or_default(),
            header("authorization").unwrap_or_default()
        );
        recorded.lock().expect("no thread panics").push((words.trim().to_owned(), body.clone()));
        Reply::ok(ANSWER)
    });
    let url = format!("--url=http://{address}/");
    let run = run(&[&LOAD[..], &[&url, "--target-kind=status"], flags].concat());
    check_made(&run.output);
    let seen = seen.lock().expect("no thread panics").clone();
    assert!(seen.len() >= 10, "{} requests", seen.len());
    seen
}

/// A folder with one labelled picture.
fn pictures(label: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = program().args(["pictures", "--count=1", "--size=32"]).arg(folder.path()).output().expect("it runs");
    assert!(made.status.success(), "{}", stderr(&made));
    let csv = format!("file,label\n00000.jpg,\"{}\"\n", label.replace('"', "\"\""));
    std::fs::write(folder.path().join("labels.csv"), csv).expect("written");
    folder
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn answers_are_judged_by_the_kind_of_the_target() {
    let folder = pictures("7");
    let pictures = format!("--pictures={}", folder.path().display());
    let scores = |best: usize| (0..10).map(|index| f64::from(u8::from(index == best))).collect::<Vec<f64>>();
    let oip = |output: Value| Reply::ok(json!({"model_name": "m", "outputs": [output]}).to_string());
    let floats = |best| oip(json!({"name": "p", "datatype": "FP32", "shape": [1, 10], "data": [scores(best)]}));
    let text = |text: &str| oip(json!({"name": "l", "datatype": "BYTES", "shape": [1], "data": [text]}));
    let head = json!({"outputs": [
        {"name": "p", "datatype": "FP64", "shape": [10], "parameters": {"binary_data_size": 80}}]})
    .to_string();
    let tail: Vec<u8> = scores(7).into_iter().flat_map(f64::to_le_bytes).collect();
    let binary = Reply {
        headers: vec![("inference-header-content-length", head.len().to_string())],
        ..Reply::ok([head.as_bytes(), &tail].concat())
    };
    for (flags, reply, accuracy) in [
        (&["--target-kind=oip"][..], floats(7), json!(1.0)),
        (&["--target-kind=oip"], floats(6), json!(0.0)),
        (&["--target-kind=oip", "--form=oip-binary"], binary, json!(1.0)),
        (&["--target-kind=oip"], text("7"), json!(1.0)),
        (&["--target-kind=oip"], text("0.9:3:7"), json!(1.0)),
        (&["--target-kind=oip"], text("0.9:7"), json!(1.0)),
        (&["--target-kind=oip"], text("cat"), json!(0.0)),
        (&["--target-kind=torchserve"], Reply::ok(r#"{"7":0.9,"8":0.1}"#), json!(1.0)),
        (&["--target-kind=torchserve"], Reply::ok(json!([scores(7)]).to_string()), json!(1.0)),
        (&["--target-kind=torchserve"], Reply::ok(json!(scores(2)).to_string()), json!(0.0)),
        (&["--target-kind=status"], Reply { status: 204, ..Reply::ok("") }, Value::Null),
        (&["--expect-json=/a/0={{label}}"], Reply::ok(r#"{"a":["7"]}"#), json!(1.0)),
        (&["--expect-json=/a/0={{label}}", "--expect-json=/b=true"], Reply::ok(r#"{"a":["7"],"b":1}"#), json!(0.0)),
        (&["--expect-json=/b=1"], Reply { status: 201, ..Reply::ok(r#"{"b":1}"#) }, json!(1.0)),
    ] {
        let summary = summary(&[flags, &[&pictures]].concat(), reply);
        assert_eq!(summary["answered"], summary["offered"], "{flags:?}: {summary}");
        assert_eq!(summary["accuracy"], accuracy, "{flags:?}: {summary}");
    }
}

#[test]
fn answers_that_are_not_of_the_kind_are_failures_with_a_code() {
    let status = |status| Reply { status, ..Reply::ok("{}") };
    for (flags, reply, code) in [
        (&["--target-kind=oip"][..], Reply::ok(ANSWER), "invalid_answer"),
        (&["--target-kind=oip"], Reply::ok(r#"{"outputs":[]}"#), "invalid_answer"),
        (&["--target-kind=oip"], Reply { status: 400, ..Reply::ok(r#"{"error":"no"}"#) }, "http_400"),
        (&["--target-kind=torchserve"], Reply::ok("cat"), "invalid_answer"),
        (&["--target-kind=status"], status(301), "http_301"),
        (&["--target-kind=status"], status(404), "http_404"),
        (&["--expect-json=/a=1"], Reply::ok(ANSWER), "unexpected_answer"),
        (&["--expect-json=/a=1"], Reply::ok("<html>"), "unexpected_answer"),
        (&["--expect-json=/a=1"], status(500), "http_500"),
        (&[], Reply::ok(r#"{"outputs":[]}"#), "invalid_answer"),
    ] {
        let summary = summary(flags, reply);
        assert_eq!(summary["errors"][code], summary["offered"], "{flags:?}: {summary}");
    }
}

#[test]
fn requests_of_the_open_inference_protocol_carry_an_image_or_random_numbers() {
    let folder = pictures("7");
    let image = std::fs::read(folder.path().join("00000.jpg")).expect("written");
    let pictures = format!("--pictures={}", folder.path().display());
    for (words, body) in received(&["--form=oip-json", &pictures]) {
        assert_eq!(words, "application/json");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let expected = json!({"name": "image", "datatype": "BYTES", "shape": [1], "data": [STANDARD.encode(&image)]});
        assert_eq!(body["inputs"], json!([expected]));
    }
    for (words, body) in received(&["--form=oip-binary", "--tensor=file:BYTES:1,1", &pictures]) {
        let length: usize = words.strip_prefix("application/octet-stream ").expect(&words).parse().expect("a length");
        let (head, tail) = body.split_at(length);
        let head: Value = serde_json::from_slice(head).expect("JSON");
        assert_eq!((&head["inputs"][0]["name"], &head["inputs"][0]["shape"]), (&json!("file"), &json!([1, 1])));
        assert_eq!(tail, [&(image.len() as u32).to_le_bytes()[..], &image].concat());
    }
    let mut different = BTreeSet::new();
    for (_, body) in received(&["--tensor=input:FP32:1,3,8,8", "--seed=5"]) {
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let input = &body["inputs"][0];
        assert_eq!((&input["datatype"], &input["shape"]), (&json!("FP32"), &json!([1, 3, 8, 8])));
        assert_eq!(input["data"].as_array().map(Vec::len), Some(192));
        different.insert(input["data"].to_string());
    }
    // `run` asks for three images.
    assert_eq!(different.len(), 3);
}

#[test]
fn a_template_makes_the_body_and_a_header_replaces_its_type() {
    let folder = pictures("a \"7\"");
    let image = std::fs::read(folder.path().join("00000.jpg")).expect("written");
    let pictures = format!("--pictures={}", folder.path().display());
    let text = r#"{"instances":[{"b64":"{{image_base64}}"}],"label":"{{label}}","n":{{index}}}"#;
    let template = format!("--body-template={}", write(&folder, "body.json", text).display());
    for (words, body) in received(&[&template, &pictures]) {
        assert_eq!(words, "application/json");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let expected = json!({"instances": [{"b64": STANDARD.encode(&image)}], "label": "a \"7\"", "n": 0});
        assert_eq!(body, expected);
    }
    assert_eq!(received(&[&template, &pictures, "--content-type=text/x-test"])[0].0, "text/x-test");
    assert_eq!(received(&[&pictures, "--header=Content-Type: image/x-test"])[0].0, "image/x-test");

    let (address, _) = server::start(Settings::default(), |_, _| Reply::ok(ANSWER));
    let url = format!("--url=http://{address}/");
    let mut command = program();
    command.args(["run", "--generate=3", "--header=Content-Type: image/x-test", &url]).args(LOAD);
    let output = command.output().expect("the program runs");
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("Content-Type to \"image/x-test\""), "{}", stderr(&output));
    assert_eq!(stderr(&command.arg("--quiet").output().expect("the program runs")), "");
}

#[test]
fn a_changed_token_is_sent_and_no_token_is_printed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(&folder, "token", "first-secret\n");
    let changed = path.clone();
    let tokens = Arc::new(Mutex::new(Vec::<String>::new()));
    let recorded = tokens.clone();
    let (address, _) = server::start(Settings::default(), move |head, _| {
        let token = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut tokens = recorded.lock().expect("no thread panics");
        if tokens.is_empty() {
            std::fs::write(&changed, "second-secret").expect("written");
        }
        tokens.push(token.to_owned());
        Reply::ok(ANSWER)
    });
    let url = format!("--url=http://{address}/");
    let file = format!("--bearer-token-file={}", path.display());
    let run = run(&["--rate=20", "--duration=4s", &url, &file]);
    check_made(&run.output);
    let tokens = tokens.lock().expect("no thread panics").clone();
    let second = tokens.iter().position(|token| token == "Bearer second-secret").expect("the new token is sent");
    assert!(tokens[..second].iter().all(|token| token == "Bearer first-secret"), "{tokens:?}");
    assert!(tokens[second..].iter().all(|token| token == "Bearer second-secret"), "{tokens:?}");
    let printed = [run.output.stdout.clone(), run.output.stderr.clone(), run.report.to_string().into_bytes()].concat();
    assert!(!String::from_utf8_lossy(&printed).contains("secret"), "a token is printed");
}

#[test]
fn an_address_of_ipv6_is_a_target() {
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // The image is so small that one read gets the whole request.
                while stream.read(&mut [0; 65_536]).is_ok_and(|length| length > 0) {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", ANSWER.len());
                    if stream.write_all((head + ANSWER).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let literal = format!("--url=http://{address}/predict");
    let named = format!("--url=http://model.example:{}/predict", address.port());
    let resolve = format!("--resolve=model.example:{}:[::1]", address.port());
    for flags in [&[literal.as_str()][..], &[&named, &resolve]] {
        let run = run(&[&LOAD[..], flags, &["--timeout=5s"]].concat());
        let summary = &run.report["summary"];
        assert_eq!(summary["answered"], summary["offered"], "{summary}");
    }
}
