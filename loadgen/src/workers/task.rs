//! The task of a worker: the flags of the run, the worker's part, and the bodies of the requests. Does no I/O.
//!
//! On the wire, the first line is the task as JSON. The bodies of the requests follow it, one after another.

use crate::config::{Cli, Command, RunArgs};
use crate::part::Part;
use crate::payload::Payload;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use hyper::header::HeaderValue;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use workload::{MAX_SECONDS, Workload};

/// Longest first line, in bytes. The longest workload has 12 MB, and 100,000 payloads have 20 MB.
const MAX_HEAD_BYTES: usize = 64 << 20;

/// Largest length of all bodies together, in bytes.
const MAX_BODIES_BYTES: usize = 512 << 20;

/// Longest task with its bodies, in bytes.
pub const MAX_BYTES: usize = MAX_HEAD_BYTES + MAX_BODIES_BYTES;

/// Largest number of payloads.
const MAX_PAYLOADS: usize = 1_000_000;

/// Longest prefix of request ids, in bytes.
const MAX_PREFIX_BYTES: usize = 32;

/// The task of a worker, without the bodies of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Version of the coordinator's loadgen. Flags may have another meaning in another version.
    pub version: String,
    /// The command line of the coordinator. The worker uses the target, the load, the objective and the connections.
    pub arguments: Vec<String>,
    /// The worker's part of the load.
    pub part: Part,
    /// The prefix of the requests' ids; `None` if a flag gives the id.
    pub request_ids: Option<String>,
    /// The requests of each second, as the bits of f64 numbers: text could change the last digit, and with it the
    /// schedule. `None` for a closed load.
    pub workload: Option<Vec<u64>>,
    /// The payloads, in the order of their bodies.
    pub payloads: Vec<PayloadHead>,
}

/// A payload without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayloadHead {
    /// The name of the image.
    pub name: String,
    /// The image's label; `None` if it is not known.
    pub label: Option<String>,
    /// Value of the header `Content-Type`.
    pub content_type: String,
    /// Value of the header `Inference-Header-Content-Length`; `None` if no binary tensor follows JSON in the body.
    pub json_length: Option<u64>,
    /// Length of the body, in bytes.
    pub length: usize,
}

/// A task that was read and checked.
#[derive(Debug)]
pub struct ReceivedTask {
    /// The flags of the run.
    pub args: Box<RunArgs>,
    /// The worker's part of the load.
    pub part: Part,
    /// The prefix of the requests' ids; `None` if a flag gives the id.
    pub request_ids: Option<String>,
    /// The workload; `None` for a closed load.
    pub workload: Option<Workload>,
    /// The bodies of the requests; at least one.
    pub payloads: Vec<Payload>,
}

impl Task {
    /// The task of `part`.
    ///
    /// # Errors
    /// If an argument is not UTF-8, or the payloads are too many or too long.
    pub fn new(
        arguments: &[OsString],
        part: Part,
        request_ids: Option<String>,
        workload: Option<&Workload>,
        payloads: &[Payload],
    ) -> Result<Self> {
        let argument = |argument: &OsString| {
            let text = argument.to_str().map(str::to_owned);
            text.with_context(|| format!("{} is not UTF-8; --workers needs arguments in UTF-8", argument.display()))
        };
        let bytes: usize = payloads.iter().map(|payload| payload.body.len()).sum();
        ensure!(
            bytes <= MAX_BODIES_BYTES && payloads.len() <= MAX_PAYLOADS,
            "the bodies of all requests have {} MB, and workers take {} MB at most; use fewer or smaller images",
            bytes.div_ceil(1_000_000),
            MAX_BODIES_BYTES / 1_000_000
        );
        let head = |payload: &Payload| PayloadHead {
            name: payload.name.clone(),
            label: payload.label.clone(),
            content_type: String::from_utf8_lossy(payload.content_type.as_bytes()).into_owned(),
            json_length: payload.json_length.as_ref().and_then(|length| length.to_str().ok()?.parse().ok()),
            length: payload.body.len(),
        };
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            arguments: arguments.iter().map(argument).collect::<Result<_>>()?,
            part,
            request_ids,
            workload: workload.map(|workload| workload.per_second.iter().map(|rate| rate.to_bits()).collect()),
            payloads: payloads.iter().map(head).collect(),
        })
    }

    /// The first line of the task on the wire, with its end.
    pub fn head(&self) -> Bytes {
        let mut head = serde_json::to_vec(self).expect("a task has no map");
        head.push(b'\n');
        head.into()
    }
}

