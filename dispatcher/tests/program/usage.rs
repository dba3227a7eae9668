//! Tests of the memory and the processor time that the program uses. Only Linux tells them in files.

use crate::process::{Program, RunningDispatcher, WAIT_LIMIT, test_command};
use crate::protocols::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREDICT, PREFACE, SETTINGS, frame,
};
use crate::stub::{self, StubBehavior, StubReplica};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

// The types of frames of HTTP/2 that no other test sends (RFC 9113, section 6).
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

impl Program {
    /// The processor time that the program has used, in seconds. It is the sum of the fields 14 and 15 of
    /// `/proc/PID/stat`, which are in hundredths of a second (proc(5)).
    fn processor_seconds(&self) -> f64 {
        let process = self.child.id().expect("the program runs");
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("the program runs");
        let fields: Vec<&str> =
            stat.rsplit(')').next().expect("a split string has a last part").split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("the field is a number")).sum::<f64>() / 100.0
    }

    /// The value in KiB of a field of the program's `/proc/PID/status` (proc(5)).
    fn kibibytes(&self, field: &str) -> u64 {
        let process = self.child.id().expect("the program runs");
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the program runs");
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("the field exists");
        line.trim().strip_suffix(" kB").expect("the unit is KiB").parse().expect("the value is a number")
    }
}

#[tokio::test]
async fn an_idle_dispatcher_uses_no_processor_time() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let list = folder.path().join("replicas");
    std::fs::write(&list, "127.0.0.1:1").expect("the temporary folder is writable");
    let dispatcher = RunningDispatcher::start(&format!("file:{}", list.display()), &[]).await;
    let before = dispatcher.program.processor_seconds();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = dispatcher.program.processor_seconds() - before;
    // A watcher that was woken by its own reads of the file once used half of a core. A read each second uses a
    // thousandth of a core.
    assert!(used < 0.3, "{used} s of processor time in 3 idle seconds");
}

#[tokio::test]
async fn connections_that_have_sent_one_byte_use_no_processor_time() {
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let mut slow_clients = Vec::new();
    // By the letter P the server cannot decide between the preface of HTTP/2 and the method POST.
    for _ in 0..400 {
        let mut stream = dispatcher.program.connect().await;
        stream.write_all(b"P").await.expect("the connection is open");
        slow_clients.push(stream);
    }
    assert_eq!(dispatcher.post(&[]).await.status, 200);
    let before = dispatcher.program.processor_seconds();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = dispatcher.program.processor_seconds() - before;
    // A server that polled such connections every 5 ms used 0.25 s. An idle dispatcher uses 2 ms.
    assert!(used < 0.1, "{used} s of processor time in 2 idle seconds");
}

#[tokio::test]
async fn bytes_that_a_client_sends_ahead_stay_in_the_kernel() {
    const CLIENTS: usize = 100;
    const MAX_GROWTH_KIB: u64 = 8 << 10;
    let gate = Arc::new(Semaphore::new(0));
    let stub = StubReplica::start(StubBehavior::Gated(gate.clone())).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &["--deadline=60s"]).await;
    // A body of this length lets hyper reserve its largest buffer for the next read.
    let body = vec![7; 600_000];
    let head = format!("POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut streams = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = dispatcher.program.connect().await;
        stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("the connection is open");
        streams.push(stream);
    }
    dispatcher.until_waiting(CLIENTS as u64 - 1).await;
    let before = dispatcher.program.kibibytes("VmRSS");
    let ahead = head.replace("Content-Length", "X-Ahead").repeat(10_000);
    for stream in &streams {
        // The kernel takes what it has room for.
        stream.writable().await.expect("the connection is open");
        stream.try_write(ahead.as_bytes()).expect("the connection is open");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let growth = dispatcher.program.kibibytes("VmRSS").saturating_sub(before);
    assert!(growth <= MAX_GROWTH_KIB, "the resident memory grew by {growth} KiB");
    assert_eq!(dispatcher.get("/status").await.json["queue_length"], CLIENTS as u64 - 1);
}

