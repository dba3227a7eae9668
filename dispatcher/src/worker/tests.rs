//! Tests of the worker. Requests are submitted, wait, receive permits, fail and are withdrawn, while replicas are
//! published, are removed and hang.

use super::*;
use crate::discovery::Publisher;
use crate::permit::PermitReceiver;
use crate::request::{BufferedRequest, Endpoint};
use crate::retry::{MAX_ATTEMPTS, MAX_DEATHS};
use crate::status::ReplicaStatus;
use hyper::HeaderMap;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult};
use service::body::Chunks;
use service::memory_budget::MemoryBudget;
use service::readiness::Readiness;
use service::trace::TraceContext;
use service::wire::PredictQuery;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::JoinSet;

pub(super) const SETTINGS: DispatchSettings = DispatchSettings {
    order: Order::LateLast,
    balance: Balance::RoundRobin,
    queue_length: 9,
    deadline: Duration::from_secs(5),
    hedge: false,
};

/// A time that is longer than any test takes.
const FOREVER: Duration = Duration::from_secs(1000);

/// The longest time that a test waits for any one event. A test that waits longer fails.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

fn entry(number: u64, lifetime: Duration) -> (QueueEntry<QueuedRequest>, PermitReceiver) {
    let now = Instant::now();
    let (request, receiver) = QueuedRequest::new(now);
    let deadline = now + lifetime;
    let (sequence_number, tenant) = (SequenceNumber(number), Tenant::default());
    (QueueEntry { sequence_number, tenant, objective: deadline, deadline, request }, receiver)
}

async fn submit(worker: &WorkerHandle, entry: QueueEntry<QueuedRequest>) {
    worker.submit(entry);
}

async fn status(worker: &WorkerHandle) -> Status {
    let (reply, status) = oneshot::channel();
    worker.messages.send(Message::Status(reply)).await.expect("the worker runs");
    status.await.expect("the worker answers")
}

/// Returns the status after the worker has handled all messages that were sent to it. Published sets and results of
/// probes pass through other tasks first. These tasks run while this one waits for the answers to its requests.
async fn settled_status(worker: &WorkerHandle) -> Status {
    for _ in 0..4 {
        status(worker).await;
    }
    status(worker).await
}

