//! Tests of `replica fetch` with real servers and real files.

mod server;

use crate::replica::ReplicaProcess;
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::process::{Pid, Signal, kill_process};
use server::{Answer, Server, answer, file, proxy, raw};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tar::{EntryType, Header};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_replica");

/// How a run has ended: its exit status, and what it has logged.
struct Ended {
    status: Option<i32>,
    log: String,
}

/// `replica fetch` with the arguments, without the variables of this process.
fn fetch(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("fetch").args(arguments).env_clear();
    command
}

fn ended(command: &mut Command) -> Ended {
    let output = command.output().expect("it starts");
    Ended { status: output.status.code(), log: String::from_utf8_lossy(&output.stderr).into_owned() }
}

/// Fetches `sources` into `to`.
fn fetched(to: &Path, sources: &[&str]) -> Ended {
    ended(&mut fetch(&[&["--to", to.to_str().expect("text")], sources].concat()))
}

impl Ended {
    #[track_caller]
    fn succeeds(&self) {
        assert_eq!(self.status, Some(0), "{}", self.log);
    }

    /// Checks that the run has failed with one line that has all the texts.
    #[track_caller]
    fn fails(&self, texts: &[&str]) {
        let errors: Vec<&str> = self.log.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!((self.status, errors.len()), (Some(1), 1), "{}", self.log);
        assert_eq!(self.log.lines().last(), Some(errors[0]), "the message has one line");
        for text in texts {
            assert!(errors[0].contains(text), "expected {text:?}: {}", errors[0]);
        }
        assert!(!self.log.contains("panicked"), "{}", self.log);
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The URL of a file with these bytes.
fn url(server: &Server, path: &str, bytes: &[u8]) -> String {
    format!("http://{}/{path}#sha256={}", server.address, hash(bytes))
}

/// The paths, the contents and the permissions of everything in `folder`.
fn contents(folder: &Path) -> Vec<(String, String, u32)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let mode = fs::symlink_metadata(&path).expect("there").permissions().mode() & 0o777;
        if path.is_dir() {
            all.push((format!("{name}/"), String::new(), mode));
            all.extend(contents(&path).into_iter().map(|(inner, text, mode)| (format!("{name}/{inner}"), text, mode)));
        } else {
            all.push((name, fs::read_to_string(&path).expect("text"), mode));
        }
    }
    all.sort();
    all
}

fn expected(entries: &[(&str, &str)]) -> Vec<(String, String, u32)> {
    let mode = |name: &str| if name.ends_with('/') { 0o755 } else { 0o644 };
    entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned(), mode(name))).collect()
}

/// An entry of an archive with any name and kind. The library would not write hostile ones.
fn entry(name: &[u8], kind: EntryType, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(data.len() as u64);
    header.set_mode(0o600);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), data].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn regular(name: &str, text: &str) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, text.as_bytes())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

/// A record of a POSIX extended header: its length, which counts itself, the key and the value.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).expect("there is one");
    format!("{length}{rest}").into_bytes()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn a_fetched_model_is_served() {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shapes.safetensors");
    let weights = fs::read(bundled).expect("the bundled model");
    let served = weights.clone();
    let server = Server::http(move |_| file(&served));
    let to = folder();
    let ended = fetched(to.path(), &[&url(&server, "a/shapes.safetensors", &weights)]);
    ended.succeeds();
    assert!(ended.log.contains("and the SHA-256 is right"), "{}", ended.log);
    let replica = ReplicaProcess::start(&["--model", to.path().to_str().expect("text")]).await;
    let (_, metrics) = replica.get_text("/metrics").await;
    assert!(metrics.contains(&format!("version=\"{}\"", &hash(&weights)[..12])), "{metrics}");
}

