//! Faults of dispatchers: metrics that are missing, frozen, reset or impossible.

use crate::control_plane::{ControlPlane, control_plane, report, wait_for};
use crate::fake_dispatcher::{Behavior, FakeDispatcher, with_value};
use crate::program::Scaler;
use crate::test_deployment::{LESS_LOAD, LOAD, MORE_LOAD, REPLICAS, TestDeployment};
use crate::{FAULT, run_concurrently};
use service::wire::metric;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The reaction that the scaler must show to a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// The scaler has no reading while the fault lasts, and holds the replicas.
    NoReading,
    /// Some readings fail and some succeed. The scaler holds the replicas.
    SomeReadings,
    /// The readings go on, and the desired replicas do not change.
    Unmoved,
    /// The readings go on without the first dispatcher. They remove no replicas, and the load of the other dispatcher
    /// adds some.
    Partial,
    /// The readings go on, and the explanations name the fault.
    Noted,
}

/// A fault, and the reaction that it must cause.
struct FaultCase {
    /// The fault's name, which is also the name of its namespace.
    name: &'static str,
    /// The number of dispatchers, which share the load.
    dispatchers: usize,
    /// Starts the fault at the first dispatcher.
    begin: fn(&FakeDispatcher),
    /// Words that the explanation must contain, or with [`Reaction::Unmoved`] a line of the log.
    words: &'static [&'static str],
    /// The reaction that the fault must cause.
    reaction: Reaction,
}

/// A fault of a single dispatcher, which must leave the scaler without a reading.
const fn no_reading(name: &'static str, begin: fn(&FakeDispatcher), words: &'static [&'static str]) -> FaultCase {
    FaultCase { name, dispatchers: 1, begin, words, reaction: Reaction::NoReading }
}

/// The beginning of a TLS record and other bytes that are no HTTP response.
const NO_HTTP: &[u8] = b"\x16\x03\x01\x00\xff\xfe\x00binary\r\n\r\n";

/// Dispatchers that cannot be reached, do not answer, or answer no metrics.
fn connection_faults() -> Vec<FaultCase> {
    vec![
        no_reading(
            "refused",
            |fake| fake.set_behavior(Behavior::Refuses),
            &["connect to", "refused", "is the dispatcher running"],
        ),
        no_reading("hung", |fake| fake.set_behavior(Behavior::Hangs), &["did not answer within 1s"]),
        no_reading("dripping", |fake| fake.set_behavior(Behavior::Drips), &["did not answer within 1s"]),
        no_reading("error-500", |fake| fake.set_behavior(Behavior::Status(500)), &["answers 500", "on /metrics"]),
        no_reading(
            "error-404",
            |fake| fake.set_behavior(Behavior::Status(404)),
            &["answers 404", "give the address that serves"],
        ),
        no_reading(
            "empty",
            |fake| fake.set_behavior(Behavior::rewritten(|_| Vec::new())),
            &["dispatcher_queue_length is missing"],
        ),
        no_reading("cut", |fake| fake.set_behavior(Behavior::Cut), &["is the dispatcher running there?"]),
        FaultCase {
            dispatchers: 2,
            reaction: Reaction::Partial,
            ..no_reading(
                "partial",
                |fake| fake.set_behavior(Behavior::Refuses),
                &["1 of 2 dispatchers gave no usable figures", "refused"],
            )
        },
        FaultCase {
            reaction: Reaction::SomeReadings,
            ..no_reading("flapping", |fake| fake.set_behavior(Behavior::Flaps), &["answers 500"])
        },
        no_reading(
            "no-http",
            |fake| fake.set_behavior(Behavior::Raw(NO_HTTP.into())),
            &["is the dispatcher running there?"],
        ),
    ]
}

/// Metrics that are too long, or that are no text.
fn text_faults() -> Vec<FaultCase> {
    vec![
        no_reading(
            "flood",
            |fake| fake.set_behavior(Behavior::rewritten(|_| vec![b'#'; 100_000_000])),
            &["answered with more than 8388608 bytes"],
        ),
        no_reading(
            "many-lines",
            |fake| fake.set_behavior(Behavior::rewritten(many_lines)),
            &["lines of dispatcher metrics, more than 50000"],
        ),
        no_reading("long-line", |fake| fake.set_behavior(Behavior::rewritten(long_line)), &["is NaN"]),
        no_reading(
            "garbage",
            |fake| fake.set_behavior(Behavior::rewritten(|_| (0..=255).cycle().take(5000).collect())),
            &["/metrics is not text"],
        ),
    ]
}

/// Counters that stand still, restart or leap.
fn counter_faults() -> Vec<FaultCase> {
    vec![
        no_reading("frozen-busy", |fake| fake.freeze(busy), &["has changed for", "stuck"]),
        no_reading(
            "frozen-idle",
            |fake| fake.freeze(|text| with_value(&text, metric::IN_FLIGHT, "0")),
            &["has changed for", "stuck"],
        ),
        FaultCase { reaction: Reaction::Unmoved, ..no_reading("reset", FakeDispatcher::restart, &["started again"]) },
        FaultCase {
            reaction: Reaction::Unmoved,
            ..no_reading("leap", |fake| fake.leap(1_000_000_000_000), &["grew by", "left out"])
        },
    ]
}

/// Figures that cannot be true.
fn figure_faults() -> Vec<FaultCase> {
    vec![
        no_reading(
            "not-a-number",
            |fake| fake.set_behavior(Behavior::value("dispatcher_queue_length ", "NaN")),
            &["queue_length is NaN", "expected 0 to"],
        ),
        no_reading(
            "infinite",
            |fake| fake.set_behavior(Behavior::value("dispatcher_enqueued_requests_total ", "+Inf")),
            &["is inf"],
        ),
        no_reading("negative", |fake| fake.set_behavior(Behavior::value("dispatcher_in_flight{", "-3")), &["is -3.0"]),
        no_reading(
            "huge-number",
            |fake| fake.set_behavior(Behavior::value("dispatcher_upstream_duration_seconds_sum ", "1e300")),
            &["expected 0 to 9e15"],
        ),
        no_reading(
            "long-queue",
            |fake| fake.set_behavior(Behavior::value("dispatcher_queue_length ", "1000000000")),
            &["dispatcher_queue_length"],
        ),
        no_reading(
            "descending",
            |fake| fake.set_behavior(Behavior::value("dispatcher_upstream_duration_seconds_bucket{le=\"0.5\"}", "1")),
            &["bucket 0.5 counts 1"],
        ),
        no_reading(
            "miscounted",
            |fake| fake.set_behavior(Behavior::value("dispatcher_upstream_duration_seconds_count", "1")),
            &["its count is 1"],
        ),
        FaultCase {
            reaction: Reaction::Noted,
            ..no_reading(
                "contradictory",
                |fake| fake.set_behavior(Behavior::rewritten(contradictory)),
                &["no replica in rotation"],
            )
        },
    ]
}

/// Appends almost as many lines as fit into the largest body that the scaler reads, 8 MiB.
fn many_lines(text: String) -> Vec<u8> {
    let line = "dispatcher_queue_length 1\n";
    (text + &line.repeat((8 << 20) / line.len() - 1000)).into()
}

/// Appends a line with a label of 1 MiB, which no explanation may repeat in full.
fn long_line(text: String) -> Vec<u8> {
    format!("{text}dispatcher_in_flight{{replica=\"{}\"}} NaN\n", "x".repeat(1 << 20)).into()
}

/// The metrics of a dispatcher with a request in flight, without the uptime, which old versions do not export.
fn busy(text: String) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with(metric::UPTIME)).collect();
    with_value(&(lines.join("\n") + "\n"), metric::IN_FLIGHT, "1")
}