/// The variables that give the program below the address of the dispatcher, and the protocol.
const ADDRESS: &str = "ROUNDHOUSE_TEST_ADDRESS";
const PROTOCOL: &str = "ROUNDHOUSE_TEST_PROTOCOL";

/// The protocols over which the next test sends heads without an end.
const PROTOCOLS: [&str; 2] = ["HTTP/1.1", "HTTP/2"];

/// A header with a value of 3000 bytes in HPACK (RFC 7541): a literal with a new name, both without Huffman's code.
fn long_header() -> Vec<u8> {
    // The length 3000 is 127 in the first byte, and 2873 in groups of seven bits, the lowest first.
    [&b"\x00\x04aaaa\x7f\xb9\x16"[..], &[b'b'; 3000]].concat()
}

/// The clients of the next test. They are a program of their own, because they need more open files than a test may
/// have. Each sends a head, a kilobyte at a time, as long as the dispatcher takes it.
#[tokio::test]
#[ignore = "the next test runs this one as a program"]
async fn clients_that_send_heads_without_an_end() {
    let (Ok(address), Ok(protocol)) = (std::env::var(ADDRESS), std::env::var(PROTOCOL)) else { return };
    let (first, line) = if protocol == PROTOCOLS[0] {
        let line = format!("X-{}: {}\r\n", "a".repeat(20), "b".repeat(1000));
        (b"GET / HTTP/1.1\r\n".to_vec(), line.into_bytes())
    } else {
        let first = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 0, 1, PREDICT)].concat();
        (first, frame(CONTINUATION, 0, 1, &long_header()))
    };
    let mut streams = Vec::new();
    for _ in 0..5000 {
        let mut stream = TcpStream::connect(&address).await.expect("the dispatcher listens");
        stream.write_all(&first).await.expect("the connection is open");
        streams.push(Some(stream));
    }
    println!("\n{} clients", streams.len());
    for _ in 0..60 {
        for stream in &mut streams {
            let sent = match stream {
                Some(open) => open.try_write(&line),
                None => continue,
            };
            if sent.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock) {
                *stream = None;
            }
            tokio::task::yield_now().await;
        }
    }
    println!("all heads are sent");
}

#[tokio::test]
async fn heads_without_an_end_take_little_memory_and_others_are_served() {
    for protocol in PROTOCOLS {
        check_heads_without_an_end(protocol).await;
    }
}

async fn check_heads_without_an_end(protocol: &str) {
    const MAX_GROWTH_KIB: u64 = 100 << 10;
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    for _ in 0..50 {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
    }
    let before = dispatcher.program.kibibytes("VmRSS");
    let name = "usage::clients_that_send_heads_without_an_end";
    let mut clients = test_command(name, "ulimit -n $(ulimit -H -n)", &[])
        .env(ADDRESS, &dispatcher.program.address)
        .env(PROTOCOL, protocol)
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell exists");
    let ended = async { clients.wait().await.expect("it is a child") };
    tokio::pin!(ended);
    let mut slowest = Duration::ZERO;
    let status = loop {
        let since = Instant::now();
        tokio::select! {
            status = &mut ended => break status,
            reply = dispatcher.post(&[]) => assert_eq!(reply.status, 200),
        }
        slowest = slowest.max(since.elapsed());
    };
    assert!(status.success(), "the clients failed");
    let growth = dispatcher.program.kibibytes("VmHWM").saturating_sub(before);
    println!("{protocol}: the resident memory grew by {growth} KiB; the slowest answer to others took {slowest:?}");
    assert!(growth <= MAX_GROWTH_KIB, "{protocol}: the resident memory grew by {growth} KiB");
}