#[test]
fn files_and_archives_are_put_in_place_for_every_user() {
    let (weights, labels) = (b"weights", b"cat\ndog\n");
    let long = format!("model/onnx/{}.txt", "n".repeat(120));
    let long_name = entry(b"././@LongLink", EntryType::GNULongName, format!("{long}\0").as_bytes());
    let posix_name = entry(b"x", EntryType::XHeader, &record("path", "model/größe.json"));
    let packed = gzip(&archive(&[
        entry(b"pax", EntryType::XGlobalHeader, &record("comment", "x")),
        entry(b"./model/", EntryType::Directory, b""),
        regular("./model/config.json", "{}"),
        regular("model/._config.json", "of a Mac"),
        long_name,
        regular("cut off", "long"),
        posix_name,
        regular("other", "posix"),
    ]));
    let served = packed.clone();
    let server = Server::http(move |head| match head.split(' ').nth(1) {
        Some("/weights.pth?sig=secret%2F1") => file(weights),
        Some("/labels.txt") => file(labels),
        // The name of an archive does not matter.
        Some("/latest") => file(&served),
        _ => answer("404 Not Found", "", b""),
    });
    let to = folder();
    let directory = to.path().join("model");
    fs::create_dir(&directory).expect("a folder");
    for (name, text) in [("weights.pth", "old"), ("kept", "kept")] {
        fs::write(directory.join(name), text).expect("written");
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o644)).expect("changed");
    }
    let sources = [
        url(&server, "weights.pth?sig=secret%2F1", weights),
        url(&server, "labels.txt", labels),
        url(&server, "latest", &packed),
    ];
    let files = expected(&[
        ("config.json", "{}"),
        ("größe.json", "posix"),
        ("kept", "kept"),
        ("labels.txt", "cat\ndog\n"),
        ("onnx/", ""),
        (&long["model/".len()..], "long"),
        ("weights.pth", "weights"),
    ]);
    // The second run finds all files in place, and has its sources from the environment.
    for run in 0..2 {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077; exec \"$0\" fetch \"$@\"", PROGRAM]).env_clear();
        let ended = match run {
            0 => ended(command.args(["--to", directory.to_str().expect("text")]).args(&sources)),
            _ => ended(
                command
                    .env("ROUNDHOUSE_FETCH_TO", &directory)
                    .env("ROUNDHOUSE_FETCH", format!("\n {}\n\t{}  {}\n", sources[0], sources[1], sources[2])),
            ),
        };
        ended.succeeds();
        assert_eq!(contents(&directory), files, "run {run}");
        assert!(!ended.log.contains("secret"), "{}", ended.log);
    }
}

#[test]
fn a_directory_that_is_made_is_open_to_every_user() {
    let server = Server::http(|_| file(b"a"));
    let to = folder();
    let directory = to.path().join("new");
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\" fetch \"$@\"", PROGRAM, "--to"]).env_clear();
    ended(command.arg(&directory).arg(url(&server, "a", b"a"))).succeeds();
    assert_eq!(contents(to.path()), expected(&[("new/", ""), ("new/a", "a")]));
    fetched(&to.path().join("missing/new"), &[&url(&server, "a", b"a")]).fails(&["make the folder that it is in"]);
    fs::write(to.path().join("file"), "").expect("written");
    fetched(&to.path().join("file"), &[&url(&server, "a", b"a")]).fails(&["file is no directory"]);
}