/// Waits until the replica is ejected.
async fn until_ejected(worker: &WorkerHandle, address: &Address) {
    let is_ejected = |replica: &ReplicaStatus| *replica.address == **address && replica.state == "ejected";
    while !status(worker).await.replicas.iter().any(is_ejected) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

thread_local! {
    /// The replicas that answer no probe.
    static HUNG: RefCell<HashSet<Address>> = RefCell::default();
}

/// The capacity of a simulated replica: the first digit of its name.
fn capacity(address: &str) -> usize {
    address[..1].parse().expect("a name begins with a digit")
}

/// A probe that fails at once if the replica hangs, and otherwise succeeds at once.
fn probe(address: Address, _timeout: Duration) -> Pin<Box<dyn Future<Output = ProbeAnswer> + Send>> {
    let is_hung = HUNG.with_borrow(|hung| hung.contains(&address));
    let answer = if is_hung { ProbeAnswer::Silent } else { ProbeAnswer::Ready { capacity: capacity(&address) } };
    Box::pin(std::future::ready(answer))
}

/// Starts a worker with simulated probes and the replicas at `addresses`. Returns the source of the replicas, too.
async fn start(settings: DispatchSettings, addresses: &[Address]) -> (WorkerHandle, Publisher) {
    let (mut publisher, published) = Publisher::new();
    publish(&mut publisher, addresses).await;
    (spawn_with(settings, published, Readiness::default().latch(), probe), publisher)
}

async fn publish(publisher: &mut Publisher, addresses: &[Address]) {
    publisher.publish(addresses.iter().map(|address| (address.clone(), None)).collect()).await;
}

#[tokio::test]
async fn a_request_that_arrives_after_its_withdrawal_is_not_queued() {
    let (worker, _publisher) = start(SETTINGS, &[]).await;
    let (abandoned, receiver) = entry(1, FOREVER);
    drop(receiver);
    let (waiting, _receiver) = entry(2, FOREVER);
    for submitted in [abandoned, waiting] {
        submit(&worker, submitted).await;
    }
    assert_eq!(status(&worker).await.queue_length, 1);
}

#[test]
fn the_work_for_an_answer_is_what_the_replica_says_but_no_more_than_the_time_since_the_dispatch() {
    let milliseconds = Duration::from_millis;
    for (reported, seen, expected) in [
        (Some(30), Some(90), 30),
        (Some(0), Some(90), 0),
        (Some(101), Some(90), 100),
        (Some(u64::MAX), None, 100),
        (None, Some(90), 90),
        // A request that was sent before this one was answered, so the replica has worked for longer.
        (None, Some(120), 120),
        (None, None, 100),
    ] {
        let found = work_for_answer(reported.map(milliseconds), seen.map(milliseconds), milliseconds(100));
        assert_eq!(found, milliseconds(expected), "{reported:?} {seen:?}");
    }
}

fn buffered_request() -> Arc<BufferedRequest> {
    let (body, trace) = (Chunks::new(MemoryBudget::new(0)), TraceContext::from_headers(&HeaderMap::new()));
    let (accepted, endpoint) = (Instant::now(), Endpoint::Predict(PredictQuery::default()));
    let deadline = accepted + FOREVER;
    let (content_type, tenant, timeline) = (None, Tenant::default(), None);
    Arc::new(BufferedRequest { body, content_type, tenant, endpoint, trace, accepted, deadline, timeline })
}

/// An event that happens after the worker has sent a stall notice and before the attempt has received the notice.
#[derive(Debug, Clone, Copy)]
enum Race {
    Answered,
    ConnectionLost,
    ClientLeft,
}

/// Checks that a request is neither lost nor left in the queue if `race` happens together with a stall notice.
async fn check_stall_notice(race: Race) {
    let replica = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
    let address: Address = replica.local_addr().expect("the socket is bound").to_string().into();
    let (worker, _publisher) = start(SETTINGS, std::slice::from_ref(&address)).await;
    let (submitted, receiver) = entry(1, FOREVER);
    submit(&worker, submitted).await;
    let permit = receiver.await.expect("the worker runs").expect("the worker gives a permit");
    let mut attempt = Box::pin(permit.send(buffered_request(), Arc::default()));
    let received = async {
        let (mut stream, _peer) = replica.accept().await.expect("the attempt connects to the replica");
        assert!(stream.read(&mut [0; 1024]).await.expect("the attempt sends its request") > 0);
        stream
    };
    let mut stream = tokio::select! {
        _ = &mut attempt => panic!("the attempt has ended without an answer"),
        stream = received => stream,
    };
    HUNG.with_borrow_mut(|hung| hung.insert(address.clone()));
    until_ejected(&worker, &address).await;
    match race {
        Race::Answered => {
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.expect("the attempt keeps its connection open");
        }
        Race::ConnectionLost => drop(stream),
        Race::ClientLeft => {}
    }
    // The runtime sees the socket's change during this time, so that the attempt finds notice and answer in one poll.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let result = match race {
        Race::ClientLeft => {
            drop(attempt);
            None
        }
        Race::Answered | Race::ConnectionLost => Some(attempt.await),
    };
    let queue_length = settled_status(&worker).await.queue_length;
    match result {
        Some(Err(receiver)) => {
            HUNG.with_borrow_mut(|hung| hung.remove(&address));
            let permit = tokio::time::timeout(WAIT_LIMIT, receiver).await.expect("the request gets a permit in time");
            assert!(permit.is_ok(), "{race:?}: the worker has dropped the request");
        }
        Some(Ok(_)) | None => assert_eq!(queue_length, 0, "{race:?}: the request is still in the queue"),
    }
}

#[tokio::test]
async fn a_request_that_is_answered_as_its_replica_stalls_does_not_return_to_the_queue() {
    check_stall_notice(Race::Answered).await;
}

#[tokio::test]
async fn a_request_that_fails_as_its_replica_stalls_gets_another_permit() {
    check_stall_notice(Race::ConnectionLost).await;
}

#[tokio::test]
async fn a_request_whose_client_leaves_as_its_replica_stalls_does_not_return_to_the_queue() {
    check_stall_notice(Race::ClientLeft).await;
}

#[tokio::test]
async fn a_busy_answer_does_not_count_as_a_dispatch() {
    let (events, _event_inbox) = mpsc::unbounded_channel();
    let (reports, mut report_inbox) = mpsc::unbounded_channel();
    let mut worker = Worker::new(SETTINGS, probe, events, reports);
    let added = vec![(Address::from("1 that is busy"), None)];
    worker.apply(&EndpointChanges { added, ..EndpointChanges::default() });
    for replica in worker.rotation.due_probes(Instant::now()) {
        worker.record_probe(replica, ProbeAnswer::Ready { capacity: 1 });
        // It has no channel for claims, so it is tried again without a question.
        worker.rotation.rest(replica, Instant::now() + FOREVER, true);
    }
    let mut receivers = Vec::new();
    for number in 0..2 {
        let (submitted, receiver) = entry(number, FOREVER);
        worker.admit(submitted);
        receivers.push(receiver);
    }
    let mut waiting = receivers.pop().expect("two requests were submitted");
    let first = receivers[0].try_recv().expect("a slot is free").expect("the request is not refused");
    end(first, Ending::Answered).expect("an answered attempt returns the answer");
    let mut shares = Vec::new();
    for _ in 0..3 {
        let report = report_inbox.try_recv().expect("the attempt has reported");
        worker.handle_report(report);
        // The pause of a busy replica ends during this time.
        tokio::time::sleep(Duration::from_millis(20)).await;
        worker.dispatch_waiting(Instant::now());
        shares.push(worker.load.spare_share());
        let permit = waiting.try_recv().expect("the slot is free again").expect("the request is not refused");
        waiting = end(permit, Ending::Failed(AttemptFailure::Busy)).expect_err("a busy replica has not answered");
    }
    assert!(shares[0] < 1.0, "the first dispatch of a request that waited counts");
    assert_eq!(shares, [shares[0]; 3], "a slot that was taken was no slot");
}