/// Sends the frames of `round(0)` to `round(count - 1)` as fast as the server takes them. Stops early if the server
/// closes the connection. Returns the error code of the server's GOAWAY frame; `None` if the server sends no such
/// frame.
async fn flood(address: &str, count: u32, round: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let stream = TcpStream::connect(address).await.expect("the dispatcher listens");
    let (mut reader, mut writer) = stream.into_split();
    let reading = tokio::spawn(async move {
        let (mut head, mut payload) = ([0; 9], Vec::new());
        while reader.read_exact(&mut head).await.is_ok() {
            payload.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
            if reader.read_exact(&mut payload).await.is_err() {
                break;
            }
            if head[3] == GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().expect("the range has four bytes")));
            }
        }
        None
    });
    let preface = [PREFACE, &frame(SETTINGS, 0, 0, &[])[..]].concat();
    writer.write_all(&preface).await.expect("the connection is open");
    let writing = async {
        for number in 0..count {
            if writer.write_all(&round(number)).await.is_err() {
                return;
            }
        }
        // After the end of the client's data, the server closes the connection.
        writer.shutdown().await.ok();
    };
    tokio::time::timeout(WAIT_LIMIT, writing).await.ok();
    tokio::time::timeout(WAIT_LIMIT, reading).await.expect("the server closes").expect("the task does not panic")
}

#[tokio::test]
async fn a_flood_of_frames_harms_only_its_own_connection() {
    const MAX_GROWTH_KIB: u64 = 10 << 10;
    let stub = StubReplica::start(StubBehavior::Prompt).await;
    let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stub]), &[]).await;
    let open = |number: u32, flags: u8| frame(HEADERS, END_HEADERS | flags, 2 * number + 1, PREDICT);
    let cancel = |number: u32| frame(RST_STREAM, 0, 2 * number + 1, &8_u32.to_be_bytes());
    let filler = vec![0; 16 << 10];
    type Round<'a> = &'a (dyn Fn(u32) -> Vec<u8> + Sync);
    let floods: [(&str, u32, bool, Round<'_>); 6] = [
        ("resets of whole requests", 10_000, true, &|number| [open(number, END_STREAM), cancel(number)].concat()),
        ("resets of unfinished requests", 10_000, true, &|number| [open(number, 0), cancel(number)].concat()),
        // A flow-control window above 2³¹ − 1 is an error, to which the server answers with a reset of the stream
        // (CVE-2025-8671).
        ("provoked resets", 10_000, true, &|number| {
            [open(number, 0), frame(WINDOW_UPDATE, 0, 2 * number + 1, &0x7fff_ffff_u32.to_be_bytes())].concat()
        }),
        ("headers without an end", 5_000, true, &|number| match number {
            0 => frame(HEADERS, END_STREAM, 1, PREDICT),
            _ => frame(CONTINUATION, 0, 1, &filler),
        }),
        ("empty data", 100_000, false, &|number| match number {
            0 => open(0, 0),
            _ => frame(DATA, 0, 1, &[]),
        }),
        ("pings", 100_000, false, &|_| frame(PING, 0, 0, &[0; 8])),
    ];
    for _ in 0..50 {
        assert_eq!(dispatcher.post(&[]).await.status, 200);
    }
    for (name, count, is_ended, round) in floods {
        let before = dispatcher.program.kibibytes("VmRSS");
        let flood = flood(&dispatcher.program.address, count, round);
        tokio::pin!(flood);
        let goaway = loop {
            let reply = tokio::select! {
                goaway = &mut flood => break goaway,
                reply = dispatcher.post(&[]) => reply,
            };
            assert_eq!(reply.status, 200, "another client during {name}");
        };
        assert!(!is_ended || goaway.is_some(), "the server sends no GOAWAY to {name}");
        let growth = dispatcher.program.kibibytes("VmHWM").saturating_sub(before);
        assert!(growth <= MAX_GROWTH_KIB, "{name}: the resident memory grew by {growth} KiB");
        println!("{name}: GOAWAY {goaway:?}, resident memory grew by {growth} KiB");
        dispatcher.until_waiting(0).await;
        assert_eq!(dispatcher.post(&[]).await.status, 200, "after {name}");
    }
}