#[test]
fn hostile_archives_are_refused_and_nothing_is_written() {
    let other = regular("model/a", "a");
    let sparse = {
        let mut bytes = entry(b"sparse", EntryType::GNUSparse, b"");
        let header = Header::from_byte_slice(&bytes[..512]).clone();
        let mut header = header;
        let gnu = header.as_gnu_mut().expect("a GNU header");
        gnu.set_real_size(1 << 50);
        gnu.sparse[0].set_offset(1 << 50);
        gnu.sparse[0].set_length(0);
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        bytes
    };
    let link = |kind, target: &str| {
        let mut bytes = entry(b"model/link", kind, b"");
        bytes[157..157 + target.len()].copy_from_slice(target.as_bytes());
        let mut header = Header::from_byte_slice(&bytes[..512]).clone();
        header.set_cksum();
        bytes[..512].copy_from_slice(header.as_bytes());
        bytes
    };
    let posix =
        |key: &str, value: &str| [entry(b"x", EntryType::XHeader, &record(key, value)), regular("other", "x")].concat();
    let long_name = entry(b"././@LongLink", EntryType::GNULongName, &vec![b'a'; 3 << 20]);
    let many: Vec<Vec<u8>> = (0..10_001).map(|index| regular(&format!("m/{index}"), "")).collect();
    let noise: Vec<u8> = (0..10_000_u32).flat_map(|index| Sha256::digest(index.to_le_bytes())).collect();
    let noise = entry(b"model/noise", EntryType::Regular, &noise);
    let mut damaged = archive(&[other.clone(), regular("model/b", "b")]);
    damaged[1024 + 150] ^= 1;
    let whole = archive(&[other.clone(), regular("model/b", &"b".repeat(5000))]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (archive(&[other.clone(), regular("/etc/evil", "x")]), "\"/etc/evil\" is absolute"),
        (archive(&[other.clone(), regular("../evil", "x")]), "\"../evil\" contains '..'"),
        (archive(&[other.clone(), regular("model/../../evil", "x")]), "contains '..'"),
        (archive(&[other.clone(), posix("path", "../evil")]), "contains '..'"),
        (archive(&[other.clone(), posix("path", "/etc/evil")]), "is absolute"),
        (archive(&[other.clone(), link(EntryType::Symlink, "/etc")]), "\"model/link\" is a link; pack the file itself"),
        (archive(&[other.clone(), link(EntryType::Link, "model/a")]), "is a hard link"),
        (archive(&[other.clone(), entry(b"model/sda", EntryType::Block, b"")]), "is a device or another special file"),
        (archive(&[other.clone(), entry(b"model/tty", EntryType::Char, b"")]), "is a device"),
        (archive(&[other.clone(), entry(b"model/pipe", EntryType::Fifo, b"")]), "is a device"),
        (archive(&[other.clone(), sparse]), "is a sparse file"),
        (archive(&[other.clone(), posix("GNU.sparse.major", "1")]), "is a sparse file"),
        (archive(&[other.clone(), other.clone()]), "there are two entries model/a; pack each file once"),
        (archive(&[other.clone(), regular("model/a/b", "x")]), "model/a is both a file and a folder"),
        (archive(&[other.clone(), regular("model/a/../b", "x")]), "contains '..'"),
        (archive(&[other.clone(), entry(b"model/\xff", EntryType::Regular, b"x")]), "is not UTF-8"),
        (archive(&[other.clone(), regular("model/a\nb", "x")]), "contains a control character"),
        (archive(&[other.clone(), regular(&"d/".repeat(17), "x")]), "is too long"),
        (archive(&[other.clone(), long_name]), "the description of an entry has more than 1048576 bytes"),
        (archive(&many), "more than 10000 entries"),
        (archive(&[other.clone(), posix("size", "99999999999999")]), "more than 16.0 GiB; free"),
        (archive(&[entry(b"model/", EntryType::Directory, b""), regular(".hidden", "x")]), "the archive has no files"),
        (damaged, "the archive is damaged: archive header checksum mismatch; pack it again"),
        (
            gzip(&archive(&[other.clone(), noise]))[..150_000].to_vec(),
            "the archive is damaged: incomplete deflate stream",
        ),
        (whole[..whole.len() - 4096].to_vec(), "the archive is cut off"),
        (gzip(&whole)[..60].to_vec(), "its name ends with .gz"),
        (b"no archive".to_vec(), "its name ends with .gz, but it is no tar archive"),
        (vec![0; 10_240], "its name ends with .gz"),
        (Vec::new(), "its name ends with .gz"),
    ];
    let outer = folder();
    let to = outer.path().join("to");
    fs::create_dir(&to).expect("a folder");
    fs::write(to.join("a"), "old").expect("written");
    let before = contents(outer.path());
    for (index, (bytes, text)) in cases.into_iter().enumerate() {
        // What holds for an archive also holds for a compressed one.
        let bytes = if index % 2 == 0 { gzip(&bytes) } else { bytes };
        let served = bytes.clone();
        let server = Server::http(move |_| file(&served));
        let source = url(&server, "model.tar.gz", &bytes);
        fetched(&to, &[&source]).fails(&[&format!("fetch http://{}/model.tar.gz: ", server.address), text]);
        assert_eq!(contents(outer.path()), before, "{text}");
    }
}

