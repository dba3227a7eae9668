//! Tests of `--hedge`: a request at a slow replica gets a second one.

use crate::process::RunningDispatcher;
use crate::steady::on_steady_machine;
use crate::stub::{self, StubBehavior, StubReplica};
use std::time::{Duration, Instant};

/// The time of a usual answer.
const USUAL: Duration = Duration::from_millis(20);

/// The time of an answer of the slow replica, far above the objective of these tests.
const SLOW: Duration = Duration::from_secs(4);

/// The number of requests from which the dispatcher learns the usual time.
const LEARNED: usize = 40;

/// The number of requests after one of the two replicas has become slow.
const MEASURED: usize = 12;

#[test]
fn a_request_at_a_slow_replica_is_answered_in_time_by_another_one_with_hedging_only() {
    on_steady_machine(async || {
        for (flags, hedges) in [(&["--objective=1s", "--hedge"][..], true), (&["--objective=1s"], false)] {
            let stubs = [
                StubReplica::with_capacity(4, StubBehavior::Delayed(USUAL)).await,
                StubReplica::with_capacity(4, StubBehavior::Delayed(USUAL)).await,
            ];
            let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stubs[0], &stubs[1]]), flags).await;
            dispatcher.until_states(&["ready", "ready"]).await;
            for _ in 0..LEARNED {
                assert_eq!(dispatcher.post(&[]).await.status, 200);
            }
            let hedged_before = dispatcher.metric("dispatcher_hedges_total").await;
            stubs[0].set_behavior(StubBehavior::Delayed(SLOW));
            let calls = stubs[0].calls();
            let mut longest = Duration::ZERO;
            for _ in 0..MEASURED {
                let since = Instant::now();
                assert_eq!(dispatcher.post(&[]).await.status, 200);
                longest = longest.max(since.elapsed());
            }
            let slow_calls = stubs[0].calls() - calls;
            assert!(slow_calls > 0, "the slow replica was asked");
            let hedged = dispatcher.metric("dispatcher_hedges_total").await - hedged_before;
            if hedges {
                assert!(longest < Duration::from_secs(1), "{longest:?} with {flags:?}");
                assert!(hedged >= slow_calls as f64, "{hedged} hedges of {slow_calls} slow requests");
            } else {
                assert!(longest >= SLOW, "{longest:?} with {flags:?}");
                assert_eq!(hedged, 0.0);
            }
            // The slots of the slow replica become free when it answers, and these answers count for no request.
            let in_flight = format!("dispatcher_in_flight{{replica=\"{}\"}}", stubs[0].address);
            let since = Instant::now();
            while dispatcher.metric(&in_flight).await > 0.0 {
                assert!(since.elapsed() < 2 * SLOW, "the slots of the slow replica stay taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let requests = (LEARNED + MEASURED) as f64;
            assert_eq!(dispatcher.metric("dispatcher_requests_total{code=\"ok\"}").await, requests);
            assert_eq!(dispatcher.metric("dispatcher_enqueued_requests_total").await, requests);
            assert_eq!(dispatcher.metric("dispatcher_upstream_duration_seconds_count").await, requests);
            assert_eq!(dispatcher.states().await, ["ready", "ready"]);
        }
    });
}

#[test]
fn a_hedged_request_is_answered_when_its_first_replica_dies() {
    on_steady_machine(async || {
        let stubs = [
            StubReplica::with_capacity(4, StubBehavior::Delayed(USUAL)).await,
            StubReplica::with_capacity(4, StubBehavior::Delayed(USUAL)).await,
        ];
        let flags = ["--objective=10s", "--deadline=20s", "--hedge"];
        let dispatcher = RunningDispatcher::start(&stub::static_list(&[&stubs[0], &stubs[1]]), &flags).await;
        dispatcher.until_states(&["ready", "ready"]).await;
        for _ in 0..LEARNED {
            assert_eq!(dispatcher.post(&[]).await.status, 200);
        }
        let hedged_before = dispatcher.metric("dispatcher_hedges_total").await;
        // Both replicas are slow now, so that the request is at both of them when the first dies.
        stubs.iter().for_each(|stub| stub.set_behavior(StubBehavior::Delayed(Duration::from_secs(1))));
        let calls: usize = stubs.iter().map(StubReplica::calls).sum();
        let killed = async {
            while stubs.iter().map(StubReplica::calls).sum::<usize>() < calls + 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stubs[0].kill().await;
        };
        let (reply, ()) = tokio::join!(dispatcher.post(&[]), killed);
        assert_eq!(reply.status, 200, "{}", reply.json);
        assert_eq!(reply.json["replica"], stubs[1].address.as_str());
        assert_eq!(stubs.iter().map(StubReplica::calls).sum::<usize>(), calls + 2, "no third attempt was needed");
        assert_eq!(dispatcher.metric("dispatcher_hedges_total").await, hedged_before + 1.0);
    });
}
