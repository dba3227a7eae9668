//! Faults of dispatchers: metrics that are missing, frozen, reset or impossible.

use crate::control_plane::{ControlPlane, control_plane, say};
use crate::dispatcher::{Dispatcher, Manner, with_value};
use crate::program::Scaler;
use crate::scene::{LESS_LOAD, LOAD, MORE_LOAD, REPLICAS, Scene};
use crate::{FAULT, together};
use service::wire::metric;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The reaction that the scaler must show to a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The scaler has no reading while the fault lasts, and holds the replicas.
    Blind,
    /// Some readings fail and some succeed; the scaler holds the replicas.
    Dim,
    /// The readings go on, and the desired replicas do not change.
    Unmoved,
    /// The scaler adds replicas.
    Up,
}

/// One fault, and the reaction that it must cause.
struct Case {
    name: &'static str,
    dispatchers: usize,
    /// Starts the fault at the first dispatcher.
    begin: fn(&Dispatcher),
    /// Words that the explanation must contain; with [`Outcome::Unmoved`], a line of the log.
    words: &'static [&'static str],
    outcome: Outcome,
}

const fn blind(name: &'static str, begin: fn(&Dispatcher), words: &'static [&'static str]) -> Case {
    Case { name, dispatchers: 1, begin, words, outcome: Outcome::Blind }
}

const NO_HTTP: &[u8] = b"\x16\x03\x01\x00\xff\xfe\x00binary\r\n\r\n";

fn cases() -> Vec<Case> {
    vec![
        blind("refused", |it| it.behave(Manner::Refuses), &["connect to", "refused", "is the dispatcher running"]),
        blind("hung", |it| it.behave(Manner::Hangs), &["did not answer within 1s"]),
        blind("dripping", |it| it.behave(Manner::Drips), &["did not answer within 1s"]),
        blind("error-500", |it| it.behave(Manner::Status(500)), &["answers 500", "on /metrics"]),
        blind("error-404", |it| it.behave(Manner::Status(404)), &["answers 404", "give the address that serves"]),
        blind("empty", |it| it.behave(Manner::told(|_| Vec::new())), &["dispatcher_queue_length is missing"]),
        blind("cut", |it| it.behave(Manner::Cut), &["is the dispatcher running there?"]),
        Case {
            dispatchers: 2,
            ..blind(
                "partial",
                |it| it.behave(Manner::Refuses),
                &["1 of 2 dispatchers gave no usable figures", "refused"],
            )
        },
        Case { outcome: Outcome::Dim, ..blind("flapping", |it| it.behave(Manner::Flaps), &["answers 500"]) },
        blind("frozen-busy", |it| it.freeze(busy), &["has changed for", "stuck"]),
        blind(
            "frozen-idle",
            |it| it.freeze(|text| with_value(&text, metric::IN_FLIGHT, "0")),
            &["has changed for", "stuck"],
        ),
        Case { outcome: Outcome::Unmoved, ..blind("reset", Dispatcher::restart, &["started again"]) },
        Case { outcome: Outcome::Unmoved, ..blind("leap", |it| it.leap(1_000_000_000_000), &["grew by", "left out"]) },
        blind(
            "not-a-number",
            |it| it.behave(Manner::value("dispatcher_queue_length ", "NaN")),
            &["queue_length is NaN", "expected 0 to"],
        ),
        blind("infinite", |it| it.behave(Manner::value("dispatcher_enqueued_requests_total ", "+Inf")), &["is inf"]),
        blind("negative", |it| it.behave(Manner::value("dispatcher_in_flight{", "-3")), &["is -3.0"]),
        blind(
            "huge-number",
            |it| it.behave(Manner::value("dispatcher_upstream_duration_seconds_sum ", "1e300")),
            &["expected 0 to 9e15"],
        ),
        blind(
            "long-queue",
            |it| it.behave(Manner::value("dispatcher_queue_length ", "1000000000")),
            &["dispatcher_queue_length"],
        ),
        blind(
            "descending",
            |it| it.behave(Manner::value("dispatcher_upstream_duration_seconds_bucket{le=\"0.5\"}", "1")),
            &["bucket 0.5 counts 1"],
        ),
        blind(
            "miscounted",
            |it| it.behave(Manner::value("dispatcher_upstream_duration_seconds_count", "1")),
            &["its count is 1"],
        ),
        blind(
            "flood",
            |it| it.behave(Manner::told(|_| vec![b'#'; 100_000_000])),
            &["answered with more than 8388608 bytes"],
        ),
        blind(
            "many-lines",
            |it| it.behave(Manner::told(many_lines)),
            &["lines of dispatcher metrics, more than 50000"],
        ),
        blind("long-line", |it| it.behave(Manner::told(long_line)), &["is NaN"]),
        blind(
            "garbage",
            |it| it.behave(Manner::told(|_| (0..=255).cycle().take(5000).collect())),
            &["/metrics is not text"],
        ),
        blind("no-http", |it| it.behave(Manner::Raw(NO_HTTP.into())), &["is the dispatcher running there?"]),
        Case {
            outcome: Outcome::Up,
            ..blind(
                "contradictory",
                |it| it.behave(Manner::told(contradictory)),
                &["requests wait", "no replica in rotation"],
            )
        },
    ]
}

/// Appends almost as many lines as fit the largest body that the scaler reads, 8 MiB.
fn many_lines(text: String) -> Vec<u8> {
    let line = "dispatcher_queue_length 1\n";
    (text + &line.repeat((8 << 20) / line.len() - 1000)).into()
}

/// Appends a line with a label of 1 MiB, which no remembered explanation may repeat in full.
fn long_line(text: String) -> Vec<u8> {
    format!("{text}dispatcher_in_flight{{replica=\"{}\"}} NaN\n", "x".repeat(1 << 20)).into()
}

/// The metrics of a busy dispatcher of an older version, which had no uptime metric.
fn busy(text: String) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(metric::UPTIME)).collect();
    with_value(&(lines.join("\n") + "\n"), metric::IN_FLIGHT, "1")
}