#[test]
fn archives_that_unpack_to_too_much_are_refused() {
    let zeros = "\0".repeat(64 << 20);
    for name in ["model/zeros", "model/.hidden/zeros"] {
        let bomb = gzip(&archive(&[regular("model/a", "a"), regular(name, &zeros)]));
        assert!(bomb.len() < 1 << 20);
        let served = bomb.clone();
        let server = Server::http(move |_| file(&served));
        let to = folder();
        let source = url(&server, "bomb", &bomb);
        fetched(to.path(), &["--max-size=32MiB", &source]).fails(&["all files together have more than 32.0 MiB"]);
        assert_eq!(contents(to.path()), []);
        fetched(to.path(), &["--max-size=96MiB", &source]).succeeds();
    }
}

#[test]
fn failures_of_the_server_are_explained_and_leave_nothing() {
    let login = b"<!DOCTYPE html><title>Sign in</title>";
    let refusal = "<Error><Code>AccessDenied</Code>\n<Message>Request has expired</Message></Error>".repeat(9);
    let cases: Vec<(Answer, Vec<String>)> = vec![
        (
            answer("404 Not Found", "", b"no such key"),
            vec!["the server answered 404 Not Found: no such key; check the path of the URL".into()],
        ),
        (
            answer("403 Forbidden", "", refusal.as_bytes()),
            vec![
                "403 Forbidden: <Error><Code>AccessDenied</Code> <Message>Request has expired".into(),
                "has not expired".into(),
            ],
        ),
        (
            answer("500 Internal Server Error", "", b"\x1b[31m\0\xff"),
            vec!["500 Internal Server Error: [31m \u{fffd}; the server has a problem".into()],
        ),
        (answer("204 No Content", "", b""), vec!["answered 204 No Content; check the URL".into()]),
        (answer("304 Not Modified", "", b""), vec!["304".into()]),
        (answer("302 Found", "", b""), vec!["location header".into()]),
        (answer("302 Found", "Location: /weights.pth?sig=secret\r\n", b""), vec!["more than 10 redirects".into()]),
        (answer("302 Found", "Location: http://:/?sig=secret\r\n", b""), vec![]),
        (
            answer("200 OK", "Content-Type: text/html; charset=utf-8\r\n", login),
            vec![
                format!("the SHA-256 is {}, but {} was expected", hash(login), hash(b"weights")),
                "37 bytes with the Content-Type text/html; charset=utf-8".into(),
                "a login page".into(),
            ],
        ),
        (file(b"weighty"), vec![hash(b"weighty"), "application/octet-stream".into()]),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nweig"),
            vec!["the server ended the connection after 4 of 7 bytes".into()],
        ),
        (
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nweig\r\n"),
            vec!["the server ended the connection after 4 bytes".into()],
        ),
        (raw(b"HTTP/1.1 200 OK\r\n\r\nweig"), vec![hash(b"weig"), "Content-Type (none)".into()]),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), vec![]),
        (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), vec![]),
        (raw(b""), vec!["the server ended the connection".into()]),
        (raw(&[b"HTTP/1.1 200 OK\r\n", &b"X: y\r\n".repeat(100_000)[..]].concat()), vec![]),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 17179869185\r\n\r\n"),
            vec!["all files together have more than 16.0 GiB".into()],
        ),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n"), vec![]),
        (
            Answer { bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nweig".to_vec(), stalls: true },
            vec!["no byte arrived for 300ms (--stall-timeout) after 4 of 7 bytes".into()],
        ),
        (Answer { bytes: Vec::new(), stalls: true }, vec!["no byte arrived for 300ms (--stall-timeout)".into()]),
    ];
    for (index, (answer, texts)) in cases.into_iter().enumerate() {
        let server = Server::http(move |_| Answer { bytes: answer.bytes.clone(), stalls: answer.stalls });
        let to = folder();
        fs::write(to.path().join("weights.pth"), "old").expect("written");
        let before = contents(to.path());
        for (path, shown) in [("weights.pth", "weights.pth"), ("weights.pth?sig=secret", "weights.pth?…")] {
            let ended = fetched(to.path(), &["--stall-timeout=300ms", &url(&server, path, b"weights")]);
            ended.fails(&[&format!("error: fetch http://{}/{shown}: ", server.address)]);
            // With a signed URL, the answer of the server is not shown: it may repeat the signature.
            if path == shown {
                ended.fails(&texts.iter().map(String::as_str).collect::<Vec<_>>());
            }
            assert!(!ended.log.contains("secret"), "case {index}: {}", ended.log);
            assert!(ended.log.lines().last().expect("a line").len() < 900, "case {index}: {}", ended.log);
        }
        assert_eq!(contents(to.path()), before, "case {index}");
    }
}

