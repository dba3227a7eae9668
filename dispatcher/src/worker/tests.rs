//! The worker as requests see it: they are submitted, wait, receive permits, fail and are withdrawn, while replicas are
//! published, removed and hang.

use super::*;
use crate::permit::PermitReceiver;
use crate::request::BufferedRequest;
use crate::retry::{MAX_ATTEMPTS, MAX_DEATHS};
use crate::status::ReplicaStatus;
use hyper::HeaderMap;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult};
use service::body::{Chunks, MemoryBudget};
use service::trace::TraceContext;
use service::wire::DEFAULT_TOP_K;
use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::watch;
use tokio::task::JoinSet;

const SETTINGS: Settings = Settings {
    order: Order::LateLast,
    balance: Balance::RoundRobin,
    queue_length: 9,
    deadline: Duration::from_secs(5),
};

/// Longer than any test takes.
const FOREVER: Duration = Duration::from_secs(1000);

/// A test fails when something that it waits for takes longer.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

fn entry(number: u64, lifetime: Duration) -> (Entry<QueuedRequest>, PermitReceiver) {
    let now = Instant::now();
    let (request, receiver) = QueuedRequest::new(now);
    let deadline = now + lifetime;
    (Entry { sequence_number: SequenceNumber(number), objective: deadline, deadline, request }, receiver)
}

async fn submit(worker: &Handle, entry: Entry<QueuedRequest>) {
    worker.messages.send(Message::Submit(entry)).await.expect("the worker runs");
}

async fn status(worker: &Handle) -> Status {
    let (reply, status) = oneshot::channel();
    worker.messages.send(Message::Status(reply)).await.expect("the worker runs");
    status.await.expect("the worker answers")
}

/// The status after the worker has handled all that was sent to it. Published sets and probes pass through other tasks
/// first, which run while this one waits for its answers.
async fn settled_status(worker: &Handle) -> Status {
    for _ in 0..4 {
        status(worker).await;
    }
    status(worker).await
}

async fn until_ejected(worker: &Handle, address: &Address) {
    let is_ejected = |replica: &ReplicaStatus| *replica.address == **address && replica.state == "ejected";
    while !status(worker).await.replicas.iter().any(is_ejected) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

thread_local! {
    /// Replicas that answer no probe.
    static HUNG: RefCell<HashSet<Address>> = RefCell::default();
}

/// A simulated replica's capacity, with which its name begins.
fn capacity(address: &str) -> usize {
    address[..1].parse().expect("a name begins with a digit")
}

/// A probe that succeeds or fails at once.
fn probe(address: Address, _timeout: Duration) -> Pin<Box<dyn Future<Output = Option<usize>> + Send>> {
    let is_hung = HUNG.with_borrow(|hung| hung.contains(&address));
    Box::pin(std::future::ready((!is_hung).then(|| capacity(&address))))
}

#[tokio::test]
async fn a_request_whose_withdrawal_arrived_first_takes_no_place() {
    let (_publisher, published) = watch::channel(BTreeSet::new());
    let worker = spawn_with(SETTINGS, published, probe);
    let (abandoned, receiver) = entry(1, FOREVER);
    drop(receiver);
    let (waiting, _receiver) = entry(2, FOREVER);
    for submitted in [abandoned, waiting] {
        submit(&worker, submitted).await;
    }
    assert_eq!(status(&worker).await.queue_length, 1);
}

fn buffered_request() -> Arc<BufferedRequest> {
    let (body, trace) = (Chunks::new(MemoryBudget::new(0)), TraceContext::from_headers(&HeaderMap::new()));
    let (accepted, top_k) = (Instant::now(), DEFAULT_TOP_K);
    let deadline = accepted + FOREVER;
    Arc::new(BufferedRequest { body, content_type: None, top_k, trace, accepted, deadline })
}

/// What happens to an attempt after the worker has sent its stall notice and before the attempt has received it.
#[derive(Debug, Clone, Copy)]
enum Race {
    Answered,
    ConnectionLost,
    ClientLeft,
}

async fn check_stall_notice(race: Race) {
    let replica = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: Address = replica.local_addr().expect("the socket is bound").to_string().into();
    let (_publisher, published) = watch::channel(BTreeSet::from([address.clone()]));
    let worker = spawn_with(SETTINGS, published, probe);
    let (submitted, receiver) = entry(1, FOREVER);
    submit(&worker, submitted).await;
    let permit = receiver.await.expect("the worker runs").expect("a permit");
    let mut attempt = Box::pin(permit.send(buffered_request()));
    let received = async {
        let (mut stream, _peer) = replica.accept().await.expect("a connection");
        assert!(stream.read(&mut [0; 1024]).await.expect("a request") > 0);
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
    // Lets the runtime see the socket, so that the attempt finds notice and answer in the same poll.
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
            let permit = tokio::time::timeout(WAIT_LIMIT, receiver).await.expect("the request is not forgotten");
            assert!(permit.is_ok(), "{race:?}: the request waits for a worker that has dropped it");
        }
        Some(Ok(_)) | None => assert_eq!(queue_length, 0, "{race:?}: the request is still in the queue"),
    }
}

