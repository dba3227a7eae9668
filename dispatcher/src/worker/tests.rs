//! The worker as the requests see it: they submit, wait, take turns, fail and leave; replicas come, go and hang.

use super::*;
use crate::forward::Picture;
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

const RULES: Rules =
    Rules { order: Order::LateLast, balance: Balance::RoundRobin, queue_length: 9, deadline: Duration::from_secs(5) };

/// Nothing takes so long.
const FOREVER: Duration = Duration::from_secs(1000);

/// Whatever is waited for comes before.
const PATIENCE: Duration = Duration::from_secs(20);

fn entry(ticket: u64, lifetime: Duration) -> (Entry<Job>, Waiting) {
    let now = Instant::now();
    let (job, waiting) = Job::new(now);
    let deadline = now + lifetime;
    (Entry { ticket: Ticket(ticket), objective: deadline, deadline, job }, waiting)
}

async fn snapshot(worker: &Handle) -> Snapshot {
    let (reply, snapshot) = oneshot::channel();
    worker.messages.send(Message::Snapshot(reply)).await.expect("the worker runs");
    snapshot.await.expect("it answers")
}

/// Until it has done what follows from all that it was told: a published set, or a probe, comes by way of other tasks.
async fn settled(worker: &Handle) -> Snapshot {
    for _ in 0..4 {
        snapshot(worker).await;
    }
    snapshot(worker).await
}

thread_local! {
    /// Replicas that answer no probe.
    static ILL: RefCell<HashSet<Address>> = RefCell::default();
}

/// A replica's name begins with its capacity.
fn capacity(address: &str) -> usize {
    address[..1].parse().expect("a digit")
}

/// A probe that is answered at once, or that fails at once.
fn probe(address: Address, _patience: Duration) -> Pin<Box<dyn Future<Output = Option<usize>> + Send>> {
    let is_ill = ILL.with_borrow(|ill| ill.contains(&address));
    Box::pin(std::future::ready((!is_ill).then(|| capacity(&address))))
}

#[tokio::test]
async fn a_job_whose_withdrawal_overtook_it_takes_no_place() {
    let (_nobody, published) = watch::channel(BTreeSet::new());
    let worker = spawn_with(RULES, published, probe);
    let (left, outcome) = entry(1, FOREVER);
    drop(outcome);
    let (stays, _outcome) = entry(2, FOREVER);
    for submitted in [left, stays] {
        worker.messages.send(Message::Submit(submitted)).await.expect("the worker runs");
    }
    assert_eq!(snapshot(&worker).await.queue_length, 1);
}

fn picture() -> Arc<Picture> {
    let (body, trace) = (Chunks::new(MemoryBudget::new(0)), TraceContext::from_headers(&HeaderMap::new()));
    let accepted = Instant::now();
    Arc::new(Picture { body, content_type: None, top_k: DEFAULT_TOP_K, trace, accepted, deadline: accepted + FOREVER })
}

/// What happens to an attempt after the request was taken back, and before it knows.
#[derive(Debug, Clone, Copy)]
enum Overlooked {
    Answered,
    Dropped,
    Left,
}

async fn check_taken_back(overlooked: Overlooked) {
    let replica = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: Address = replica.local_addr().expect("bound").to_string().into();
    let (_publish, published) = watch::channel(BTreeSet::from([address.clone()]));
    let worker = spawn_with(RULES, published, probe);
    let (submitted, waiting) = entry(1, FOREVER);
    worker.messages.send(Message::Submit(submitted)).await.expect("the worker runs");
    let mut attempt = Box::pin(waiting.await.expect("it runs").expect("a turn").take(picture()));
    let received = async {
        let (mut stream, _peer) = replica.accept().await.expect("a connection");
        assert!(stream.read(&mut [0; 1024]).await.expect("a request") > 0);
        stream
    };
    let mut stream = tokio::select! {
        _ = &mut attempt => panic!("nobody has answered"),
        stream = received => stream,
    };
    ILL.with_borrow_mut(|ill| ill.insert(address.clone()));
    while snapshot(&worker).await.replicas[0].state != "ejected" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match overlooked {
        Overlooked::Answered => {
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.expect("the attempt waits");
        }
        Overlooked::Dropped => drop(stream),
        Overlooked::Left => {}
    }
    // A turn of the system's, for the attempt to see it at the same time.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let outcome = match overlooked {
        Overlooked::Left => {
            drop(attempt);
            None
        }
        Overlooked::Answered | Overlooked::Dropped => Some(attempt.await),
    };
    let length = settled(&worker).await.queue_length;
    match outcome {
        Some(Err(again)) => {
            ILL.with_borrow_mut(|ill| ill.remove(&address));
            let outcome = tokio::time::timeout(PATIENCE, again).await.expect("an outcome");
            assert!(outcome.is_ok(), "{overlooked:?}: it waits for nobody");
        }
        Some(Ok(_)) | None => assert_eq!(length, 0, "{overlooked:?}: it is in the queue still"),
    }
}