#[test]
fn servers_that_cannot_be_reached_are_explained() {
    let to = folder();
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let source = |host: &str| format!("http://{host}/a?sig=secret#sha256={}", hash(b"a"));
    for (host, text) in [
        (free.to_string().as_str(), "the connection is refused; check the host and the port"),
        ("host.invalid", "the host cannot be found; check its name"),
    ] {
        let ended = fetched(to.path(), &[&source(host)]);
        ended.fails(&[&format!("fetch http://{host}/a?…: "), text]);
        assert!(!ended.log.contains("secret"), "{}", ended.log);
    }
    let server = Server::http(|_| Answer { bytes: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), stalls: true });
    fetched(to.path(), &["--timeout=300ms", &source(&server.address)]).fails(&["more than 300ms; raise --timeout"]);
    fetched(to.path(), &["https://host/a?sig=secret"]).fails(&["https://host/a?… has no hash; append #sha256=HEX"]);
    fetched(to.path(), &[" "]).fails(&["there is no source"]);
    assert_eq!(contents(to.path()), []);
}

#[test]
fn one_file_that_fails_keeps_all_others_out() {
    let server = Server::http(|head| if head.contains("/a ") { file(b"a") } else { file(b"other") });
    let to = folder();
    let (good, bad) = (url(&server, "a", b"a"), url(&server, "b", b"b"));
    fetched(to.path(), &[&good, &bad]).fails(&["/b: the SHA-256 is "]);
    assert_eq!(contents(to.path()), []);
    fetched(to.path(), &[&good, &good]).fails(&["two sources have a file a; leave one of them out"]);
    assert_eq!(contents(to.path()), []);
}

#[test]
fn the_authorization_stays_at_its_host() {
    let foreign = Server::http(|_| file(b"a"));
    // Another name of this machine is another host.
    let location = format!("Location: http://localhost:{}/cdn?sig=secret2\r\n", port(&foreign));
    let server = Server::http(move |head| match head.split(' ').nth(1) {
        Some("/first?x=1") => answer("302 Found", "Location: second?y=2\r\n", b""),
        Some("/second?y=2") => answer("307 Temporary Redirect", &location, b""),
        Some("/refused?sig=secret3") => answer("401 Unauthorized", "", head.as_bytes()),
        _ => file(b"b"),
    });
    let to = folder();
    let run = |path: &str| {
        let source = url(&server, path, b"a");
        ended(
            fetch(&["--to", to.path().to_str().expect("text"), &source])
                .env("ROUNDHOUSE_FETCH_AUTHORIZATION", "Bearer secret1\n"),
        )
    };
    let ended = run("first?x=1");
    ended.succeeds();
    assert!(ended.log.contains("127.0.0.1 gets the value of ROUNDHOUSE_FETCH_AUTHORIZATION without encryption"));
    assert_eq!(server.seen().matches("authorization: Bearer secret1\r\n").count(), 2, "{}", server.seen());
    assert!(
        !foreign.seen().contains("secret1") && foreign.seen().contains("GET /cdn?sig=secret2"),
        "{}",
        foreign.seen()
    );
    let refused = run("refused?sig=secret3");
    refused.fails(&["401 Unauthorized; check", "ROUNDHOUSE_FETCH_AUTHORIZATION"]);
    let mismatch = run("other");
    mismatch.fails(&["the SHA-256 is"]);
    for log in [&ended.log, &refused.log, &mismatch.log] {
        assert!(!log.contains("secret"), "{log}");
    }
}