#[tokio::test]
async fn a_request_answered_as_its_replica_stalls_leaves_the_queue() {
    check_stall_notice(Race::Answered).await;
}

#[tokio::test]
async fn a_request_that_fails_as_its_replica_stalls_gets_another_permit() {
    check_stall_notice(Race::ConnectionLost).await;
}

#[tokio::test]
async fn a_request_whose_client_leaves_as_its_replica_stalls_leaves_the_queue() {
    check_stall_notice(Race::ClientLeft).await;
}

#[tokio::test]
async fn no_request_costs_more_attempts_than_permitted_whichever_way_they_end() {
    let replicas: BTreeSet<Address> = (1..=2 * MAX_ATTEMPTS).map(|number| format!("1 of {number}").into()).collect();
    let (_publisher, published) = watch::channel(replicas);
    let worker = spawn_with(SETTINGS, published, probe);
    let (submitted, mut receiver) = entry(1, FOREVER);
    submit(&worker, submitted).await;
    for _ in 1..MAX_ATTEMPTS {
        let permit = receiver.await.expect("the worker runs").expect("a permit");
        receiver = permit.end(Err(Failure::Server)).expect_err("a failed attempt has no answer");
    }
    let mut last = receiver.await.expect("the worker runs").expect("a permit");
    let address = last.assignment().address.clone();
    HUNG.with_borrow_mut(|hung| hung.insert(address.clone()));
    until_ejected(&worker, &address).await;
    // The request stays at the stalled replica: another permit would be one too many.
    assert!(last.assignment().stall_notice.try_recv().is_err(), "a stall notice after {MAX_ATTEMPTS} attempts");
}

/// How a simulated attempt ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Answered,
    Refused,
    Failed(Failure),
}

/// A step of a simulation. An index chooses among the requests to which the step can happen.
#[derive(Debug, Clone)]
enum Step {
    /// A request arrives; without time, its deadline has passed already.
    Submit { has_time: bool },
    /// An attempt ends.
    End(usize, Ending),
    /// The client of a waiting request leaves.
    LeaveQueue(usize),
    /// The client of a request at a replica leaves, and the attempt goes on.
    LeaveAttempt(usize),
    /// The client of a request that has received a permit leaves before the permit is used.
    LeaveUnused(usize),
    /// An attempt whose client has left ends.
    EndAbandoned(usize, Ending),
    /// The replicas of these bits are published.
    Publish(u8),
    /// The replicas of these bits hang until the worker has ejected them.
    Hang(u8),
    /// Time passes, so that some of the ejected replicas may join again.
    Pause,
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        6 => Just(Ending::Answered),
        1 => Just(Ending::Refused),
        6 => prop_oneof![
            1 => Just(Failure::Connect),
            3 => Just(Failure::Died),
            1 => Just(Failure::Invalid),
            3 => Just(Failure::Server),
            1 => Just(Failure::Busy),
            1 => Just(Failure::Deadline),
        ]
        .prop_map(Ending::Failed),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => prop::bool::weighted(0.9).prop_map(|has_time| Step::Submit { has_time }),
        30 => (any::<usize>(), ending()).prop_map(|(index, ending)| Step::End(index, ending)),
        4 => any::<usize>().prop_map(Step::LeaveQueue),
        3 => any::<usize>().prop_map(Step::LeaveAttempt),
        2 => any::<usize>().prop_map(Step::LeaveUnused),
        3 => (any::<usize>(), ending()).prop_map(|(index, ending)| Step::EndAbandoned(index, ending)),
        5 => any::<u8>().prop_map(Step::Publish),
        3 => any::<u8>().prop_map(Step::Hang),
        2 => Just(Step::Pause),
    ]
}