#[tokio::test]
async fn a_request_that_is_answered_as_it_is_taken_back_keeps_no_place() {
    check_taken_back(Overlooked::Answered).await;
}

#[tokio::test]
async fn a_request_that_fails_as_it_is_taken_back_gets_another_turn() {
    check_taken_back(Overlooked::Dropped).await;
}

#[tokio::test]
async fn a_client_that_leaves_as_its_request_is_taken_back_keeps_no_place() {
    check_taken_back(Overlooked::Left).await;
}

#[tokio::test]
async fn no_request_costs_more_attempts_than_permitted_however_they_end() {
    let replicas: BTreeSet<Address> = (1..=2 * MAX_ATTEMPTS).map(|number| format!("1 of {number}").into()).collect();
    let (_publish, published) = watch::channel(replicas);
    let worker = spawn_with(RULES, published, probe);
    let (submitted, mut waiting) = entry(1, FOREVER);
    worker.messages.send(Message::Submit(submitted)).await.expect("the worker runs");
    for _ in 1..MAX_ATTEMPTS {
        let turn = waiting.await.expect("it runs").expect("a turn");
        waiting = turn.end(Err(Failure::Server)).expect_err("it failed");
    }
    let mut last = waiting.await.expect("it runs").expect("a turn");
    let address = last.terms().address.clone();
    ILL.with_borrow_mut(|ill| ill.insert(address.clone()));
    let is_out = |replica: &ReplicaStatus| *replica.address == *address && replica.state == "ejected";
    while !snapshot(&worker).await.replicas.iter().any(is_out) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It stays where it is: a turn after these would be one too many.
    assert!(last.terms().recalled.try_recv().is_err(), "recalled after {MAX_ATTEMPTS} attempts");
}

/// How a turn ends.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Answered,
    Refused,
    Failed(Failure),
}

#[derive(Debug, Clone)]
enum Step {
    /// A request comes, with time or with none left.
    Submit { has_time: bool },
    /// The turn of one ends.
    End(usize, Ending),
    /// One that waits leaves.
    Leave(usize),
    /// One whose turn it is leaves, and its attempt goes on by itself.
    LeaveTurn(usize),
    /// One leaves without taking its turn.
    LeaveUnused(usize),
    /// An attempt that nobody waits for ends.
    EndByItself(usize, Ending),
    /// These replicas are published, by bits.
    Publish(u8),
    /// These replicas hang until they are found out.
    Hang(u8),
    /// Some of what is out may come back.
    Rest,
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
        30 => (any::<usize>(), ending()).prop_map(|(which, how)| Step::End(which, how)),
        4 => any::<usize>().prop_map(Step::Leave),
        3 => any::<usize>().prop_map(Step::LeaveTurn),
        2 => any::<usize>().prop_map(Step::LeaveUnused),
        3 => (any::<usize>(), ending()).prop_map(|(which, how)| Step::EndByItself(which, how)),
        5 => any::<u8>().prop_map(Step::Publish),
        3 => any::<u8>().prop_map(Step::Hang),
        2 => Just(Step::Rest),
    ]
}

#[derive(Debug, Clone)]
struct Scenario {
    fifo: bool,
    least_loaded: bool,
    /// Replicas of their own see to what is left in the end; otherwise the old ones have to.
    relieved: bool,
    steps: Vec<Step>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (any::<bool>(), any::<bool>(), any::<bool>(), prop::collection::vec(step(), 1..80))
        .prop_map(|(fifo, least_loaded, relieved, steps)| Scenario { fifo, least_loaded, relieved, steps })
}

#[derive(Debug)]
enum Stage {
    Waiting(Waiting),
    Turn(Turn),
    Over,
}