fn port(server: &Server) -> &str {
    server.address.rsplit(':').next().expect("a port")
}

#[test]
fn certificates_are_checked_with_the_authorities_of_the_system() {
    let (server, authority) = Server::https("ours", |_| file(b"a"));
    let to = folder();
    let (pem, other) = (to.path().join("authority.pem"), to.path().join("other.pem"));
    fs::write(&pem, authority)
        .and_then(|()| fs::write(&other, Server::https("another", |_| file(b"")).1))
        .expect("written");
    let directory = to.path().join("model");
    let source = url(&server, "a", b"a").replace("http:", "https:");
    let run =
        |file: &Path| ended(fetch(&["--to", directory.to_str().expect("text"), &source]).env("SSL_CERT_FILE", file));
    run(&other).fails(&["the server cannot be trusted", "UnknownIssuer", "SSL_CERT_FILE"]);
    run(Path::new("/missing.pem")).fails(&["no certificates to check servers with", "/missing.pem", "SSL_CERT_FILE"]);
    assert!(!directory.exists());
    run(&pem).succeeds();
    assert_eq!(contents(&directory), expected(&[("a", "a")]));
    // A server without TLS at a URL with https.
    let plain = Server::http(|_| file(b"a"));
    let source = url(&plain, "a", b"a").replace("http:", "https:");
    ended(fetch(&["--to", directory.to_str().expect("text"), &source]).env("SSL_CERT_FILE", &pem))
        .fails(&["fetch https"]);
}

#[test]
fn proxies_of_the_environment_are_used() {
    let server = Server::http(|_| file(b"a"));
    let (proxy, asked) = proxy();
    let to = folder();
    let source = url(&server, "a", b"a");
    let run = |variables: &[(&str, &str)]| {
        let to = to.path().to_str().expect("text");
        ended(fetch(&["--to", to, &source]).envs(variables.iter().copied()))
    };
    let proxy = format!("http://user:secret@{proxy}");
    run(&[("HTTP_PROXY", &proxy), ("NO_PROXY", "10.0.0.1,127.0.0.1")]).succeeds();
    run(&[("HTTPS_PROXY", &proxy)]).succeeds();
    assert!(asked.lock().expect("no panic").is_empty());
    let ended = run(&[("http_proxy", &proxy), ("NO_PROXY", "10.0.0.1")]);
    ended.succeeds();
    assert_eq!(*asked.lock().expect("no panic"), [format!("CONNECT {} HTTP/1.1", server.address)]);
    assert!(!ended.log.contains("secret"), "{}", ended.log);
    run(&[("HTTP_PROXY", "socks5://user:secret@x")]).fails(&["HTTP_PROXY is no URL of an HTTP proxy"]);
    // The address of the server is no proxy, and refuses CONNECT.
    let refusing = Server::http(|_| answer("403 Forbidden", "", b""));
    run(&[("ALL_PROXY", &refusing.address)]).fails(&["the proxy refused the connection"]);
}

#[test]
fn folders_are_copied_without_what_is_no_file() {
    let outer = folder();
    let (source, to) = (outer.path().join("model"), outer.path().join("to"));
    fs::create_dir_all(source.join("onnx")).and_then(|()| fs::create_dir_all(source.join(".git"))).expect("folders");
    for (name, text) in [("..data", "real"), ("onnx/a.onnx", "onnx"), ("labels.txt", "cat"), (".git/config", "x")] {
        fs::write(source.join(name), text).expect("written");
    }
    fs::set_permissions(source.join("labels.txt"), fs::Permissions::from_mode(0o600)).expect("changed");
    symlink("..data", source.join("config.json")).and_then(|()| symlink(".", source.join("loop"))).expect("links");
    assert!(Command::new("mkfifo").arg(source.join("pipe")).status().expect("mkfifo").success());
    let path = source.to_str().expect("text");
    let ended = fetched(&to, &[path]);
    ended.succeeds();
    assert!(ended.log.contains("pipe is left out") && ended.log.contains("loop is left out"), "{}", ended.log);
    let files = [("config.json", "real"), ("labels.txt", "cat"), ("onnx/", ""), ("onnx/a.onnx", "onnx")];
    assert_eq!(contents(&to), expected(&files));
    fetched(&to, &["--max-size=10B", path]).fails(&[&format!("copy {path}: "), "more than 10 B"]);
    fetched(&source.join("onnx"), &[path]).fails(&["would be copied into itself"]);
    fetched(&source, &[path]).fails(&["would be copied into itself"]);
    fetched(&to, &["/missing"]).fails(&["copy /missing: read /missing; is the model in this container image"]);
    fetched(&to, &[source.join("labels.txt").to_str().expect("text")]).fails(&["labels.txt is no folder"]);
    fetched(&to, &[source.join(".git").to_str().expect("text")]).succeeds();
    fs::remove_file(source.join(".git/config")).expect("removed");
    fetched(&to, &[source.join(".git").to_str().expect("text")]).fails(&["has no files"]);
    symlink("nothing", source.join("dangling")).expect("a link");
    fetched(&to, &[path]).fails(&["dangling"]);
}