#[derive(Debug, Clone)]
struct Scenario {
    fifo: bool,
    least_loaded: bool,
    /// Whether new replicas answer the requests that are left at the end. Otherwise the old ones have to.
    ends_with_new_replicas: bool,
    steps: Vec<Step>,
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

#[derive(Debug)]
enum Stage {
    Waiting(PermitReceiver),
    Permitted(Permit),
    Over,
}

/// One request of a simulation, and what the worker has to do with it next.
#[derive(Debug)]
struct SimulatedRequest {
    number: u64,
    has_time: bool,
    stage: Stage,
    /// The id of the first permit. Ids are ascending, so they tell the order of the first dispatches.
    first_permit_id: Option<u64>,
    /// Attempts that count towards [`MAX_ATTEMPTS`].
    attempts: usize,
    deaths: u32,
    /// The error that the request must receive next.
    expected: Option<Code>,
}

impl SimulatedRequest {
    fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    fn has_permit(&self) -> bool {
        matches!(self.stage, Stage::Permitted(_))
    }

    /// Whether one of these replicas has the request, and the worker still has to send the attempt a stall notice.
    fn awaits_stall_notice(&mut self, replicas: &[Address]) -> bool {
        let Stage::Permitted(permit) = &mut self.stage else { return false };
        let assignment = permit.assignment();
        let may_move = self.attempts + 1 < MAX_ATTEMPTS;
        replicas.contains(&assignment.address) && may_move && assignment.stall_notice.is_empty()
    }

    fn end_attempt(&mut self, ending: Ending) {
        let Stage::Permitted(permit) = std::mem::replace(&mut self.stage, Stage::Over) else {
            unreachable!("only a request with a permit is ended")
        };
        let Err(receiver) = end(permit, ending) else { return };
        self.stage = Stage::Waiting(receiver);
        let Ending::Failed(failure) = ending else { unreachable!("an answered request waits for no other permit") };
        self.attempts += usize::from(!matches!(failure, Failure::Busy | Failure::Connect));
        self.deaths += u32::from(failure == Failure::Died);
        self.expected = match failure {
            Failure::Deadline => Some(Code::DeadlineExceeded),
            Failure::Busy | Failure::Connect | Failure::Stalled => None,
            _ if self.deaths >= MAX_DEATHS => Some(Code::Poison),
            _ if self.attempts >= MAX_ATTEMPTS => Some(Code::ReplicaFailed),
            _ => None,
        };
    }

    /// Receives a permit, an error or a stall notice, if there is one.
    fn receive(&mut self) -> TestCaseResult {
        match &mut self.stage {
            Stage::Waiting(receiver) => match receiver.try_recv() {
                Ok(Ok(permit)) => self.receive_permit(permit)?,
                // A request without time may be refused at once.
                Ok(Err(error)) if error.code == Code::Overloaded && !self.has_time => self.stage = Stage::Over,
                Ok(Err(error)) => {
                    prop_assert_eq!(Some(error.code), self.expected.take(), "{}", error);
                    self.stage = Stage::Over;
                }
                Err(TryRecvError::Empty) => prop_assert_eq!(self.expected, None, "no error arrived"),
                Err(TryRecvError::Closed) => prop_assert!(false, "request {} was lost", self.number),
            },
            Stage::Permitted(permit) => {
                if permit.assignment().stall_notice.try_recv().is_ok() {
                    self.end_attempt(Ending::Failed(Failure::Stalled));
                }
            }
            Stage::Over => {}
        }
        Ok(())
    }

    fn receive_permit(&mut self, mut permit: Permit) -> TestCaseResult {
        prop_assert!(self.has_time, "a permit after the deadline");
        prop_assert_eq!(self.expected, None, "a permit instead of an error");
        prop_assert!(self.attempts < MAX_ATTEMPTS, "attempt {} of request {}", self.attempts + 1, self.number);
        self.first_permit_id.get_or_insert(permit.assignment().permit_id);
        self.stage = Stage::Permitted(permit);
        Ok(())
    }
}

fn end(permit: Permit, ending: Ending) -> Result<StatusCode, PermitReceiver> {
    permit.end(match ending {
        Ending::Answered => Ok(StatusCode::OK),
        Ending::Refused => Ok(StatusCode::BAD_REQUEST),
        Ending::Failed(failure) => Err(failure),
    })
}

/// One worker with simulated requests and replicas.
struct Simulation {
    worker: Handle,
    publisher: watch::Sender<BTreeSet<Address>>,
    replicas: Vec<Address>,
    /// Replicas that have ever done anything but answer. A pause or a probation may keep them from taking requests.
    unreliable: HashSet<Address>,
    requests: Vec<SimulatedRequest>,
    /// Permits of attempts whose clients have left.
    abandoned: Vec<Permit>,
}

impl Simulation {
    fn new(name: usize, scenario: &Scenario) -> Self {
        let replicas: Vec<Address> = (1..=3).map(|capacity| format!("{capacity} in {name}").into()).collect();
        let (publisher, published) = watch::channel(replicas.iter().cloned().collect());
        let settings = Settings {
            order: if scenario.fifo { Order::Fifo } else { Order::LateLast },
            balance: if scenario.least_loaded { Balance::LeastLoaded } else { Balance::RoundRobin },
            deadline: FOREVER,
            ..SETTINGS
        };
        let worker = spawn_with(settings, published, probe);
        Self { worker, publisher, replicas, unreliable: HashSet::new(), requests: Vec::new(), abandoned: Vec::new() }
    }