/// One request, and what it has come to.
#[derive(Debug)]
struct Request {
    ticket: u64,
    has_time: bool,
    stage: Stage,
    /// The name of its first turn: they are numbered in the order in which they were given.
    first_turn: Option<u64>,
    attempts: usize,
    deaths: u32,
    /// The fault that it must be told next.
    expected: Option<Code>,
}

impl Request {
    fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting(_))
    }

    /// Whether one of these replicas has it, another may get it, and nobody has said so yet.
    fn is_held_by(&mut self, replicas: &[Address]) -> bool {
        let Stage::Turn(turn) = &mut self.stage else { return false };
        let terms = turn.terms();
        replicas.contains(&terms.address) && self.attempts + 1 < MAX_ATTEMPTS && terms.recalled.is_empty()
    }

    fn ended(&mut self, how: Ending) {
        let Stage::Turn(turn) = std::mem::replace(&mut self.stage, Stage::Over) else { unreachable!("it has a turn") };
        let Err(waiting) = end(turn, how) else { return };
        self.stage = Stage::Waiting(waiting);
        let Ending::Failed(failure) = how else { unreachable!("an answer is the end") };
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

    /// Takes what has come for it.
    fn look(&mut self) -> TestCaseResult {
        match &mut self.stage {
            Stage::Waiting(waiting) => match waiting.try_recv() {
                Ok(Ok(mut turn)) => {
                    prop_assert!(self.has_time, "its time was up");
                    prop_assert_eq!(self.expected, None, "a turn instead");
                    prop_assert!(
                        self.attempts < MAX_ATTEMPTS,
                        "attempt {} of request {}",
                        self.attempts + 1,
                        self.ticket
                    );
                    self.first_turn.get_or_insert(turn.terms().id);
                    self.stage = Stage::Turn(turn);
                }
                // One whose time is up may as well be told at once.
                Ok(Err(fault)) if fault.code == Code::Overloaded && !self.has_time => self.stage = Stage::Over,
                Ok(Err(fault)) => {
                    prop_assert_eq!(Some(fault.code), self.expected.take(), "{}", fault);
                    self.stage = Stage::Over;
                }
                Err(TryRecvError::Empty) => prop_assert_eq!(self.expected, None, "nothing instead"),
                Err(TryRecvError::Closed) => prop_assert!(false, "{} was lost", self.ticket),
            },
            Stage::Turn(turn) => {
                if turn.terms().recalled.try_recv().is_ok() {
                    self.ended(Ending::Failed(Failure::Stalled));
                }
            }
            Stage::Over => {}
        }
        Ok(())
    }
}

fn end(turn: Turn, how: Ending) -> Result<StatusCode, Waiting> {
    turn.end(match how {
        Ending::Answered => Ok(StatusCode::OK),
        Ending::Refused => Ok(StatusCode::BAD_REQUEST),
        Ending::Failed(failure) => Err(failure),
    })
}

/// One worker, and everybody around it.
struct World {
    worker: Handle,
    publish: watch::Sender<BTreeSet<Address>>,
    replicas: Vec<Address>,
    /// Those that have ever done anything but answer: a pause or a probation may keep them from having a slot.
    blemished: HashSet<Address>,
    requests: Vec<Request>,
    /// Turns that nobody waits for.
    left: Vec<Turn>,
}

impl World {
    fn new(name: usize, scenario: &Scenario) -> Self {
        let replicas: Vec<Address> = (1..=3).map(|capacity| format!("{capacity} in {name}").into()).collect();
        let (publish, published) = watch::channel(replicas.iter().cloned().collect());
        let rules = Rules {
            order: if scenario.fifo { Order::Fifo } else { Order::LateLast },
            balance: if scenario.least_loaded { Balance::LeastLoaded } else { Balance::RoundRobin },
            deadline: FOREVER,
            ..RULES
        };
        let worker = spawn_with(rules, published, probe);
        Self { worker, publish, replicas, blemished: HashSet::new(), requests: Vec::new(), left: Vec::new() }
    }

    fn having(&mut self, is_meant: impl Fn(&Request) -> bool, which: usize) -> Option<&mut Request> {
        let mut meant: Vec<&mut Request> = self.requests.iter_mut().filter(|request| is_meant(request)).collect();
        if meant.is_empty() { None } else { Some(meant.swap_remove(which % meant.len())) }
    }

    /// The turn of one of those that have one, whose client is then gone.
    fn turn_of(&mut self, which: usize) -> Option<Turn> {
        let request = self.having(|request| matches!(request.stage, Stage::Turn(_)), which)?;
        match std::mem::replace(&mut request.stage, Stage::Over) {
            Stage::Turn(turn) => Some(turn),
            _ => unreachable!("it was chosen for it"),
        }
    }