#[tokio::test]
async fn a_stall_notice_never_leads_to_more_attempts_than_permitted() {
    let replicas: Vec<Address> = (1..=2 * MAX_ATTEMPTS).map(|number| format!("1 of {number}").into()).collect();
    let (worker, _publisher) = start(SETTINGS, &replicas).await;
    let (submitted, mut receiver) = entry(1, FOREVER);
    submit(&worker, submitted).await;
    for _ in 1..MAX_ATTEMPTS {
        let permit = receiver.await.expect("the worker runs").expect("the worker gives a permit");
        receiver = permit.end(Err(AttemptFailure::Server)).expect_err("a failed attempt has no answer");
    }
    let mut last = receiver.await.expect("the worker runs").expect("the worker gives a permit");
    let address = last.assignment().address.clone();
    HUNG.with_borrow_mut(|hung| hung.insert(address.clone()));
    until_ejected(&worker, &address).await;
    // The request stays at the stalled replica, because another attempt would be one too many.
    assert!(last.assignment().stall_notice.try_recv().is_err(), "a stall notice after {MAX_ATTEMPTS} attempts");
}

/// Answers as many requests at once as the worker needs to know the usual service time.
async fn learn_a_short_service_time(worker: &WorkerHandle) {
    for number in 0..20 {
        let (submitted, receiver) = entry(number, FOREVER);
        submit(worker, submitted).await;
        let permit = receiver.await.expect("the worker runs").expect("the worker gives a permit");
        permit.end(Ok(StatusCode::OK)).expect("an answered attempt returns the answer");
    }
}

/// Submits a request that is hedged at once. Returns the permits for its first and its second replica.
async fn hedged_permits(worker: &WorkerHandle, number: u64) -> [Permit; 2] {
    let (submitted, receiver) = entry(number, FOREVER);
    submit(worker, submitted).await;
    let mut first = receiver.await.expect("the worker runs").expect("the worker gives a permit");
    let hedge = first.assignment().hedge.take().expect("hedging is on");
    let second = tokio::time::timeout(WAIT_LIMIT, hedge).await.expect("the request is hedged in time");
    [first, second.expect("the worker runs")]
}

#[tokio::test]
async fn a_hedged_request_returns_to_the_queue_only_after_both_attempts_have_failed() {
    use Ending::{Answered, Failed};
    let server = Failed(AttemptFailure::Server);
    // (the ends of both attempts in order of time, whether the first attempt ends first, whether the request waits
    // again)
    let rows = [
        (Answered, Answered, false),
        (Answered, server, false),
        (server, Answered, false),
        (server, server, true),
        (Failed(AttemptFailure::Connect), server, true),
        (server, Failed(AttemptFailure::Stalled), true),
    ];
    for (earlier, later, is_requeued) in rows {
        for first_ends_first in [true, false] {
            let row = format!("{earlier:?}, then {later:?}; the first attempt ends first: {first_ends_first}");
            let settings = DispatchSettings { hedge: true, ..SETTINGS };
            let (worker, _publisher) = start(settings, &["9 a", "9 b", "9 c"].map(Address::from)).await;
            learn_a_short_service_time(&worker).await;
            let mut permits = hedged_permits(&worker, 100).await;
            let addresses = permits.each_mut().map(|permit| permit.assignment().address.clone());
            assert_ne!(addresses[0], addresses[1], "{row}");
            if !first_ends_first {
                permits.reverse();
            }
            let [one, other] = permits;
            let earlier = end(one, earlier);
            settled_status(&worker).await;
            let later = end(other, later);
            let status = settled_status(&worker).await;
            let in_flight: usize = status.replicas.iter().map(|replica| replica.in_flight).sum();
            if let Err(mut receiver) = earlier {
                assert_eq!(receiver.try_recv().err(), Some(TryRecvError::Closed), "{row}");
            }
            let next = later.err().map(|mut receiver| receiver.try_recv());
            let next_permit = next.and_then(Result::ok).map(|permit| permit.expect("the request is not refused"));
            assert_eq!((next_permit.is_some(), in_flight), (is_requeued, usize::from(is_requeued)), "{row}");
            if let Some(mut permit) = next_permit {
                assert!(!addresses.contains(&permit.assignment().address), "{row}: a replica that has failed");
            }
        }
    }
}