#[test]
fn a_signal_ends_a_run_that_waits_and_its_files_are_removed() {
    let server =
        Server::http(|_| Answer { bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nweig".to_vec(), stalls: true });
    let to = folder();
    let source = url(&server, "weights.pth", b"weights");
    let mut child =
        fetch(&["--to", to.path().to_str().expect("text"), &source]).stderr(Stdio::piped()).spawn().expect("it starts");
    // All that the server has sent is written, so the run waits for more.
    let part = || contents(to.path()).into_iter().find(|(name, ..)| name.ends_with("/download"));
    while part().is_none_or(|(_, text, _)| text != "weig") {
        std::thread::sleep(Duration::from_millis(1));
    }
    let signalled = Instant::now();
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    let mut log = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut log).expect("text");
    let status = child.wait().expect("it ends").code();
    // After 30 s, --stall-timeout would end it as well.
    assert!(signalled.elapsed() < Duration::from_secs(20), "{:?}", signalled.elapsed());
    Ended { status, log }.fails(&["fetch http://", "stopped by SIGTERM"]);
    assert_eq!(contents(to.path()), []);
}

/// Runs a fetch into a file system of `options` in a mount namespace of its own. Returns the names that are there
/// afterwards. `None` if this machine permits no such namespace.
fn mounted(options: &str, sources: &[&str]) -> Option<(Ended, String)> {
    let permitted = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).status();
    if !permitted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare -rm mount is not permitted here; run the test where user namespaces are");
        return None;
    }
    let script = "mount -t tmpfs -o $0 none /mnt || exit 9; \"$@\"; status=$?; ls -A /mnt; exit $status";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, options, PROGRAM, "fetch", "--to", "/mnt"]).args(sources);
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    let output = command.output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((Ended { status: output.status.code(), log: text(&output.stderr) }, text(&output.stdout)))
}

#[test]
fn a_directory_that_is_full_or_read_only_is_explained() {
    let large = vec![7; 300_000];
    let packed = archive(&[entry(b"model/a", EntryType::Regular, &large)]);
    let served = packed.clone();
    let server = Server::http(move |_| file(&served));
    let (plain, other) = (url(&server, "archive", &packed), folder());
    fs::write(other.path().join("a"), large).expect("written");
    let copied = other.path().to_str().expect("text");
    for (options, source, texts) in [
        // Too small for the archive, for the archive and its file, and for a copied file.
        ("size=200k", plain.as_str(), ["No space left on device", "make the volume larger"]),
        ("size=500k", plain.as_str(), ["No space left on device", "make the volume larger"]),
        ("size=200k", copied, ["No space left on device", "make the volume larger"]),
        ("ro", copied, ["Read-only file system", "may write (securityContext.fsGroup)"]),
        ("ro", plain.as_str(), ["write /mnt: ", "may write (securityContext.fsGroup)"]),
    ] {
        let Some((ended, names)) = mounted(options, &[source]) else { return };
        ended.fails(&texts);
        assert_eq!(names, "", "{options}, {source}");
    }
    let Some((ended, names)) = mounted("size=2m", &[&plain]) else { return };
    ended.succeeds();
    assert_eq!(names, "a\n");
}
