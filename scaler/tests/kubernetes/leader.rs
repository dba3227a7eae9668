//! Leader election on a real API server.

use crate::control_plane::{Line, PATIENCE, control_plane, namespace, say};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use scaler::leader::{self, Candidate, CandidateSpec, election};
use std::time::Duration;
use tokio::time::Instant;

fn candidate(client: &Client, lease: &str, identity: &str) -> Candidate {
    let spec = CandidateSpec { namespace: "leader".into(), name: lease.into(), identity: identity.into() };
    leader::run(spec, client.clone())
}

/// Waits until a candidate leads. The others must not lead at the same time.
async fn until_leads(candidate: &Candidate, others: &[&Candidate]) {
    let until = Instant::now() + PATIENCE;
    while !*candidate.leading.borrow() {
        assert!(Instant::now() < until, "it does not lead in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(others.iter().all(|other| !*other.leading.borrow()), "two lead");
}

/// The leader dies, and another candidate takes over when the lease has expired.
async fn a_dead_leader_is_replaced(client: &Client) {
    let first = candidate(client, "dead", "first");
    until_leads(&first, &[]).await;
    let second = candidate(client, "dead", "second");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!*second.leading.borrow(), "the lease is held");
    first.done.abort();
    let died = Instant::now();
    until_leads(&second, &[]).await;
    let took = died.elapsed();
    say(&format!("taken over {:.1} s after the leader's death", took.as_secs_f64()));
    // The lease's duration since its last renewal, and one attempt more.
    let longest = election::LEASE + election::RETRY;
    assert!((election::LEASE - 2 * election::RETRY..=longest).contains(&took), "{took:?}");

    let third = candidate(client, "dead", "third");
    tokio::time::sleep(election::RETRY).await;
    assert!(!*third.leading.borrow(), "the lease is held");
    let resigned = Instant::now();
    second.resign().await;
    until_leads(&third, &[]).await;
    let took = resigned.elapsed();
    say(&format!("taken over {:.1} s after the leader's resignation", took.as_secs_f64()));
    assert!(took <= election::RETRY + Duration::from_secs(1), "{took:?}");
    let lease = Api::<Lease>::namespaced(client.clone(), "leader").get("dead").await.expect("a Lease");
    let spec = lease.spec.expect("it is held");
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_transitions), (Some("third"), Some(2)));
}

/// A leader that cannot reach the API server steps down before another candidate leads.
async fn a_cut_off_leader_steps_down(client: &Client, cuttable: &Client, mut line: Line) {
    let first = candidate(cuttable, "cut", "first");
    until_leads(&first, &[]).await;
    let second = candidate(client, "cut", "second");
    line.cut();
    let cut = Instant::now();
    let mut leading = first.leading.clone();
    let down = tokio::time::timeout(PATIENCE, leading.wait_for(|leads| !leads)).await;
    down.expect("in time").expect("the task lives");
    let took = cut.elapsed();
    say(&format!("stepped down {:.1} s after the API server was gone", took.as_secs_f64()));
    assert!(took <= election::RENEW_DEADLINE + Duration::from_secs(1), "{took:?}");
    until_leads(&second, &[&first]).await;
    let took = cut.elapsed();
    say(&format!("taken over {:.1} s after the API server was gone", took.as_secs_f64()));
    assert!(took <= election::LEASE + election::RETRY, "{took:?}");
    line.mend().await;
    // It sees that another leads now.
    tokio::time::sleep(2 * election::RETRY).await;
    assert!(*second.leading.borrow() && !*first.leading.borrow());
}

#[tokio::test]
async fn exactly_one_leads() {
    let Some(control_plane) = control_plane() else { return };
    let client = control_plane.client().await;
    namespace(&client, "leader").await;
    let line = control_plane.line().await;
    let cuttable = control_plane.client_over(&line).await;
    let many = async {
        let candidates = ["a", "b", "c", "d", "e"].map(|identity| candidate(&client, "many", identity));
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let leaders = candidates.iter().filter(|candidate| *candidate.leading.borrow()).count();
            assert!(leaders <= 1, "{leaders} lead");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(candidates.iter().filter(|candidate| *candidate.leading.borrow()).count(), 1);
    };
    tokio::join!(many, a_dead_leader_is_replaced(&client), a_cut_off_leader_steps_down(&client, &cuttable, line));
}