    /// One of the requests that fit, chosen by `index`.
    fn choose(&mut self, fits: impl Fn(&SimulatedRequest) -> bool, index: usize) -> Option<&mut SimulatedRequest> {
        let mut fitting: Vec<_> = self.requests.iter_mut().filter(|request| fits(request)).collect();
        if fitting.is_empty() { None } else { Some(fitting.swap_remove(index % fitting.len())) }
    }

    /// Takes the permit of a request whose client leaves.
    fn abandon_permit(&mut self, index: usize) -> Option<Permit> {
        let request = self.choose(SimulatedRequest::has_permit, index)?;
        match std::mem::replace(&mut request.stage, Stage::Over) {
            Stage::Permitted(permit) => Some(permit),
            Stage::Waiting(_) | Stage::Over => unreachable!("the chosen request has a permit"),
        }
    }

    fn note_reliability(&mut self, address: Address, ending: Ending) {
        if matches!(ending, Ending::Failed(_)) {
            self.unreliable.insert(address);
        }
    }

    async fn step(&mut self, step: Step) -> TestCaseResult {
        match step {
            Step::Submit { has_time } => self.submit(has_time).await,
            Step::End(index, ending) => self.end_attempt(index, ending),
            Step::LeaveQueue(index) => self.leave_queue(index),
            Step::LeaveAttempt(index) => {
                if let Some(mut permit) = self.abandon_permit(index) {
                    // The dropped attempt of a real client closes the channel in the same way.
                    permit.assignment().stall_notice.close();
                    self.abandoned.push(permit);
                }
            }
            Step::LeaveUnused(index) => {
                if let Some(mut permit) = self.abandon_permit(index) {
                    self.unreliable.insert(permit.assignment().address.clone());
                }
            }
            Step::EndAbandoned(index, ending) => {
                if !self.abandoned.is_empty() {
                    let mut permit = self.abandoned.swap_remove(index % self.abandoned.len());
                    self.note_reliability(permit.assignment().address.clone(), ending);
                    // The client has left, so the request needs no further permit.
                    drop(end(permit, ending));
                }
            }
            Step::Publish(bits) => self.publish(bits),
            Step::Hang(bits) => self.hang(bits).await?,
            Step::Pause => self.pause().await,
        }
        self.check().await
    }

