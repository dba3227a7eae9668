//! Leader election on a real API server.

use crate::control_plane::{ApiProxy, TIMEOUT, control_plane, namespace, report};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use scaler::leader::{self, Candidate, CandidateSpec, election};
use std::time::Duration;
use tokio::time::Instant;

fn candidate(client: &Client, lease: &str, identity: &str) -> Candidate {
    let spec = CandidateSpec { namespace: "leader".into(), name: lease.into(), identity: identity.into() };
    leader::run(spec, client.clone())
}

fn leads(candidate: &Candidate) -> bool {
    candidate.leading.borrow().is_some()
}

/// Waits until `candidate` leads. None of `others` may lead then.
async fn wait_until_leads(candidate: &Candidate, others: &[&Candidate]) {
    let until = Instant::now() + TIMEOUT;
    while !leads(candidate) {
        assert!(Instant::now() < until, "the candidate does not lead within {TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(others.iter().all(|other| !leads(other)), "two candidates lead");
}

/// If the leader dies, another candidate takes over when the lease has expired.
async fn a_dead_leader_is_replaced(client: &Client) {
    let first = candidate(client, "dead", "first");
    wait_until_leads(&first, &[]).await;
    let second = candidate(client, "dead", "second");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!leads(&second), "the first candidate holds the lease");
    first.done.abort();
    let died = Instant::now();
    wait_until_leads(&second, &[]).await;
    let took = died.elapsed();
    report(&format!("taken over {:.1} s after the leader's death", took.as_secs_f64()));
    // The lease expires after its duration, and the next attempt to claim it follows within the retry interval.
    let longest = election::LEASE + election::RETRY;
    assert!((election::LEASE - 2 * election::RETRY..=longest).contains(&took), "taken over after {took:?}");

    let third = candidate(client, "dead", "third");
    tokio::time::sleep(election::RETRY).await;
    assert!(!leads(&third), "the second candidate holds the lease");
    let resigned = Instant::now();
    second.resign().await;
    wait_until_leads(&third, &[]).await;
    let took = resigned.elapsed();
    report(&format!("taken over {:.1} s after the leader's resignation", took.as_secs_f64()));
    assert!(took <= election::RETRY + Duration::from_secs(1), "taken over after {took:?}");
    let lease = Api::<Lease>::namespaced(client.clone(), "leader").get("dead").await.expect("the Lease exists");
    let spec = lease.spec.expect("the Lease has a holder");
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("third"), Some(2)));
}

/// A leader that cannot reach the API server steps down before another candidate leads.
async fn a_leader_without_the_api_server_steps_down(client: &Client, interruptible: &Client, mut proxy: ApiProxy) {
    let first = candidate(interruptible, "cut", "first");
    wait_until_leads(&first, &[]).await;
    let second = candidate(client, "cut", "second");
    proxy.interrupt();
    let interrupted = Instant::now();
    let mut leading = first.leading.clone();
    let down = tokio::time::timeout(TIMEOUT, leading.wait_for(Option::is_none)).await;
    down.expect("the leader steps down in time").expect("the candidate's task runs");
    let took = interrupted.elapsed();
    report(&format!("stepped down {:.1} s after the API server was gone", took.as_secs_f64()));
    assert!(took <= election::RENEW_DEADLINE + Duration::from_secs(1), "stepped down after {took:?}");
    wait_until_leads(&second, &[&first]).await;
    let took = interrupted.elapsed();
    report(&format!("taken over {:.1} s after the API server was gone", took.as_secs_f64()));
    assert!(took <= election::LEASE + election::RETRY, "taken over after {took:?}");
    proxy.restore().await;
    // The first candidate can read the lease again, and sees that the second one leads.
    tokio::time::sleep(2 * election::RETRY).await;
    assert!(leads(&second) && !leads(&first));
}

#[tokio::test]
async fn exactly_one_candidate_leads() {
    let Some(control_plane) = control_plane() else { return };
    let client = control_plane.client().await;
    namespace(&client, "leader").await;
    let proxy = control_plane.proxy().await;
    let interruptible = control_plane.client_through(&proxy).await;
    let many = async {
        let candidates = ["a", "b", "c", "d", "e"].map(|identity| candidate(&client, "many", identity));
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let leaders = candidates.iter().filter(|candidate| leads(candidate)).count();
            assert!(leaders <= 1, "{leaders} candidates lead");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(candidates.iter().filter(|candidate| leads(candidate)).count(), 1);
    };
    tokio::join!(
        many,
        a_dead_leader_is_replaced(&client),
        a_leader_without_the_api_server_steps_down(&client, &interruptible, proxy)
    );
}