#[tokio::test]
async fn a_hedge_that_is_due_does_not_hide_that_the_only_replica_hangs() {
    let address: Address = "9 that hangs under a hedge".into();
    let settings = DispatchSettings { hedge: true, ..SETTINGS };
    let (worker, _publisher) = start(settings, std::slice::from_ref(&address)).await;
    learn_a_short_service_time(&worker).await;
    let (submitted, receiver) = entry(100, FOREVER);
    submit(&worker, submitted).await;
    let _permit = receiver.await.expect("the worker runs").expect("the worker gives a permit");
    HUNG.with_borrow_mut(|hung| hung.insert(address.clone()));
    // The status is asked for again and again, and each message is an event at which the hedge is tried.
    let ejected = tokio::time::timeout(WAIT_LIMIT, until_ejected(&worker, &address)).await;
    assert!(ejected.is_ok(), "the replica that hangs stays in the rotation");
}

#[tokio::test]
async fn a_replica_whose_name_is_gone_is_ejected_by_its_liveness_check() {
    let address: Address = "9 whose name is gone".into();
    let (worker, _publisher) = start(SETTINGS, std::slice::from_ref(&address)).await;
    let (submitted, receiver) = entry(1, FOREVER);
    submit(&worker, submitted).await;
    let permit = receiver.await.expect("the worker runs").expect("the worker gives a permit");
    HUNG.with_borrow_mut(|hung| hung.insert(address.clone()));
    let _next = permit.end(Err(AttemptFailure::Unresolved));
    let ejected = tokio::time::timeout(WAIT_LIMIT, until_ejected(&worker, &address)).await;
    assert!(ejected.is_ok(), "the replica stays in the rotation");
}

#[tokio::test]
async fn a_request_is_not_hedged_at_its_own_replica_or_before_requests_that_wait() {
    for (before, after) in [(&["9 a"][..], &["9 a"][..]), (&["1 a"], &["1 a", "1 b"])] {
        let addresses = |names: &[&str]| names.iter().map(|&name| name.into()).collect::<Vec<Address>>();
        let settings = DispatchSettings { hedge: true, ..SETTINGS };
        let (worker, mut publisher) = start(settings, &addresses(before)).await;
        learn_a_short_service_time(&worker).await;
        let mut receivers = Vec::new();
        for number in 100..102 {
            let (submitted, receiver) = entry(number, FOREVER);
            submit(&worker, submitted).await;
            receivers.push(receiver);
        }
        publish(&mut publisher, &addresses(after)).await;
        // A hedge would be due during this time.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let status = settled_status(&worker).await;
        let in_flight: usize = status.replicas.iter().map(|replica| replica.in_flight).sum();
        assert_eq!((in_flight, status.queue_length), (2, 0), "{after:?}");
        // A permit that was dropped would free its slot, and the other request would be hedged there.
        let mut permits = Vec::new();
        for receiver in receivers {
            let permit = tokio::time::timeout(WAIT_LIMIT, receiver).await.expect("the request gets a permit in time");
            permits.push(permit.expect("the worker runs").expect("the worker gives a permit"));
            let hedge = permits.last_mut().and_then(|permit| permit.assignment().hedge.as_mut());
            assert!(hedge.expect("hedging is on").try_recv().is_err(), "{after:?}");
        }
    }
}

/// The end of a simulated attempt.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// The replica answers with status 200.
    Answered,
    /// The replica refuses the image with status 400.
    Refused,
    Failed(AttemptFailure),
}