impl ReceivedTask {
    /// Reads a task and its bodies from `bytes`. The bodies share the memory of `bytes`.
    ///
    /// # Errors
    /// If the task is malformed, of another version, or beyond a limit; the message says what is wrong.
    pub fn read(bytes: &Bytes) -> Result<Self> {
        let end = bytes.iter().take(MAX_HEAD_BYTES).position(|&byte| byte == b'\n');
        let end = end.context("the task has no first line of at most 64 MiB")?;
        let task: Task = serde_json::from_slice(&bytes[..end]).context("the first line of the task is malformed")?;
        let version = env!("CARGO_PKG_VERSION");
        ensure!(
            task.version == version,
            "the task is of loadgen {}, and this worker is loadgen {version}; use the same version",
            task.version.escape_debug()
        );
        let Part { index, count } = task.part;
        ensure!(index < count, "part {index} of {count} does not exist");
        if let Some(prefix) = &task.request_ids {
            let is_valid = prefix.len() <= MAX_PREFIX_BYTES && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric());
            ensure!(is_valid, "the prefix of the request ids must be {MAX_PREFIX_BYTES} letters and digits at most");
        }
        Ok(Self {
            args: run_args(&task.arguments)?,
            part: task.part,
            workload: task.workload.as_deref().map(workload).transpose()?,
            payloads: payloads(task.payloads, bytes.slice(end + 1..))?,
            request_ids: task.request_ids,
        })
    }
}

/// Parses the command line of the coordinator.
fn run_args(arguments: &[String]) -> Result<Box<RunArgs>> {
    let cli = Cli::read(arguments.iter().map(OsString::from)).context("the arguments of the task are wrong")?;
    match cli.command {
        Command::Run(args) if !args.find_capacity => Ok(args),
        _ => bail!("the arguments of the task are not those of a run"),
    }
}

fn workload(bits: &[u64]) -> Result<Workload> {
    ensure!(bits.len() <= MAX_SECONDS, "the workload has more than {MAX_SECONDS} seconds");
    let per_second: Vec<f64> = bits.iter().map(|&bits| f64::from_bits(bits)).collect();
    ensure!(per_second.iter().all(|rate| rate.is_finite() && *rate >= 0.0), "the workload has a rate below 0, or none");
    Ok(Workload { per_second })
}