/// Metrics with a long queue, although no request is in flight and the capacity is zero.
fn contradictory(text: String) -> Vec<u8> {
    let text = with_value(&text, "dispatcher_queue_length ", "1000");
    let text = with_value(&text, "dispatcher_in_flight{", "0");
    with_value(&text, "dispatcher_capacity ", "0").into()
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_metrics_never_scale_down() {
    let Some(control_plane) = control_plane() else { return };
    let cases = [connection_faults(), text_faults(), counter_faults(), figure_faults()].into_iter().flatten();
    run_concurrently(cases.map(|case| check(control_plane.clone(), case))).await;
}

/// Runs one case: checks the reaction, and then that the scaler scales again.
async fn check(control_plane: Arc<ControlPlane>, case: FaultCase) {
    let FaultCase { name, words, reaction, .. } = case;
    let deployment = TestDeployment::new(&control_plane, name).await;
    let dispatchers: Vec<FakeDispatcher> =
        (0..case.dispatchers).map(|_| FakeDispatcher::start(LOAD / case.dispatchers as f64)).collect();
    let flags: Vec<String> = dispatchers.iter().map(|fake| format!("--dispatcher={}", fake.address)).collect();
    let mut scaler = Scaler::start(&deployment.kubeconfig(|_| {}), &deployment.flags(&flags)).await;
    scaler.wait_until_steady().await;
    let replicas = *deployment.replica_history().last().expect("the Deployment has replicas");

    let began = Instant::now();
    (case.begin)(&dispatchers[0]);
    let explanation = match reaction {
        Reaction::Unmoved => wait_for_log_line(&scaler, words).await,
        _ => scaler.wait_for_explanation(words).await,
    };
    assert!(explanation.len() < 2000, "{name}: the explanation has {} bytes", explanation.len());
    tokio::time::sleep(FAULT.saturating_sub(began.elapsed())).await;
    let during = deployment.replicas_since(began);
    assert!(during.iter().all(|later| *later >= replicas), "{name}: {during:?}");
    check_reaction(&scaler, &case, replicas, &during, began.elapsed()).await;
    if reaction == Reaction::Partial {
        dispatchers[1].set_load(MORE_LOAD);
        // More than one further replica may not seem worth its cost: the fake answers its whole load with any number of
        // replicas, so five of them seem to need 83 ms for a request and not 90 ms.
        deployment.wait_for_replicas(&scaler, "more replicas for one dispatcher", |now| now > replicas).await;
    }

    for dispatcher in &dispatchers {
        dispatcher.set_behavior(Behavior::Well);
        dispatcher.set_load(MORE_LOAD / case.dispatchers as f64);
    }
    deployment.wait_for_replicas(&scaler, "six replicas after the fault", |replicas| replicas >= 6).await;
    deployment.assert_never_scaled_down();
    scaler.assert_healthy();
    if name == "refused" {
        dispatchers[0].set_load(LESS_LOAD);
        scaler.wait_for("a decision to scale down", |latest| latest["action"] == "down").await;
        deployment
            .wait_for_replicas(&scaler, "fewer replicas for a smaller load", |replicas| replicas < REPLICAS)
            .await;
    }
    report(&format!("{name}: {explanation}; {during:?}"));
}

/// Waits until a line of the scaler's log contains all `words`. Returns the line.
async fn wait_for_log_line(scaler: &Scaler, words: &[&str]) -> String {
    wait_for(&format!("a line with {words:?} in the log"), async || {
        scaler.log().into_iter().find(|line| words.iter().all(|word| line.contains(word)))
    })
    .await
}

/// Checks the scaler's status, metrics and decisions while the fault lasts. `replicas` is the number of replicas before
/// the fault, and `during` has the numbers since its start.
async fn check_reaction(scaler: &Scaler, case: &FaultCase, replicas: i32, during: &[i32], lasted: Duration) {
    let FaultCase { name, words, reaction, .. } = *case;
    let age = scaler.metric("scaler_observation_age_seconds", &[]).await;
    let held = scaler.metric("scaler_decisions_total", &["action=\"hold\"", "reason=\"no_observation\""]).await;
    let explained = scaler.run_command(&["explain", "--all", "--last", "1000"]).await;
    let status = scaler.run_command(&["status"]).await;
    let decisions = scaler.decisions().await;
    let most = decisions.iter().filter_map(|decision| decision["wanted"].as_i64()).max();
    match reaction {
        Reaction::NoReading => {
            assert_eq!(during, [replicas], "{name}");
            for text in [&explained, &status] {
                assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
            }
            // The figures of a frozen dispatcher without an uptime are believed for 10 s.
            let least = lasted.as_secs_f64() - if name.starts_with("frozen") { 13.0 } else { 3.0 };
            assert!(age > least, "{name}: the last observation is {age} s old");
            assert!(held >= 5.0, "{name}: {held} decisions were held");
        }
        Reaction::SomeReadings => {
            assert_eq!(during, [replicas], "{name}");
            assert!(words.iter().all(|word| explained.contains(word)), "{name}: {explained}");
            assert!(
                held >= 5.0 && age < 5.0,
                "{name}: {held} decisions were held, the last observation is {age} s old"
            );
        }
        Reaction::Unmoved => {
            assert_eq!(during, [replicas], "{name}");
            assert!(age < 5.0, "{name}: the last observation is {age} s old");
            let rates = decisions.iter().filter_map(|decision| decision["workings"]["planned_per_second"].as_f64());
            let fastest = rates.fold(0.0, f64::max);
            assert!(fastest < 2.0 * LOAD && most <= Some(6), "{name}: {most:?} replicas for {fastest}/s");
        }
        Reaction::Partial => {
            assert_eq!(during, [replicas], "{name}");
            assert!(age < 5.0, "{name}: the last observation is {age} s old");
            for text in [&explained, &status] {
                assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
            }
            let warnings =
                scaler.log().iter().filter(|line| line.contains("replicas are added but not removed")).count();
            assert_eq!(warnings, 1, "{name}: {}", scaler.log().join("\n"));
        }
        Reaction::Noted => {
            assert!(age < 5.0, "{name}: the last observation is {age} s old");
            for text in [&explained, &status] {
                assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
            }
        }
    }
}