/// A step of a simulation. The index in a step chooses one of the requests to which the step can happen.
#[derive(Debug, Clone)]
enum SimulationStep {
    /// A request arrives. If it has no time, its deadline has passed already.
    Submit { has_time: bool },
    /// An attempt ends.
    End(usize, Ending),
    /// The client of a waiting request leaves.
    LeaveQueue(usize),
    /// The client of a request with a permit leaves during the attempt, and the attempt goes on.
    LeaveAttempt(usize),
    /// The client of a request with a permit leaves before the attempt starts.
    LeaveUnused(usize),
    /// An attempt whose client has left ends.
    EndAbandoned(usize, Ending),
    /// Discovery publishes the replicas whose bits are set: bit 0 stands for the first replica.
    Publish(u8),
    /// The replicas whose bits are set answer no probe until the worker has sent their requests stall notices.
    Hang(u8),
    /// Time passes, so that some of the ejected replicas may join again.
    Pause,
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        6 => Just(Ending::Answered),
        1 => Just(Ending::Refused),
        6 => prop_oneof![
            1 => Just(AttemptFailure::Connect),
            1 => Just(AttemptFailure::Closed),
            1 => Just(AttemptFailure::NoSocket),
            3 => Just(AttemptFailure::Died),
            1 => Just(AttemptFailure::Broken),
            1 => Just(AttemptFailure::Invalid),
            3 => Just(AttemptFailure::Server),
            1 => Just(AttemptFailure::Busy),
            1 => Just(AttemptFailure::Deadline),
        ]
        .prop_map(Ending::Failed),
    ]
}

fn step() -> impl Strategy<Value = SimulationStep> {
    prop_oneof![
        30 => prop::bool::weighted(0.9).prop_map(|has_time| SimulationStep::Submit { has_time }),
        30 => (any::<usize>(), ending()).prop_map(|(index, ending)| SimulationStep::End(index, ending)),
        4 => any::<usize>().prop_map(SimulationStep::LeaveQueue),
        3 => any::<usize>().prop_map(SimulationStep::LeaveAttempt),
        2 => any::<usize>().prop_map(SimulationStep::LeaveUnused),
        3 => (any::<usize>(), ending()).prop_map(|(index, ending)| SimulationStep::EndAbandoned(index, ending)),
        5 => any::<u8>().prop_map(SimulationStep::Publish),
        3 => any::<u8>().prop_map(SimulationStep::Hang),
        2 => Just(SimulationStep::Pause),
    ]
}

/// The settings and steps of one simulation.
#[derive(Debug, Clone)]
struct Scenario {
    fifo: bool,
    least_loaded: bool,
    /// Whether new replicas answer the requests that are left at the end. Otherwise the old replicas answer them.
    ends_with_new_replicas: bool,
    steps: Vec<SimulationStep>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (any::<bool>(), any::<bool>(), any::<bool>(), prop::collection::vec(step(), 1..80)).prop_map(
        |(fifo, least_loaded, ends_with_new_replicas, steps)| Scenario {
            fifo,
            least_loaded,
            ends_with_new_replicas,
            steps,
        },
    )
}

/// The stage of a simulated request.
#[derive(Debug)]
enum RequestStage {
    Waiting(PermitReceiver),
    Permitted(Permit),
    /// The request is answered, refused or abandoned.
    Over,
}

/// One request of a simulation, and the facts by which the worker's next message to it is checked.
#[derive(Debug)]
struct SimulatedRequest {
    number: u64,
    has_time: bool,
    stage: RequestStage,
    /// The id of the first permit. Later permits have higher ids, so the ids tell the order of the first dispatches.
    first_permit_id: Option<u64>,
    /// The number of attempts that count towards [`MAX_ATTEMPTS`].
    attempts: usize,
    deaths: u32,
    /// The error that the request must receive next; `None` if it must receive a permit or wait.
    expected: Option<Code>,
}

impl SimulatedRequest {
    fn is_waiting(&self) -> bool {
        matches!(self.stage, RequestStage::Waiting(_))
    }

    fn has_permit(&self) -> bool {
        matches!(self.stage, RequestStage::Permitted(_))
    }

    /// Whether one of `replicas` holds the request, and the worker still has to send the attempt a stall notice.
    fn awaits_stall_notice(&mut self, replicas: &[Address]) -> bool {
        let RequestStage::Permitted(permit) = &mut self.stage else { return false };
        let assignment = permit.assignment();
        let may_move = self.attempts + 1 < MAX_ATTEMPTS;
        replicas.contains(&assignment.address) && may_move && assignment.stall_notice.is_empty()
    }

    fn end_attempt(&mut self, ending: Ending) {
        let RequestStage::Permitted(permit) = std::mem::replace(&mut self.stage, RequestStage::Over) else {
            unreachable!("only a request with a permit has an attempt to end")
        };
        let Err(receiver) = end(permit, ending) else { return };
        self.stage = RequestStage::Waiting(receiver);
        let Ending::Failed(failure) = ending else { unreachable!("only a failed attempt returns a receiver") };
        self.attempts += usize::from(retry::counts(failure));
        self.deaths += u32::from(failure == AttemptFailure::Died);
        self.expected = match failure {
            AttemptFailure::Deadline => Some(Code::DeadlineExceeded),
            AttemptFailure::Stalled => None,
            cheap if !retry::counts(cheap) => None,
            _ if self.deaths >= MAX_DEATHS => Some(Code::Poison),
            _ if self.attempts >= MAX_ATTEMPTS => Some(Code::ReplicaFailed),
            _ => None,
        };
    }