/// The payloads whose bodies follow one another in `bodies`.
fn payloads(heads: Vec<PayloadHead>, mut bodies: Bytes) -> Result<Vec<Payload>> {
    ensure!((1..=MAX_PAYLOADS).contains(&heads.len()), "the task has no payload, or more than {MAX_PAYLOADS}");
    ensure!(bodies.len() <= MAX_BODIES_BYTES, "the bodies have more than {} MiB", MAX_BODIES_BYTES >> 20);
    let mut payloads = Vec::with_capacity(heads.len());
    for PayloadHead { name, label, content_type, json_length, length } in heads {
        ensure!(length <= bodies.len(), "the bodies are shorter than the task says");
        let content_type = HeaderValue::from_str(&content_type).context("a content type is not valid in HTTP")?;
        let json_length = json_length.map(HeaderValue::from);
        payloads.push(Payload { name, label, content_type, json_length, body: bodies.split_to(length) });
    }
    ensure!(bodies.is_empty(), "the bodies are longer than the task says");
    Ok(payloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(name: &str, body: &'static [u8]) -> Payload {
        Payload {
            name: name.into(),
            content_type: HeaderValue::from_static("image/png"),
            json_length: (name == "c").then(|| HeaderValue::from(5)),
            body: Bytes::from_static(body),
            label: (name == "b").then(|| "star".into()),
        }
    }

    fn task() -> (Task, Vec<Payload>) {
        let arguments = ["loadgen", "run", "--rate=5", "--duration=2s", "--workers=a:1,b:1"].map(OsString::from);
        let payloads = vec![payload("a", b"one\n"), payload("b", b""), payload("c", b"three")];
        let workload = Workload { per_second: vec![0.1 + 0.2, 5.0] };
        let part = Part { index: 1, count: 2 };
        (Task::new(&arguments, part, Some("00ab".into()), Some(&workload), &payloads).expect("fits"), payloads)
    }

    fn wire(task: &Task, bodies: &[u8]) -> Bytes {
        [&task.head()[..], bodies].concat().into()
    }

    #[test]
    fn a_task_arrives_as_it_was_sent() {
        let (task, payloads) = task();
        let received = ReceivedTask::read(&wire(&task, b"one\nthree")).expect("a task");
        assert_eq!((received.part, received.request_ids.as_deref()), (Part { index: 1, count: 2 }, Some("00ab")));
        assert_eq!(received.workload, Some(Workload { per_second: vec![0.1 + 0.2, 5.0] }));
        for (received, sent) in received.payloads.iter().zip(&payloads) {
            assert_eq!((&received.name, &received.label), (&sent.name, &sent.label));
            assert_eq!((&received.body, &received.content_type), (&sent.body, &sent.content_type));
            assert_eq!(received.json_length, sent.json_length);
        }
        assert_eq!((received.payloads.len(), received.args.load.rate), (3, Some(5.0)));
    }

    #[test]
    fn malformed_tasks_are_refused_with_their_reason() {
        let (good, _) = task();
        let change = |change: fn(&mut Task)| {
            let mut task = good.clone();
            change(&mut task);
            wire(&task, b"one\nthree")
        };
        for (bytes, words) in [
            (Bytes::new(), "no first line"),
            (Bytes::from_static(b"{\n"), "malformed"),
            (Bytes::from_static(b"\xff\n"), "malformed"),
            (wire(&good, b"one\nthre"), "shorter"),
            (wire(&good, b"one\nthree!"), "longer"),
            (change(|task| task.version = "0.0.0".into()), "use the same version"),
            (change(|task| task.part = Part { index: 2, count: 2 }), "part 2 of 2"),
            (change(|task| task.part = Part { index: 0, count: 0 }), "part 0 of 0"),
            (change(|task| task.request_ids = Some("a\r\nb: c".into())), "prefix"),
            (change(|task| task.arguments.push("--no-such-flag".into())), "--no-such-flag"),
            (change(|task| task.arguments = vec!["loadgen".into(), "schema".into()]), "not those of a run"),
            (change(|task| task.workload = Some(vec![f64::NAN.to_bits()])), "rate below 0"),
            (change(|task| task.payloads.clear()), "no payload"),
            (change(|task| task.payloads[0].content_type = "a\nb".into()), "content type"),
            (change(|task| task.payloads[0].length = usize::MAX), "shorter"),
        ] {
            let error = format!("{:#}", ReceivedTask::read(&bytes).expect_err("refused"));
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn too_many_images_for_workers_are_refused_before_the_run() {
        let body = Bytes::from(vec![0; MAX_BODIES_BYTES / 2 + 1]);
        let payloads = [Payload { body: body.clone(), ..payload("a", b"") }, Payload { body, ..payload("b", b"") }];
        let error = Task::new(&[], Part::WHOLE, None, None, &payloads).expect_err("refused").to_string();
        assert!(error.contains("536 MB at most"), "{error}");
    }
}
