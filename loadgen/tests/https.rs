//! Runs over https: which certificates are accepted, what an error at the start says, and whether requests are sent on
//! time.

mod common;

use common::server::{self, ANSWER, Identity, Reply, Settings};
use common::{FinishedRun, check_made, check_stall, program, run, stderr};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio_rustls::rustls::ServerConfig;

const LOAD: [&str; 2] = ["--rate=20", "--duration=1s"];

fn https(config: ServerConfig) -> (SocketAddr, Arc<server::Seen>) {
    server::start(Settings { tls: Some(config), ..Settings::default() }, |_, _| Reply::ok(ANSWER))
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("written");
    path
}

fn flag(name: &str, path: &std::path::Path) -> String {
    format!("--{name}={}", path.display())
}

/// The error of a run that cannot be made.
fn refused(flags: &[&str]) -> String {
    let output = program().args(["run", "--generate=3"]).args(LOAD).args(flags).output().expect("the program runs");
    let error = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{flags:?}: {error}");
    error
}

fn check_all_answered(run: &FinishedRun) {
    let summary = &run.report["summary"];
    check_made(&run.output);
    assert!(summary["offered"].as_u64() > Some(5), "{summary}");
    assert_eq!(summary["answered"], summary["offered"], "{summary}");
}

#[test]
fn a_trusted_server_answers_and_learns_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let identity = Identity::new();
    let ca = flag("ca", &write(&folder, "ca.pem", &identity.certificate));
    // The second server does not know ALPN.
    for protocols in [&["h2", "http/1.1"][..], &[]] {
        let (address, seen) = https(identity.server(None, protocols));
        let url = format!("--url=https://localhost:{}/predict", address.port());
        check_all_answered(&run(&[&LOAD[..], &[&url, &ca]].concat()));
        assert_eq!(seen.server_name.lock().expect("no thread panics").as_deref(), Some("localhost"));
        // Connections are used again. Each handshake would cost more than the request.
        assert!(seen.connections() < 10, "{} connections", seen.connections());
    }
    let (address, _) = https(identity.server(None, &[]));
    check_all_answered(&run(&[&LOAD[..], &[&format!("--url=https://{address}/predict"), &ca]].concat()));
    check_all_answered(&run(&[&LOAD[..], &[&format!("--url=https://{address}/predict"), "--insecure"]].concat()));
}

#[test]
fn a_server_may_have_the_very_certificate_of_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (identity, other) = (Identity::authority(), Identity::authority());
    let ca = flag("ca", &write(&folder, "ca.pem", &identity.certificate));
    let (address, _) = https(identity.server(None, &[]));
    check_all_answered(&run(&[&LOAD[..], &[&format!("--url=https://{address}/predict"), &ca]].concat()));
    let name = format!("--url=https://other.example:{}/", address.port());
    let resolve = format!("--resolve=other.example:{}:127.0.0.1", address.port());
    assert!(refused(&[&name, &resolve, &ca]).contains("another name"), "the name is checked");
    let (address, _) = https(other.server(None, &[]));
    assert!(refused(&[&format!("--url=https://{address}/predict"), &ca]).contains("--insecure"), "another certificate");
}

#[test]
fn resolve_sends_the_name_of_the_url_to_another_address() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let identity = Identity::of(&["model.example"]);
    let ca = flag("ca", &write(&folder, "ca.pem", &identity.certificate));
    let config = identity.server(None, &[]);
    let (address, seen) = server::start(Settings { tls: Some(config), ..Settings::default() }, |head, _| {
        let host = head.headers["host"].to_str().unwrap_or_default();
        assert!(host.starts_with("model.example:"), "{host}");
        Reply::ok(ANSWER)
    });
    let url = format!("--url=https://model.example:{}/predict", address.port());
    // Nothing listens at the first address, so each connection that tries it first goes on to the second.
    let resolve = format!("--resolve=model.example:{}:127.0.0.2,127.0.0.1", address.port());
    check_all_answered(&run(&[&LOAD[..], &[&url, &ca, &resolve]].concat()));
    assert_eq!(seen.server_name.lock().expect("no thread panics").as_deref(), Some("model.example"));
    let other = format!("--resolve=other.example:{}:127.0.0.1", address.port());
    assert!(refused(&[&url, &ca, &other]).contains("--resolve model.example:"), "another host");
}