    /// Receives a permit, an error or a stall notice if one has arrived. Checks that it is the one that must arrive.
    fn receive(&mut self) -> TestCaseResult {
        match &mut self.stage {
            RequestStage::Waiting(receiver) => match receiver.try_recv() {
                Ok(Ok(permit)) => self.receive_permit(permit)?,
                // A request without time may be refused at once.
                Ok(Err(error)) if error.code == Code::Overloaded && !self.has_time => self.stage = RequestStage::Over,
                Ok(Err(error)) => {
                    prop_assert_eq!(Some(error.code), self.expected.take(), "{}", error);
                    self.stage = RequestStage::Over;
                }
                Err(TryRecvError::Empty) => prop_assert_eq!(self.expected, None, "the error did not arrive"),
                Err(TryRecvError::Closed) => prop_assert!(false, "the worker dropped request {}", self.number),
            },
            RequestStage::Permitted(permit) => {
                if permit.assignment().stall_notice.try_recv().is_ok() {
                    self.end_attempt(Ending::Failed(AttemptFailure::Stalled));
                }
            }
            RequestStage::Over => {}
        }
        Ok(())
    }

    fn receive_permit(&mut self, mut permit: Permit) -> TestCaseResult {
        prop_assert!(self.has_time, "a permit after the deadline");
        prop_assert_eq!(self.expected, None, "a permit instead of an error");
        prop_assert!(self.attempts < MAX_ATTEMPTS, "attempt {} of request {}", self.attempts + 1, self.number);
        self.first_permit_id.get_or_insert(permit.assignment().permit_id);
        self.stage = RequestStage::Permitted(permit);
        Ok(())
    }
}

fn end(permit: Permit, ending: Ending) -> Result<StatusCode, PermitReceiver> {
    permit.end(result(ending))
}

fn result(ending: Ending) -> Result<StatusCode, AttemptFailure> {
    match ending {
        Ending::Answered => Ok(StatusCode::OK),
        Ending::Refused => Ok(StatusCode::BAD_REQUEST),
        Ending::Failed(failure) => Err(failure),
    }
}

/// One worker with simulated requests and replicas.
struct Simulation {
    worker: WorkerHandle,
    publisher: Publisher,
    replicas: Vec<Address>,
    /// The replicas that have failed, hung or been unpublished at any time. They may have free slots and take no
    /// request, because they are busy, ejected or on probation.
    unreliable: HashSet<Address>,
    requests: Vec<SimulatedRequest>,
    /// The permits of attempts whose clients have left.
    abandoned: Vec<Permit>,
}

impl Simulation {
    async fn new(name: usize, scenario: &Scenario) -> Self {
        let replicas: Vec<Address> = (1..=3).map(|capacity| format!("{capacity} in {name}").into()).collect();
        let settings = DispatchSettings {
            order: if scenario.fifo { Order::Fifo } else { Order::LateLast },
            balance: if scenario.least_loaded { Balance::LeastLoaded } else { Balance::RoundRobin },
            deadline: FOREVER,
            ..SETTINGS
        };
        let (worker, publisher) = start(settings, &replicas).await;
        Self { worker, publisher, replicas, unreliable: HashSet::new(), requests: Vec::new(), abandoned: Vec::new() }
    }

    /// Returns one of the requests for which `fits` is true, chosen by `index`.
    fn choose(&mut self, fits: impl Fn(&SimulatedRequest) -> bool, index: usize) -> Option<&mut SimulatedRequest> {
        let mut fitting: Vec<_> = self.requests.iter_mut().filter(|request| fits(request)).collect();
        if fitting.is_empty() { None } else { Some(fitting.swap_remove(index % fitting.len())) }
    }

    /// Lets the client of a request with a permit leave. Returns the permit.
    fn abandon_permit(&mut self, index: usize) -> Option<Permit> {
        let request = self.choose(SimulatedRequest::has_permit, index)?;
        match std::mem::replace(&mut request.stage, RequestStage::Over) {
            RequestStage::Permitted(permit) => Some(permit),
            RequestStage::Waiting(_) | RequestStage::Over => unreachable!("the chosen request has a permit"),
        }
    }

    fn record_ending(&mut self, address: Address, ending: Ending) {
        if matches!(ending, Ending::Failed(_)) {
            self.unreliable.insert(address);
        }
    }