    fn blemish(&mut self, address: Address, how: Ending) {
        if matches!(how, Ending::Failed(_)) {
            self.blemished.insert(address);
        }
    }

    async fn step(&mut self, step: Step) -> TestCaseResult {
        match step {
            Step::Submit { has_time } => self.submit(has_time).await,
            Step::End(which, how) => {
                if let Some(request) = self.having(|request| matches!(request.stage, Stage::Turn(_)), which) {
                    let Stage::Turn(turn) = &mut request.stage else { unreachable!("it was chosen for it") };
                    let address = turn.terms().address.clone();
                    request.ended(how);
                    self.blemish(address, how);
                }
            }
            Step::Leave(which) => self.leave(which),
            Step::LeaveTurn(which) => {
                if let Some(mut turn) = self.turn_of(which) {
                    // Nobody is left to be told that it is taken back.
                    turn.terms().recalled.close();
                    self.left.push(turn);
                }
            }
            Step::LeaveUnused(which) => {
                if let Some(mut turn) = self.turn_of(which) {
                    self.blemished.insert(turn.terms().address.clone());
                }
            }
            Step::EndByItself(which, how) => {
                if !self.left.is_empty() {
                    let mut turn = self.left.swap_remove(which % self.left.len());
                    self.blemish(turn.terms().address.clone(), how);
                    // Nobody waits again.
                    let _nobody = end(turn, how);
                }
            }
            Step::Publish(which) => {
                let set = self.chosen(which);
                // A replica that is published again is ready at once if it still holds something.
                self.blemished.extend(self.replicas.iter().filter(|address| !set.contains(*address)).cloned());
                self.publish.send_replace(set.into_iter().collect());
            }
            Step::Hang(which) => self.hang(which).await?,
            Step::Rest => self.rest().await,
        }
        self.check().await
    }

    fn chosen(&self, which: u8) -> Vec<Address> {
        let bits = self.replicas.iter().enumerate().filter(|(bit, _)| which & (1 << bit) != 0);
        bits.map(|(_, address)| address.clone()).collect()
    }

    async fn submit(&mut self, has_time: bool) {
        let ticket = self.requests.len() as u64;
        let is_full = self.requests.iter().filter(|request| request.is_waiting()).count() >= RULES.queue_length;
        let (submitted, waiting) = entry(ticket, if has_time { FOREVER } else { Duration::ZERO });
        self.worker.messages.send(Message::Submit(submitted)).await.expect("the worker runs");
        let (stage, expected) = (Stage::Waiting(waiting), is_full.then_some(Code::QueueFull));
        self.requests.push(Request { ticket, has_time, stage, first_turn: None, attempts: 0, deaths: 0, expected });
    }

    fn leave(&mut self, which: usize) {
        let Some(request) = self.having(Request::is_waiting, which) else { return };
        request.stage = Stage::Over;
        let ticket = Ticket(request.ticket);
        self.worker.withdraw(ticket);
    }