/// A long queue although no request is in flight and the capacity is zero.
fn contradictory(text: String) -> Vec<u8> {
    let text = with_value(&text, "dispatcher_queue_length ", "1000");
    let text = with_value(&text, "dispatcher_in_flight{", "0");
    with_value(&text, "dispatcher_capacity ", "0").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_metrics_never_scale_down() {
    let Some(control_plane) = control_plane() else { return };
    together(cases().into_iter().map(|case| check(control_plane.clone(), case))).await;
}

async fn check(control_plane: Arc<ControlPlane>, case: Case) {
    let Case { name, words, outcome, .. } = case;
    let scene = Scene::new(&control_plane, name).await;
    let dispatchers: Vec<Dispatcher> =
        (0..case.dispatchers).map(|_| Dispatcher::start(LOAD / case.dispatchers as f64)).collect();
    let flags: Vec<String> = dispatchers.iter().map(|it| format!("--dispatcher={}", it.address)).collect();
    let mut scaler = Scaler::start(&scene.kubeconfig(|_| {}), &scene.flags(&flags)).await;
    scaler.until_steady().await;
    let asked = *scene.asked().last().expect("a number");

    let began = Instant::now();
    (case.begin)(&dispatchers[0]);
    let said = match outcome {
        Outcome::Unmoved => said_in_passing(&scaler, words).await,
        Outcome::Blind | Outcome::Dim | Outcome::Up => scaler.until_said(words).await,
    };
    assert!(said.len() < 2000, "{name}: {} bytes", said.len());
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    let during = scene.asked_since(began);
    assert!(during.iter().all(|replicas| *replicas >= asked), "{name}: {during:?}");
    judge(&scaler, &case, asked, &during, began.elapsed()).await;

    for dispatcher in &dispatchers {
        dispatcher.behave(Manner::Well);
        dispatcher.load(MORE_LOAD / case.dispatchers as f64);
    }
    scene.until_asked(&scaler, "more, when all is well again", |replicas| replicas >= 6).await;
    scene.never_went_down();
    scaler.is_well();
    if name == "refused" {
        dispatchers[0].load(LESS_LOAD);
        let patience = Duration::from_secs(60);
        scaler.until_within(patience, "fewer", |latest| latest["action"] == "down").await;
        scene.until_asked(&scaler, "fewer, when fewer arrive", |replicas| replicas < REPLICAS).await;
    }
    say(&format!("{name}: {said}; {during:?}"));
}

/// Waits for the line of the scaler's log that contains all `words`.
async fn said_in_passing(scaler: &Scaler, words: &[&str]) -> String {
    crate::control_plane::eventually(&format!("{words:?} in the log"), async || {
        scaler.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
    })
    .await
}

/// Checks the scaler's status, metrics and decisions while the fault lasts.
async fn judge(scaler: &Scaler, case: &Case, asked: i32, during: &[i32], lasted: Duration) {
    let Case { name, words, outcome, .. } = *case;
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    let held = scaler.metric("scaler_decisions_total", &["action=\"hold\"", "reason=\"no_observation\""]).await;
    let explained = scaler.ask(&["explain", "--all", "--last", "1000"]).await;
    let status = scaler.ask(&["status"]).await;
    let decisions = scaler.decisions().await;
    let most = decisions.iter().filter_map(|decision| decision["wanted"].as_i64()).max();
    match outcome {
        Outcome::Blind => {
            assert_eq!(during, [asked], "{name}");
            for text in [&explained, &status] {
                assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
            }
            // A frozen dispatcher is believed until nothing has changed for 10 s.
            let least = lasted.as_secs_f64() - if name.starts_with("frozen") { 13.0 } else { 3.0 };
            assert!(age > least, "{name}: {age}");
            assert!(held >= 5.0, "{name}: {held}");
        }
        Outcome::Dim => {
            assert_eq!(during, [asked], "{name}");
            assert!(words.iter().all(|word| explained.contains(word)), "{name}: {explained}");
            assert!(held >= 5.0 && age < 5.0, "{name}: {held} {age}");
        }
        Outcome::Unmoved => {
            assert_eq!(during, [asked], "{name}");
            assert!(age < 5.0, "{name}: {age}");
            let rates = decisions.iter().filter_map(|decision| decision["workings"]["planned_per_second"].as_f64());
            let fastest = rates.fold(0.0, f64::max);
            assert!(fastest < 2.0 * LOAD && most <= Some(6), "{name}: {fastest}/s, {most:?} wanted");
        }
        Outcome::Up => {
            assert!(age < 5.0, "{name}: {age}");
            for text in [&explained, &status] {
                assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
            }
        }
    }
}