    async fn step(&mut self, step: SimulationStep) -> TestCaseResult {
        match step {
            SimulationStep::Submit { has_time } => self.submit(has_time).await,
            SimulationStep::End(index, ending) => self.end_attempt(index, ending),
            SimulationStep::LeaveQueue(index) => self.leave_queue(index),
            SimulationStep::LeaveAttempt(index) => {
                if let Some(mut permit) = self.abandon_permit(index) {
                    // The attempt of a client that leaves closes this channel in the same way.
                    permit.assignment().stall_notice.close();
                    self.abandoned.push(permit);
                }
            }
            SimulationStep::LeaveUnused(index) => {
                if let Some(mut permit) = self.abandon_permit(index) {
                    self.unreliable.insert(permit.assignment().address.clone());
                }
            }
            SimulationStep::EndAbandoned(index, ending) => {
                if !self.abandoned.is_empty() {
                    let mut permit = self.abandoned.swap_remove(index % self.abandoned.len());
                    self.record_ending(permit.assignment().address.clone(), ending);
                    permit.end_abandoned(result(ending));
                }
            }
            SimulationStep::Publish(bits) => self.publish(bits).await,
            SimulationStep::Hang(bits) => self.hang(bits).await?,
            SimulationStep::Pause => self.pause().await,
        }
        self.check().await
    }

    /// The replicas whose bits are set: bit 0 stands for the first replica.
    fn replicas_of(&self, bits: u8) -> Vec<Address> {
        let chosen = self.replicas.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
        chosen.map(|(_, address)| address.clone()).collect()
    }

    async fn submit(&mut self, has_time: bool) {
        let number = self.requests.len() as u64;
        let waiting = self.requests.iter().filter(|request| request.is_waiting()).count();
        let (entry, receiver) = entry(number, if has_time { FOREVER } else { Duration::ZERO });
        submit(&self.worker, entry).await;
        self.requests.push(SimulatedRequest {
            number,
            has_time,
            stage: RequestStage::Waiting(receiver),
            first_permit_id: None,
            attempts: 0,
            deaths: 0,
            expected: (waiting >= SETTINGS.queue_length).then_some(Code::QueueFull),
        });
    }

    fn end_attempt(&mut self, index: usize, ending: Ending) {
        let Some(request) = self.choose(SimulatedRequest::has_permit, index) else { return };
        let RequestStage::Permitted(permit) = &mut request.stage else {
            unreachable!("the chosen request has a permit")
        };
        let address = permit.assignment().address.clone();
        request.end_attempt(ending);
        self.record_ending(address, ending);
    }

    fn leave_queue(&mut self, index: usize) {
        let Some(request) = self.choose(SimulatedRequest::is_waiting, index) else { return };
        request.stage = RequestStage::Over;
        let sequence_number = SequenceNumber(request.number);
        self.worker.withdraw(sequence_number);
    }

    async fn publish(&mut self, bits: u8) {
        let set = self.replicas_of(bits);
        // A removed replica that is published again has to answer a probe first.
        self.unreliable.extend(self.replicas.iter().filter(|address| !set.contains(*address)).cloned());
        publish(&mut self.publisher, &set).await;
    }