    /// The replicas of these bits.
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
            stage: Stage::Waiting(receiver),
            first_permit_id: None,
            attempts: 0,
            deaths: 0,
            expected: (waiting >= SETTINGS.queue_length).then_some(Code::QueueFull),
        });
    }

    fn end_attempt(&mut self, index: usize, ending: Ending) {
        let Some(request) = self.choose(SimulatedRequest::has_permit, index) else { return };
        let Stage::Permitted(permit) = &mut request.stage else { unreachable!("the chosen request has a permit") };
        let address = permit.assignment().address.clone();
        request.end_attempt(ending);
        self.note_reliability(address, ending);
    }

    fn leave_queue(&mut self, index: usize) {
        let Some(request) = self.choose(SimulatedRequest::is_waiting, index) else { return };
        request.stage = Stage::Over;
        let sequence_number = SequenceNumber(request.number);
        self.worker.withdraw(sequence_number);
    }

    fn publish(&mut self, bits: u8) {
        let set = self.replicas_of(bits);
        // A replica that was removed and still holds requests is ready at once when it is published again.
        self.unreliable.extend(self.replicas.iter().filter(|address| !set.contains(*address)).cloned());
        self.publisher.send_replace(set.into_iter().collect());
    }

    /// Lets replicas hang until their requests, except for last attempts, have received a stall notice.
    async fn hang(&mut self, bits: u8) -> TestCaseResult {
        let hung = self.replicas_of(bits);
        self.unreliable.extend(hung.iter().cloned());
        HUNG.with_borrow_mut(|all| all.extend(hung.iter().cloned()));
        let since = Instant::now();
        while self.requests.iter_mut().any(|request| request.awaits_stall_notice(&hung)) {
            prop_assert!(since.elapsed() < WAIT_LIMIT, "a request never received a stall notice");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Long enough for another probe.
        self.pause().await;
        HUNG.with_borrow_mut(|all| all.retain(|address| !hung.contains(address)));
        Ok(())
    }

    /// A little longer than the shortest ejection.
    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(130)).await;
    }

    /// Checks what must hold at any time, once all messages are handled.
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
            // A pause or a probe may have ended after the status was taken.
            prop_assert!(since.elapsed() < Duration::from_secs(1), "{contradiction}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Number of permits that the requests that fit hold, for each replica.
    fn permits_by_replica(&mut self, fits: impl Fn(&SimulatedRequest) -> bool) -> HashMap<Address, usize> {
        let mut permits = HashMap::new();
        for request in self.requests.iter_mut().filter(|request| fits(request)) {
            if let Stage::Permitted(permit) = &mut request.stage {
                *permits.entry(permit.assignment().address.clone()).or_default() += 1;
            }
        }
        permits
    }

    /// A difference between the worker's status and the simulated requests and replicas, if there is one.
    fn contradiction(&self, status: &Status, mut permits: HashMap<Address, usize>) -> Option<String> {
        let waiting = self.requests.iter().filter(|request| request.is_waiting());
        if waiting.clone().count() != status.queue_length {
            return Some(format!("{} requests wait, and the queue holds {}", waiting.count(), status.queue_length));
        }
        let new_request_waits = waiting.clone().any(|request| request.has_time && request.first_permit_id.is_none());
        for replica in &status.replicas {
            let count = permits.remove(&*replica.address).unwrap_or_default();
            if count != replica.in_flight {
                return Some(format!("{count} permits for {replica:?}"));
            }
            let has_free_slot = replica.state == "ready" && count < replica.capacity;
            if has_free_slot && new_request_waits && !self.unreliable.contains(&*replica.address) {
                return Some(format!("a request waits, and there is a free slot at {replica:?}"));
            }
        }
        (!permits.is_empty()).then(|| format!("permits for replicas that are not in the status: {permits:?}"))
    }

    /// Answers all requests that are left, and checks that nothing remains.
    async fn finish(mut self, with_new_replicas: bool) -> TestCaseResult {
        if with_new_replicas {
            self.replicas = (1..=2).map(|capacity| format!("{capacity} after {}", self.replicas[0]).into()).collect();
        }
        self.publisher.send_replace(self.replicas.iter().cloned().collect());
        let since = Instant::now();
        // The worker is not asked for its status meanwhile: that would wake it, and hide a missing wake-up.
        while !self.answer_all()? {
            prop_assert!(since.elapsed() < WAIT_LIMIT, "a request waits for ever: {:?}", status(&self.worker).await);
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

    /// Answers every request that has a permit, and withdraws those without time. Tells whether no request waits any
    /// more.
    fn answer_all(&mut self) -> Result<bool, TestCaseError> {
        for request in &mut self.requests {
            request.receive()?;
            match request.stage {
                Stage::Permitted(_) => request.end_attempt(Ending::Answered),
                Stage::Waiting(_) if !request.has_time => {
                    self.worker.withdraw(SequenceNumber(request.number));
                    request.stage = Stage::Over;
                }
                Stage::Waiting(_) | Stage::Over => {}
            }
        }
        for permit in self.abandoned.drain(..) {
            end(permit, Ending::Answered).expect("an answered request needs no further permit");
        }
        Ok(!self.requests.iter().any(SimulatedRequest::is_waiting))
    }
}

/// Runs the scenarios concurrently, because each waits for real time to pass.
async fn run_all(scenarios: Vec<Scenario>) -> TestCaseResult {
    let mut simulations = JoinSet::new();
    for (name, scenario) in scenarios.into_iter().enumerate() {
        simulations.spawn(async move {
            let mut simulation = Simulation::new(name, &scenario);
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run_all(scenarios))?;
    }
}