    /// Until what they hold has been taken back, but for last attempts.
    async fn hang(&mut self, which: u8) -> TestCaseResult {
        let ill = self.chosen(which);
        self.blemished.extend(ill.iter().cloned());
        ILL.with_borrow_mut(|all| all.extend(ill.iter().cloned()));
        let since = Instant::now();
        while self.requests.iter_mut().any(|request| request.is_held_by(&ill)) {
            prop_assert!(since.elapsed() < PATIENCE, "something was never taken back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Long enough for them to be asked again.
        self.rest().await;
        ILL.with_borrow_mut(|all| all.retain(|address| !ill.contains(address)));
        Ok(())
    }

    /// A little longer than the shortest time for which a replica is out.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(130)).await;
    }

    /// What holds at any time, once everybody knows of everything.
    async fn check(&mut self) -> TestCaseResult {
        let since = Instant::now();
        loop {
            let seen = settled(&self.worker).await;
            for request in &mut self.requests {
                request.look()?;
            }
            let mut held = self.held(|_| true);
            for turn in &mut self.left {
                *held.entry(turn.terms().address.clone()).or_default() += 1;
            }
            for (address, turns) in &held {
                prop_assert!(*turns <= capacity(address), "{turns} turns at {address}");
            }
            for (address, suspects) in self.held(|request| request.deaths > 0) {
                prop_assert!(suspects <= 1, "{suspects} suspects at {address}");
            }
            let Some(wrong) = self.contradiction(&seen, held) else { return Ok(()) };
            // A pause may have ended, or a probe, since it was asked.
            prop_assert!(since.elapsed() < Duration::from_secs(1), "{wrong}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Turns of such requests, by replica.
    fn held(&mut self, is_meant: impl Fn(&Request) -> bool) -> HashMap<Address, usize> {
        let mut held = HashMap::new();
        for request in self.requests.iter_mut().filter(|request| is_meant(request)) {
            if let Stage::Turn(turn) = &mut request.stage {
                *held.entry(turn.terms().address.clone()).or_default() += 1;
            }
        }
        held
    }

    /// Where the worker and those around it disagree.
    fn contradiction(&self, seen: &Snapshot, mut held: HashMap<Address, usize>) -> Option<String> {
        let waiting = self.requests.iter().filter(|request| request.is_waiting());
        if waiting.clone().count() != seen.queue_length {
            return Some(format!("{} wait in {} places", waiting.count(), seen.queue_length));
        }
        let untouched_waits = waiting.clone().any(|request| request.has_time && request.first_turn.is_none());
        for replica in &seen.replicas {
            let turns = held.remove(&*replica.address).unwrap_or_default();
            if turns != replica.in_flight {
                return Some(format!("{turns} turns at {replica:?}"));
            }
            let is_free = replica.state == "ready" && turns < replica.capacity;
            if is_free && untouched_waits && !self.blemished.contains(&*replica.address) {
                return Some(format!("somebody waits while there is {replica:?}"));
            }
        }
        (!held.is_empty()).then(|| format!("turns at replicas that are gone: {held:?}"))
    }

    /// Lets everything end well, and looks at what is left.
    async fn drain(mut self, relieved: bool) -> TestCaseResult {
        if relieved {
            self.replicas = (1..=2).map(|capacity| format!("{capacity} after {}", self.replicas[0]).into()).collect();
        }
        self.publish.send_replace(self.replicas.iter().cloned().collect());
        let since = Instant::now();
        // Nobody asks the worker anything meanwhile, which would wake it up.
        loop {
            for index in 0..self.requests.len() {
                self.requests[index].look()?;
                match &self.requests[index] {
                    Request { stage: Stage::Turn(_), .. } => self.requests[index].ended(Ending::Answered),
                    Request { stage: Stage::Waiting(_), has_time: false, ticket, .. } => {
                        self.worker.withdraw(Ticket(*ticket));
                        self.requests[index].stage = Stage::Over;
                    }
                    _ => {}
                }
            }
            for turn in self.left.drain(..) {
                end(turn, Ending::Answered).expect("an answer is the end");
            }
            if !self.requests.iter().any(Request::is_waiting) {
                break;
            }
            prop_assert!(since.elapsed() < PATIENCE, "somebody waits for ever: {:?}", snapshot(&self.worker).await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.check().await?;
        let seen = snapshot(&self.worker).await;
        prop_assert_eq!((seen.queue_length, seen.replicas.iter().map(|replica| replica.in_flight).sum()), (0, 0_usize));
        let firsts: Vec<u64> = self.requests.iter().filter_map(|request| request.first_turn).collect();
        prop_assert!(firsts.is_sorted(), "first turns in the order of arrival: {firsts:?}");
        let events = self.worker.events.clone();
        drop(self.worker);
        prop_assert!(tokio::time::timeout(PATIENCE, events.closed()).await.is_ok(), "the worker ends with its work");
        Ok(())
    }
}

/// Some of them wait for time to pass, as the worker goes by the clock; so they wait together.
async fn at_once(scenarios: Vec<Scenario>) -> TestCaseResult {
    let mut worlds = JoinSet::new();
    for (name, scenario) in scenarios.into_iter().enumerate() {
        worlds.spawn(async move {
            let mut world = World::new(name, &scenario);
            for step in scenario.steps {
                world.step(step).await?;
            }
            world.drain(scenario.relieved).await
        });
    }
    while let Some(ended) = worlds.join_next().await {
        ended.expect("no panic")?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 4, max_shrink_time: 10_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_request_gets_one_outcome_and_every_slot_comes_back(
        scenarios in prop::collection::vec(scenario(), 1..64),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(at_once(scenarios))?;
    }
}