#[test]
fn an_error_at_the_start_says_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (identity, other) = (Identity::new(), Identity::new());
    let ca = flag("ca", &write(&folder, "ca.pem", &identity.certificate));
    let other_ca = flag("ca", &write(&folder, "other.pem", &other.certificate));
    let (address, seen) = https(identity.server(None, &["http/1.1"]));
    let url = format!("--url=https://{address}/predict");
    let check = |flags: &[&str], words: &[&str]| {
        let error = refused(flags);
        assert!(words.iter().all(|word| error.contains(word)), "{flags:?}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    };
    check(&[&url], &["connect to", "--ca FILE", "--insecure"]);
    check(&[&url, &other_ca], &["--insecure"]);
    let resolve = format!("--resolve=other.example:{}:127.0.0.1", address.port());
    let other_name = format!("--url=https://other.example:{}/", address.port());
    check(&[&other_name, &resolve, &ca], &["another name", "localhost"]);
    check(&[&url, &ca, "--http2"], &["ALPN", "--http2"]);
    check(&[&url, &flag("ca", &folder.path().join("gone"))], &["--ca", "gone"]);
    check(&[&format!("--url=http://{address}/predict"), &ca], &["need https://"]);
    assert_eq!(seen.requests(), 0);

    let (plain, _) = server::start(Settings::default(), |_, _| Reply::ok(ANSWER));
    check(&[&format!("--url=https://{plain}/predict"), "--insecure"], &["http://"]);
    let closing = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let closed = closing.local_addr().expect("an address");
    std::thread::spawn(move || closing.incoming().for_each(drop));
    check(&[&format!("--url=https://{closed}/predict"), "--insecure"], &["connect to", "TLS"]);
}

#[test]
fn a_server_that_requires_a_certificate_gets_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (identity, client, stranger) = (Identity::new(), Identity::of(&["client"]), Identity::of(&["stranger"]));
    let (address, _) = https(identity.server(Some(&client), &["http/1.1"]));
    let url = format!("--url=https://{address}/predict");
    let pair = |name: &str, identity: &Identity| {
        [
            flag("client-cert", &write(&folder, &format!("{name}.pem"), &identity.certificate)),
            flag("client-key", &write(&folder, &format!("{name}.key"), &identity.key)),
        ]
    };
    let [certificate, key] = pair("client", &client);
    check_all_answered(&run(&[&LOAD[..], &[&url, "--insecure", &certificate, &key]].concat()));
    let without = refused(&[&url, "--insecure"]);
    assert!(without.contains("--client-cert and --client-key"), "{without}");
    let [certificate, key] = pair("stranger", &stranger);
    let wrong = refused(&[&url, "--insecure", &certificate, &key]);
    assert!(wrong.contains("refused the TLS handshake"), "{wrong}");
}

#[test]
fn a_handshake_that_does_not_end_is_a_failure_of_its_request_only() {
    // The server completes the handshake of the connection that loadgen tests, and of no other.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let identity = Identity::new();
    let config = Arc::new(identity.server(None, &[]));
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for (index, stream) in listener.incoming().flatten().enumerate() {
            if index == 0 {
                let mut stream = stream;
                let mut tls = tokio_rustls::rustls::ServerConnection::new(config.clone()).expect("a connection");
                while tls.is_handshaking() {
                    tls.complete_io(&mut stream).expect("loadgen speaks TLS");
                }
                let _flushed = stream.flush();
                open.push(stream);
            } else {
                open.push(stream);
            }
        }
    });
    let url = format!("--url=https://{address}/predict");
    let run = run(&["--rate=4", "--duration=1s", "--arrivals=uniform", "--timeout=20s", "--insecure", &url]);
    let summary = &run.report["summary"];
    assert_eq!(summary["errors"]["tls_handshake"], summary["offered"], "{summary}");
    for request in &run.requests {
        assert!((4.9..7.0).contains(&request.latency.as_secs_f64()), "{request:?}");
    }
}

#[test]
fn a_stalled_server_delays_every_request_that_is_scheduled_meanwhile_over_https() {
    for flags in [&[][..], &["--http2"]] {
        let length = Duration::from_secs(1);
        let count = AtomicUsize::new(0);
        let config = Identity::new().server(None, &["h2", "http/1.1"]);
        let (address, seen) = server::start(Settings { tls: Some(config), ..Settings::default() }, move |_, _| {
            if count.fetch_add(1, Ordering::Relaxed) == 100 {
                std::thread::sleep(length);
            }
            Reply::ok(ANSWER)
        });
        let url = format!("--url=https://{address}/predict");
        let load = ["--rate=100", "--duration=3s", "--arrivals=uniform", "--insecure"];
        let run = run(&[&load[..], &[&url], flags].concat());
        check_all_answered(&run);
        check_stall(&run, length);
        assert!(flags.is_empty() || seen.connections() <= 3, "{} connections", seen.connections());
    }
}