    /// Lets the replicas whose bits are set hang until all attempts at them have received a stall notice. Attempts that
    /// are the last of their requests get none.
    async fn hang(&mut self, bits: u8) -> TestCaseResult {
        let hung = self.replicas_of(bits);
        self.unreliable.extend(hung.iter().cloned());
        HUNG.with_borrow_mut(|all| all.extend(hung.iter().cloned()));
        let since = Instant::now();
        while self.requests.iter_mut().any(|request| request.awaits_stall_notice(&hung)) {
            prop_assert!(since.elapsed() < WAIT_LIMIT, "a request never received a stall notice");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Another probe fails during this time.
        self.pause().await;
        HUNG.with_borrow_mut(|all| all.retain(|address| !hung.contains(address)));
        Ok(())
    }

    /// Waits a little longer than the shortest ejection lasts.
    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(130)).await;
    }

    /// Checks the invariants that hold whenever all messages are handled.
    async fn check(&mut self) -> TestCaseResult {
        let since = Instant::now();
        loop {
            let status = settled_status(&self.worker).await;
            for request in &mut self.requests {
                request.receive()?;
            }
            let mut permits = self.permits_by_replica(|_| true);
            for permit in &mut self.abandoned {
                *permits.entry(permit.assignment().address.clone()).or_default() += 1;
            }
            for (address, count) in &permits {
                prop_assert!(*count <= capacity(address), "{count} permits for {address}");
            }
            for (address, suspects) in self.permits_by_replica(|request| request.deaths > 0) {
                prop_assert!(suspects <= 1, "{suspects} suspects at {address}");
            }
            let Some(contradiction) = self.contradiction(&status, permits) else { return Ok(()) };
            // The pause of a replica may have ended, or a probe may have succeeded, after the status was taken. The
            // worker then dispatches a request soon.
            prop_assert!(since.elapsed() < Duration::from_secs(1), "{contradiction}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The number of permits for each replica that are held by requests for which `fits` is true.
    fn permits_by_replica(&mut self, fits: impl Fn(&SimulatedRequest) -> bool) -> HashMap<Address, usize> {
        let mut permits = HashMap::new();
        for request in self.requests.iter_mut().filter(|request| fits(request)) {
            if let RequestStage::Permitted(permit) = &mut request.stage {
                *permits.entry(permit.assignment().address.clone()).or_default() += 1;
            }
        }
        permits
    }

    /// Compares the worker's status with the simulated requests and replicas. Returns a difference, if there is one.
    fn contradiction(&self, status: &Status, mut permits: HashMap<Address, usize>) -> Option<String> {
        let waiting = self.requests.iter().filter(|request| request.is_waiting());
        if waiting.clone().count() != status.queue_length {
            return Some(format!("{} requests wait, but the queue length is {}", waiting.count(), status.queue_length));
        }
        let new_request_waits = waiting.clone().any(|request| request.has_time && request.first_permit_id.is_none());
        for replica in &status.replicas {
            let count = permits.remove(&*replica.address).unwrap_or_default();
            if count != replica.in_flight {
                return Some(format!("{count} permits for {replica:?}"));
            }
            let has_free_slot = replica.state == "ready" && count < replica.capacity;
            if has_free_slot && new_request_waits && !self.unreliable.contains(&*replica.address) {
                return Some(format!("a request waits, although a slot is free at {replica:?}"));
            }
        }
        (!permits.is_empty()).then(|| format!("permits for replicas that are not in the status: {permits:?}"))
    }

    /// Answers all requests that are left. Checks that the queue becomes empty, all slots become free and the worker
    /// ends.
    async fn finish(mut self, with_new_replicas: bool) -> TestCaseResult {
        if with_new_replicas {
            self.replicas = (1..=2).map(|capacity| format!("{capacity} after {}", self.replicas[0]).into()).collect();
        }
        publish(&mut self.publisher, &self.replicas).await;
        let since = Instant::now();
        // No status is asked for in this loop. It would wake the worker, and hide that the worker does not wake by
        // itself.
        while !self.answer_all()? {
            prop_assert!(since.elapsed() < WAIT_LIMIT, "requests still wait: {:?}", status(&self.worker).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check().await?;
        let status = status(&self.worker).await;
        let in_flight: usize = status.replicas.iter().map(|replica| replica.in_flight).sum();
        prop_assert_eq!((status.queue_length, in_flight), (0, 0));
        let first_permits: Vec<u64> = self.requests.iter().filter_map(|request| request.first_permit_id).collect();
        prop_assert!(first_permits.is_sorted(), "first permits are not in order of arrival: {first_permits:?}");
        let events = self.worker.events.clone();
        drop(self.worker);
        prop_assert!(tokio::time::timeout(WAIT_LIMIT, events.closed()).await.is_ok(), "the worker does not end");
        Ok(())
    }

    /// Answers every request that has a permit, and withdraws the waiting requests that have no time. Returns whether
    /// no request waits any longer.
    fn answer_all(&mut self) -> Result<bool, TestCaseError> {
        for request in &mut self.requests {
            request.receive()?;
            match request.stage {
                RequestStage::Permitted(_) => request.end_attempt(Ending::Answered),
                RequestStage::Waiting(_) if !request.has_time => {
                    self.worker.withdraw(SequenceNumber(request.number));
                    request.stage = RequestStage::Over;
                }
                RequestStage::Waiting(_) | RequestStage::Over => {}
            }
        }
        for permit in self.abandoned.drain(..) {
            end(permit, Ending::Answered).expect("an answered attempt returns the answer");
        }
        Ok(!self.requests.iter().any(SimulatedRequest::is_waiting))
    }
}

/// Runs the scenarios concurrently, because each of them sleeps most of its time.
async fn run_all(scenarios: Vec<Scenario>) -> TestCaseResult {
    let mut simulations = JoinSet::new();
    for (name, scenario) in scenarios.into_iter().enumerate() {
        simulations.spawn(async move {
            let mut simulation = Simulation::new(name, &scenario).await;
            for step in scenario.steps {
                simulation.step(step).await?;
            }
            simulation.finish(scenario.ends_with_new_replicas).await
        });
    }
    while let Some(result) = simulations.join_next().await {
        result.expect("no simulation panics")?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 4, max_shrink_time: 10_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_request_gets_one_outcome_and_every_slot_becomes_free(
        scenarios in prop::collection::vec(scenario(), 1..64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the system has resources for a runtime");
        runtime.block_on(run_all(scenarios))?;
    }
}
