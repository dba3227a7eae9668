//! Tests of the worker with several dispatchers: when it claims slots, and which request gets a slot that is granted.

use super::*;
use crate::fair::Tenant;
use crate::permit::{AttemptReport, PermitReceiver};
use crate::queue::QueueEntry;
use crate::rotation::{Address, EndpointChanges, ProbeAnswer};
use crate::worker::tests::SETTINGS;
use std::pin::Pin;

const SECOND: Duration = Duration::from_secs(1);

fn probe(_address: Address, _timeout: Duration) -> Pin<Box<dyn Future<Output = ProbeAnswer> + Send>> {
    Box::pin(std::future::pending())
}

/// A worker whose only replica, with one slot, is used by others. Its channel is in the test's hands.
struct Shared {
    worker: Worker,
    replica: ReplicaId,
    sent: mpsc::UnboundedReceiver<FromDispatcher>,
    _reports: mpsc::UnboundedReceiver<AttemptReport>,
    submitted: u64,
}

impl Shared {
    fn new() -> Self {
        let (events, _events) = mpsc::unbounded_channel();
        let (reports, inbox) = mpsc::unbounded_channel();
        let mut worker = Worker::new(SETTINGS, probe, events, reports);
        let added = vec![(Address::from("shared:1"), None)];
        worker.apply(&EndpointChanges { added, removed: Vec::new() });
        let now = Instant::now();
        let replica = worker.rotation.due_probes(now)[0];
        worker.record_probe(replica, ProbeAnswer::Ready { capacity: 1 });
        let (sender, sent) = mpsc::unbounded_channel();
        worker.channels.insert(replica, Channel { sender, told_next: None });
        worker.rotation.set_channel(replica, true, now);
        worker.rotation.record_others(replica, 1, false, now);
        Self { worker, replica, sent, _reports: inbox, submitted: 0 }
    }

    /// Submits a request with this time until it is late.
    fn submit(&mut self, objective: Duration) -> PermitReceiver {
        let now = Instant::now();
        let (request, receiver) = QueuedRequest::new(now);
        let sequence_number = SequenceNumber(self.submitted);
        self.submitted += 1;
        let (objective, deadline) = (now + objective, now + 2 * SECOND);
        self.worker.admit(QueueEntry { sequence_number, tenant: Tenant::default(), objective, deadline, request });
        self.settle();
        receiver
    }

    /// Does what the worker does after each event.
    fn settle(&mut self) {
        let now = Instant::now();
        self.worker.dispatch_waiting(now);
        self.worker.claim_slots(now);
        self.worker.exchange_backlogs(now);
    }

    fn receive(&mut self, event: SlotEvent) {
        // Another dispatcher has the slot, unless it is granted to this one.
        let others = u32::from(!matches!(event, SlotEvent::Granted | SlotEvent::Freed | SlotEvent::Forgotten));
        let message = FromReplica { others, claimed: false, event };
        self.worker.handle_channel_event(self.replica, ChannelEvent::Message(message));
        self.settle();
    }

    /// The messages that were sent since the last call, but for backlogs.
    fn sent(&mut self) -> Vec<FromDispatcher> {
        let sent = std::iter::from_fn(|| self.sent.try_recv().ok());
        sent.filter(|message| !matches!(message, FromDispatcher::Backlog { .. })).collect()
    }
}

/// Whether the request has got a permit with a grant.
fn is_granted(receiver: &mut PermitReceiver) -> bool {
    let Ok(Ok(mut permit)) = receiver.try_recv() else { return false };
    permit.assignment().slot.is_granted
}

#[tokio::test]
async fn a_request_asks_for_a_slot_and_uses_the_one_that_becomes_free() {
    let mut shared = Shared::new();
    let mut waiting = shared.submit(SECOND);
    assert!(matches!(shared.sent()[..], [FromDispatcher::Ask(SlotClaim { slots: 1, waiting: 1, .. })]));
    shared.receive(SlotEvent::Queued);
    assert_eq!(shared.sent(), [], "the claim stays");
    shared.receive(SlotEvent::Freed);
    assert!(is_granted(&mut waiting));
    assert_eq!(shared.sent(), [], "no further request waits");
}

#[tokio::test]
async fn a_slot_that_no_request_needs_is_given_back() {
    let mut shared = Shared::new();
    let waiting = shared.submit(SECOND);
    shared.sent();
    drop(waiting);
    shared.worker.withdraw(SequenceNumber(0));
    shared.settle();
    assert!(matches!(shared.sent()[..], [FromDispatcher::Claim(SlotClaim { slots: 0, .. })]), "the claim is withdrawn");
    shared.receive(SlotEvent::Granted);
    assert_eq!(shared.sent(), [FromDispatcher::Return]);
}

#[tokio::test]
async fn late_requests_wait_while_punctual_ones_wait_elsewhere() {
    let mut shared = Shared::new();
    let mut late = shared.submit(Duration::ZERO);
    shared.receive(SlotEvent::Queued);
    shared.receive(SlotEvent::Backlog { punctual: 1, late: 0 });
    shared.sent();
    shared.receive(SlotEvent::Freed);
    assert_eq!(shared.sent(), [FromDispatcher::Return]);
    shared.receive(SlotEvent::Backlog { punctual: 0, late: 0 });
    assert!(matches!(shared.sent()[..], [FromDispatcher::Ask(_)]), "it may have a slot now");
    shared.receive(SlotEvent::Granted);
    assert!(is_granted(&mut late));
}

#[tokio::test]
async fn admission_counts_the_requests_that_wait_elsewhere() {
    let mut shared = Shared::new();
    shared.worker.load.record_service_time(SECOND / 10, Instant::now());
    let mut admitted = shared.submit(SECOND);
    assert!(admitted.try_recv().is_err(), "it waits");
    shared.receive(SlotEvent::Backlog { punctual: 100, late: 0 });
    let mut refused = shared.submit(SECOND);
    let error = refused.try_recv().expect("it is answered").expect_err("100 requests are before it");
    let after = error.retry_after.expect("it tells when to come back");
    // 102 requests × 0.1 s + 0.1 s − 1 s, and up to a quarter more.
    assert!((9.0..12.0).contains(&after.as_secs_f64()), "{after:?}");
}

#[tokio::test]
async fn a_wrong_guess_makes_the_dispatcher_ask_until_enough_were_right() {
    let mut shared = Shared::new();
    shared.worker.learn(shared.replica, false);
    shared.worker.rotation.record_others(shared.replica, 0, false, Instant::now());
    let mut asked = shared.submit(SECOND);
    assert!(asked.try_recv().is_err() && matches!(shared.sent()[..], [FromDispatcher::Ask(_)]));
    shared.receive(SlotEvent::Granted);
    assert!(is_granted(&mut asked));
    for _ in 0..49 {
        shared.worker.learn(shared.replica, true);
    }
    assert_eq!(shared.worker.sharing.optimism.margin(), 1);
}

#[tokio::test]
async fn without_a_channel_requests_are_sent_without_a_question() {
    let mut shared = Shared::new();
    let mut waiting = shared.submit(SECOND);
    shared.worker.handle_channel_event(shared.replica, ChannelEvent::Ended(ChannelEnd::Refused));
    assert!(shared.worker.channels.is_empty());
    // The slot of another dispatcher counts as free after a while.
    tokio::time::sleep(Duration::from_millis(5)).await;
    shared.settle();
    let mut permit = waiting.try_recv().expect("it was sent").expect("it was not refused");
    assert!(!permit.assignment().slot.is_granted);
    assert!(shared.worker.channels.is_empty(), "no other channel is opened at once");
}
