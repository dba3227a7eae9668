//! Bodies that would cost much time or memory, sent to the program of a replica.

use crate::replica::{ReplicaProcess, TIMEOUT};
use hyper::Method;

/// The resident memory of the replica, in MB (proc_pid_status(5)).
fn resident_mb(replica: &ReplicaProcess) -> u64 {
    let path = format!("/proc/{}/status", replica.child.id().expect("it runs"));
    let status = std::fs::read_to_string(path).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the resident memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1000
}

/// The bodies, each of some 20 MB, with a path, a content type and the expected status.
fn bodies() -> Vec<(&'static str, &'static str, &'static str, Vec<u8>, u16)> {
    const INFER: &str = "/v2/models/resnet18/infer";
    const MULTIPART: &str = "multipart/form-data; boundary=B";
    const FORM: &str = "application/x-www-form-urlencoded";
    const JSON: &str = "application/json";
    let size = 20_000_000;
    let repeated = |start: &str, part: &str, end: &str| {
        let body = format!("{start}{}{end}", part.repeat(size / part.len()));
        body.into_bytes()
    };
    let image = r#"{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":["#;
    let input = r#"{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3,224,224],"data":["#;
    vec![
        ("strings", INFER, JSON, repeated(image, "\"a\",", "\"a\"]}]}"), 400),
        ("strings before their shape", INFER, JSON, repeated("{\"inputs\":[{\"data\":[", "\"a\",", "\"a\"]}]}"), 413),
        ("numbers", INFER, JSON, repeated(input, "1,", "1]}]}"), 400),
        ("empty arrays", INFER, JSON, repeated(input, "[],", "[]]}]}"), 400),
        ("open arrays", INFER, JSON, repeated(input, "[", ""), 400),
        ("inputs", INFER, JSON, repeated("{\"inputs\":[", "{},", "{}]}"), 400),
        ("outputs", INFER, JSON, repeated("{\"outputs\":[", "{\"name\":\"label\"},", "{}]}"), 400),
        ("dimensions", INFER, JSON, repeated("{\"inputs\":[{\"shape\":[", "1,", "1]}]}"), 400),
        ("parameters", INFER, JSON, repeated("{\"parameters\":{", "\"a\":{\"b\":[]},", "\"c\":1}}"), 400),
        ("a long name", INFER, JSON, repeated("{\"inputs\":[{\"name\":\"", "\\u00e9", "\"}]}"), 400),
        ("a long field", INFER, JSON, repeated("{\"", "\\u00e9", "\":1}"), 400),
        ("a long text instead of an object", INFER, JSON, repeated("\"", "x", "\""), 400),
        ("base64", INFER, JSON, repeated(&format!("{image}\""), "AAAA", "\"]}]}"), 400),
        ("base64 of no image", "/predict", JSON, repeated("{\"image\":\"", "AAAA", "\"}"), 400),
        ("base64 in lines", "/predict", JSON, repeated("{\"image\":\"", "AA-_\\n", "\"}"), 400),
        ("a long text", "/predict", JSON, repeated("\"", "x", "\""), 400),
        ("a form with many fields", "/predict", FORM, repeated("", "a=b&", "image=AAAA"), 400),
        ("a form of percent signs", "/predict", FORM, repeated("image=", "%41", ""), 400),
        ("parts", "/predict", MULTIPART, repeated("--B\r\n", "\r\n\r\n--B\r\n", "\r\n\r\n--B--"), 413),
        ("headers of a part", "/predict", MULTIPART, repeated("--B\r\n", "a: b\r\n", "\r\n\r\n--B--"), 413),
        ("almost delimiters", "/predict", MULTIPART, repeated("--B\r\n\r\n", "\r\n--B ", "\r\n--B--"), 400),
        ("no image", "/predict", "image/png", repeated("", "x", ""), 400),
    ]
}

#[tokio::test]
async fn hostile_bodies_are_refused_in_a_short_answer_and_leave_no_memory_behind() {
    let replica = ReplicaProcess::start(&["--workers=1", "--capacity=4"]).await;
    let mut before = 0;
    for round in 0..3 {
        for (name, path, content_type, body, status) in bodies() {
            let headers = [("content-type", content_type)];
            let sent = tokio::time::timeout(TIMEOUT, replica.send(Method::POST, path, &headers, body)).await;
            let (found, _, answer) = sent.unwrap_or_else(|_| panic!("{name}: no answer"));
            assert_eq!(found.as_u16(), status, "{name}: {answer}");
            assert!(answer.to_string().len() < 3000, "{name}: the answer repeats the body");
        }
        // In the first round, the allocator and the threads get their usual memory.
        if round == 0 {
            before = resident_mb(&replica);
        }
    }
    let after = resident_mb(&replica);
    assert!(after <= before + 20, "{before} MB before, {after} MB after the bodies");
    // The bodies were read and parsed without more memory than a few of them take. A decoded body of 20 MB is 15 MB.
    assert!(before < 100 + resident_mb_of_idle().await, "{before} MB");
}

/// The resident memory of a replica that has had no request, in MB.
async fn resident_mb_of_idle() -> u64 {
    let idle = ReplicaProcess::start(&["--workers=1", "--capacity=4"]).await;
    // The memory from loading is given back after readiness.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    resident_mb(&idle)
}
