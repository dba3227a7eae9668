//! Whose turn it is, among the replicas that have a free slot. Knows time and chance only as arguments; opens no socket.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replica's published `host:port`.
pub type Address = Arc<str>;

/// Failures in a row, of a replica that does answer, before it is ejected.
const FAILURES_TO_EJECT: u32 = 3;

/// First back-off of an ejected replica; doubled by every failed probe.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Longest back-off: with its jitter under a second, so that a replica that is well again is used within one.
const LAST_BACKOFF: Duration = Duration::from_millis(800);

/// How long a replica that said `busy` is passed over: another dispatcher filled it, and its answer frees a slot.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// What a turn of a replica with one slot costs on the scale of [`Replica::pass`]; one with more pays less.
const TURN: u64 = 1 << 20;

/// How a replica is chosen among those with a free slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Balance {
    /// In turn; one with twice the slots comes twice as often
    #[default]
    RoundRobin,
    /// The one with the smallest part of its slots in use; in turn among equals
    LeastLoaded,
}

/// What the choice of a replica has to know about a job.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demands<'a> {
    /// Replicas that failed it: passed over as long as any other is in rotation.
    pub tried: &'a [Address],
    /// A replica died while it held this job. Two such jobs never share a replica: when the next one dies too, it is
    /// known of which.
    pub is_suspect: bool,
}

/// How an attempt against a replica went, as far as the rotation cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Answered {
        /// Slots that it advertised with the answer.
        capacity: Option<usize>,
    },
    /// It is full; no fault of its own.
    Busy,
    /// The request's time was up too soon to blame the replica.
    Unfinished,
    /// It answered with a fault of its own, or too late.
    Failed,
    /// It refused the connection or dropped it.
    Unreachable,
}

/// Replicas by state, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// In rotation.
    pub ready: usize,
    /// Out until a probe succeeds, newcomers included.
    pub ejected: usize,
    /// No longer published; finishing what they hold.
    pub draining: usize,
    /// Slots of all ready replicas.
    pub capacity: usize,
}

/// One replica as the rotation sees it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Where it is.
    pub address: Address,
    /// Requests that it takes at once; 1 until it says otherwise.
    pub capacity: usize,
    /// Sent, unanswered.
    pub in_flight: usize,
    /// Whether and how it takes part.
    pub state: State,
    failures: u32,
    /// Back-offs since it last answered a request; answered probes do not count.
    backoffs: u32,
    busy_until: Option<Instant>,
    /// Of those in flight, the suspects: one at most.
    suspects: usize,
    /// Since when it has been holding requests without answering any.
    quiet_since: Instant,
    /// Since when it has been holding requests, or its last answer if that was later.
    works_since: Instant,
    /// A probe of a quiet replica is on its way.
    checking: bool,
    /// Virtual time of its next turn (stride scheduling, Waldspurger and Weihl 1995).
    pass: u64,
    /// When it had its last turn, in turns of everybody; breaks ties, which makes it round robin among equals.
    last_turn: u64,
}

/// Whether a replica takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In rotation.
    Ready,
    /// Out of rotation until a probe at `probe_at` or later succeeds.
    Ejected {
        /// When to ask again.
        probe_at: Instant,
        /// A probe is on its way.
        probing: bool,
    },
    /// No longer published.
    Draining,
}

/// The set of replicas, and whose turn it is.
#[derive(Debug, Default)]
pub struct Rotation {
    balance: Balance,
    replicas: Vec<Replica>,
    /// Turns given.
    turns: u64,
    /// The pass at which the last turn was given. Who was full for a while does not make up for it.
    pass: u64,
}

impl Rotation {
    /// Without replicas.
    pub fn new(balance: Balance) -> Self {
        Self { balance, ..Self::default() }
    }

    /// Makes the published set the present one. Newcomers take part once a probe, due at once, finds them ready.
    /// Replicas that are gone from the set finish what they hold.
    pub fn publish(&mut self, addresses: &BTreeSet<Address>, now: Instant) {
        for replica in &mut self.replicas {
            let published = addresses.contains(&replica.address);
            match replica.state {
                State::Draining if published => replica.state = State::Ready,
                _ if !published => replica.state = State::Draining,
                _ => {}
            }
        }
        for address in addresses {
            if self.find(address).is_none() {
                self.replicas.push(Replica {
                    address: address.clone(),
                    capacity: 1,
                    in_flight: 0,
                    state: State::Ejected { probe_at: now, probing: false },
                    failures: 0,
                    backoffs: 0,
                    busy_until: None,
                    suspects: 0,
                    quiet_since: now,
                    works_since: now,
                    checking: false,
                    pass: self.pass,
                    last_turn: 0,
                });
            }
        }
        self.forget_drained();
    }

    /// Takes a slot of the replica whose turn it is for such a job.
    pub fn pick(&mut self, demands: Demands<'_>, now: Instant) -> Option<Address> {
        let is_tried = |replica: &Replica| demands.tried.contains(&replica.address);
        let untried_exists = !demands.tried.is_empty()
            && self.replicas.iter().any(|replica| replica.state == State::Ready && !is_tried(replica));
        let eligible = self.replicas.iter_mut().filter(|replica| {
            replica.has_slot(now)
                && !(untried_exists && is_tried(replica))
                && !(demands.is_suspect && replica.suspects > 0)
        });
        let chosen = match self.balance {
            Balance::RoundRobin => eligible.min_by_key(|replica| replica.turn()),
            Balance::LeastLoaded => eligible
                .min_by_key(|replica| (TURN * replica.in_flight as u64 / replica.slots() as u64, replica.turn())),
        }?;
        self.turns += 1;
        self.pass = self.pass.max(chosen.pass);
        chosen.pass = self.pass + TURN / chosen.slots() as u64;
        chosen.last_turn = self.turns;
        if chosen.in_flight == 0 {
            chosen.quiet_since = now;
            chosen.works_since = now;
        }
        chosen.in_flight += 1;
        chosen.suspects += usize::from(demands.is_suspect);
        Some(chosen.address.clone())
    }

    /// Whether a job without demands would find a slot.
    pub fn has_slot(&self, now: Instant) -> bool {
        self.replicas.iter().any(|replica| replica.has_slot(now))
    }

    /// Gives back the slot of a job, suspect or not, and tells how long the replica worked for it: not the time in which
    /// it answered others. `jitter`, 0 to 1, spreads the probes of replicas that failed together.
    pub fn release(
        &mut self,
        address: &str,
        was_suspect: bool,
        verdict: Verdict,
        now: Instant,
        jitter: f64,
    ) -> Option<Duration> {
        let replica = self.find(address)?;
        let worked = now.saturating_duration_since(std::mem::replace(&mut replica.works_since, now));
        replica.in_flight = replica.in_flight.saturating_sub(1);
        replica.suspects = replica.suspects.saturating_sub(usize::from(was_suspect));
        replica.quiet_since = now;
        match verdict {
            Verdict::Answered { capacity } => {
                replica.failures = 0;
                replica.backoffs = 0;
                replica.capacity = capacity.unwrap_or(replica.capacity).max(1);
            }
            Verdict::Busy => replica.busy_until = Some(now + BUSY_PAUSE),
            Verdict::Unfinished => {}
            Verdict::Failed => replica.failures += 1,
            Verdict::Unreachable => replica.failures = FAILURES_TO_EJECT,
        }
        if replica.failures >= FAILURES_TO_EJECT && replica.state == State::Ready {
            replica.eject(now, jitter);
        }
        self.forget_drained();
        Some(worked)
    }

    /// Ejected replicas whose probe is due; each is returned once until [`Rotation::probed`].
    pub fn due_probes(&mut self, now: Instant) -> Vec<Address> {
        let mut due = Vec::new();
        for replica in &mut self.replicas {
            if let State::Ejected { probe_at, probing, .. } = &mut replica.state
                && !*probing
                && *probe_at <= now
            {
                *probing = true;
                due.push(replica.address.clone());
            }
        }
        due
    }

    /// Replicas that have been holding requests for `patience` without answering any, and should be asked whether they
    /// still live; each is returned once until [`Rotation::probed`].
    pub fn due_checks(&mut self, now: Instant, patience: Duration) -> Vec<Address> {
        let quiet = |replica: &&mut Replica| replica.check_at(patience).is_some_and(|at| at <= now);
        let checked = self.replicas.iter_mut().filter(quiet).map(|replica| {
            replica.checking = true;
            replica.address.clone()
        });
        checked.collect()
    }

    /// What a probe found: the advertised capacity of a ready replica, or nothing. True if a replica that holds requests
    /// was asked whether it lives, and it did not say so: what it holds should be given to others.
    pub fn probed(&mut self, address: &str, capacity: Option<usize>, now: Instant, jitter: f64) -> bool {
        let pass = self.pass;
        let Some(replica) = self.find(address) else { return false };
        let was_checking = std::mem::take(&mut replica.checking);
        if was_checking {
            replica.quiet_since = now;
        }
        match (replica.state, capacity) {
            (State::Ejected { .. }, Some(capacity)) => {
                replica.state = State::Ready;
                replica.capacity = capacity.max(1);
                // One more failure ejects it again.
                replica.failures = if replica.on_probation() { FAILURES_TO_EJECT - 1 } else { 0 };
                // It does not make up for the turns that it missed.
                replica.pass = pass;
            }
            (State::Ejected { .. }, None) => replica.eject(now, jitter),
            (State::Ready, None) if was_checking => replica.eject(now, jitter),
            _ => {}
        }
        was_checking && capacity.is_none()
    }

    /// The next instant after `now` at which something changes by itself: a probe or, after `patience`, a check falls
    /// due, or a pause ends.
    pub fn wakes_at(&self, now: Instant, patience: Duration) -> Option<Instant> {
        let wakes = self.replicas.iter().flat_map(|replica| {
            let change = match replica.state {
                State::Ejected { probe_at, probing: false } => Some(probe_at),
                State::Ready => replica.busy_until.filter(|&until| until > now),
                _ => None,
            };
            [change, replica.check_at(patience)]
        });
        wakes.flatten().min()
    }

    /// Whether `address` is in the set, whatever its state.
    pub fn knows(&self, address: &str) -> bool {
        self.replicas.iter().any(|replica| *replica.address == *address)
    }

    /// Everybody, in the order in which they came.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// How many are in which state.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for replica in &self.replicas {
            match replica.state {
                State::Ready => {
                    census.ready += 1;
                    census.capacity += replica.capacity;
                }
                State::Ejected { .. } => census.ejected += 1,
                State::Draining => census.draining += 1,
            }
        }
        census
    }

    fn find(&mut self, address: &str) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| *replica.address == *address)
    }

    fn forget_drained(&mut self) {
        self.replicas.retain(|replica| replica.state != State::Draining || replica.in_flight > 0);
    }
}

impl Replica {
    fn has_slot(&self, now: Instant) -> bool {
        self.state == State::Ready && self.in_flight < self.slots() && self.busy_until.is_none_or(|until| until <= now)
    }

    fn slots(&self) -> usize {
        if self.on_probation() { 1 } else { self.capacity }
    }

    /// Smaller is sooner. Equals take turns in the order of their last ones, since later turns never have a smaller pass.
    fn turn(&self) -> (u64, u64) {
        (self.pass, self.last_turn)
    }

    /// It was ejected and has not answered a request since: it gets one at a time.
    fn on_probation(&self) -> bool {
        self.backoffs > 0
    }

    /// When to ask whether it still lives, if it holds requests; be it in rotation, out of it, or no longer published.
    fn check_at(&self, patience: Duration) -> Option<Instant> {
        (self.in_flight > 0 && !self.checking).then(|| self.quiet_since + patience)
    }

    fn eject(&mut self, now: Instant, jitter: f64) {
        self.state = State::Ejected { probe_at: now + backoff(self.backoffs, jitter), probing: false };
        self.backoffs = self.backoffs.saturating_add(1);
    }
}

/// 100 ms, doubled by every one before up to 800 ms, plus or minus a fifth.
fn backoff(before: u32, jitter: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(before.min(16)));
    doubled.min(LAST_BACKOFF).mul_f64(0.8 + 0.4 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rotation(addresses: &[&str]) -> Rotation {
        let (mut rotation, now) = (Rotation::default(), Instant::now());
        rotation.publish(&set(addresses), now);
        join(&mut rotation, now);
        rotation
    }

    /// Every newcomer answers its probe.
    fn join(rotation: &mut Rotation, now: Instant) {
        for address in rotation.due_probes(now) {
            rotation.probed(&address, Some(1), now, 0.5);
        }
    }

    fn set(addresses: &[&str]) -> BTreeSet<Address> {
        addresses.iter().map(|&address| address.into()).collect()
    }

    fn pick(rotation: &mut Rotation, now: Instant) -> Option<Address> {
        rotation.pick(Demands::default(), now)
    }

    fn retry(rotation: &mut Rotation, tried: &str, now: Instant) -> Option<Address> {
        rotation.pick(Demands { tried: &[tried.into()], is_suspect: false }, now)
    }

    /// The next `count` turns, none of which ends.
    fn picks(rotation: &mut Rotation, now: Instant, count: usize) -> Vec<String> {
        (0..count).map(|_| pick(rotation, now).map_or("none".into(), |address| address.to_string())).collect()
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    const OK: Verdict = Verdict::Answered { capacity: None };

    #[test]
    fn turns_go_round_those_with_a_free_slot() {
        let now = Instant::now();
        let mut rotation = rotation(&["a", "b", "c"]);
        assert_eq!(picks(&mut rotation, now, 4), ["a", "b", "c", "none"]);
        rotation.release("b", false, Verdict::Answered { capacity: Some(2) }, now, 0.5);
        rotation.release("a", false, OK, now, 0.5);
        assert_eq!(picks(&mut rotation, now, 4), ["a", "b", "b", "none"]);
    }

    #[test]
    fn a_retry_goes_to_another_replica_if_there_is_one() {
        let now = Instant::now();
        let mut rotation = rotation(&["a", "b"]);
        assert_eq!(retry(&mut rotation, "a", now), Some("b".into()));
        assert_eq!(retry(&mut rotation, "a", now), None, "b is busy, and worth waiting for");
        rotation.publish(&set(&["a"]), now);
        assert_eq!(retry(&mut rotation, "a", now), Some("a".into()), "nobody else is left");
    }

    #[test]
    fn unreachable_replicas_are_out_until_a_probe_succeeds() {
        let start = Instant::now();
        let mut rotation = rotation(&["a"]);
        pick(&mut rotation, start);
        rotation.release("a", false, Verdict::Unreachable, start, 0.5);
        assert_eq!(pick(&mut rotation, start), None);
        assert_eq!(rotation.wakes_at(start, PATIENCE), Some(start + FIRST_BACKOFF));
        assert!(rotation.due_probes(start).is_empty());
        let later = start + FIRST_BACKOFF;
        assert_eq!(rotation.due_probes(later), ["a".into()]);
        assert!(rotation.due_probes(later).is_empty(), "one probe at a time");
        rotation.probed("a", None, later, 0.5);
        assert_eq!(rotation.wakes_at(later, PATIENCE), Some(later + 2 * FIRST_BACKOFF));
        let last = later + 2 * FIRST_BACKOFF;
        assert_eq!(rotation.due_probes(last), ["a".into()]);
        rotation.probed("a", Some(4), last, 0.5);
        assert_eq!(rotation.census(), Census { ready: 1, capacity: 4, ..Census::default() });
        assert!(pick(&mut rotation, last).is_some());
        assert_eq!(pick(&mut rotation, last), None, "on probation, one request at a time");
        rotation.release("a", false, Verdict::Failed, last, 0.5);
        assert_eq!(
            rotation.wakes_at(last, PATIENCE),
            Some(last + 4 * FIRST_BACKOFF),
            "a good probe does not shorten it"
        );
        let well = last + 4 * FIRST_BACKOFF;
        assert_eq!(rotation.due_probes(well), ["a".into()]);
        rotation.probed("a", Some(4), well, 0.5);
        assert!(pick(&mut rotation, well).is_some());
        rotation.release("a", false, OK, well, 0.5);
        assert_eq!([(); 5].map(|()| pick(&mut rotation, well).is_some()), [true, true, true, true, false]);
    }

    #[test]
    fn newcomers_take_part_once_they_are_ready() {
        let now = Instant::now();
        let mut rotation = Rotation::default();
        rotation.publish(&set(&["a"]), now);
        assert_eq!(pick(&mut rotation, now), None);
        assert_eq!(rotation.due_probes(now), ["a".into()]);
        rotation.probed("a", Some(2), now, 0.5);
        assert_eq!([(); 3].map(|()| pick(&mut rotation, now).is_some()), [true, true, false]);
    }

    #[test]
    fn faults_eject_after_three_in_a_row_and_busy_never_does() {
        let now = Instant::now();
        let mut rotation = rotation(&["a"]);
        for verdict in [Verdict::Failed, Verdict::Failed, OK, Verdict::Failed, Verdict::Failed] {
            assert!(pick(&mut rotation, now).is_some());
            rotation.release("a", false, verdict, now, 0.5);
        }
        for _ in 0..9 {
            rotation.release("a", false, Verdict::Unfinished, now, 0.5);
            rotation.release("a", false, Verdict::Busy, now, 0.5);
        }
        assert_eq!(pick(&mut rotation, now), None, "busy means a short pause");
        assert_eq!(rotation.wakes_at(now, PATIENCE), Some(now + BUSY_PAUSE));
        assert!(pick(&mut rotation, now + BUSY_PAUSE).is_some());
        rotation.release("a", false, Verdict::Failed, now, 0.5);
        assert_eq!(rotation.census().ejected, 1);
    }

    #[test]
    fn work_is_counted_once_however_many_wait_for_it() {
        let mut rotation = Rotation::new(Balance::RoundRobin);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        rotation.publish(&set(&["a"]), start);
        rotation.probed("a", Some(2), start, 0.5);
        let mut worked = |taken: &[u64], released: u64| {
            for &taken in taken {
                assert!(pick(&mut rotation, at(taken)).is_some());
            }
            rotation.release("a", false, OK, at(released), 0.5).expect("it is there").as_millis()
        };
        // Two at once end after 100 and 150 ms; the next one, sent at 120, after 210; then a pause.
        assert_eq!(worked(&[0, 0], 100), 100);
        assert_eq!(worked(&[120], 150), 50);
        assert_eq!(worked(&[], 210), 60);
        assert_eq!(worked(&[900], 950), 50);
    }

    #[test]
    fn an_unpublished_replica_finishes_what_it_holds() {
        let now = Instant::now();
        let mut rotation = rotation(&["a", "b"]);
        pick(&mut rotation, now);
        rotation.publish(&set(&["b"]), now);
        assert_eq!(rotation.census().draining, 1);
        assert_eq!(pick(&mut rotation, now), Some("b".into()));
        rotation.release("a", false, OK, now, 0.5);
        assert_eq!(rotation.census(), Census { ready: 1, capacity: 1, ..Census::default() });
    }

    #[test]
    fn a_quiet_replica_is_asked_whether_it_lives() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let patience = Duration::from_millis(300);
        let mut rotation = rotation(&["a", "b"]);
        assert_eq!(picks(&mut rotation, start, 2), ["a", "b"]);
        rotation.release("b", false, OK, at(100), 0.5);
        assert_eq!(rotation.wakes_at(at(100), patience), Some(at(300)));
        assert!(rotation.due_checks(at(299), patience).is_empty());
        assert_eq!(rotation.due_checks(at(300), patience), ["a".into()], "b holds nothing");
        assert!(rotation.due_checks(at(300), patience).is_empty(), "one check at a time");
        assert!(!rotation.probed("a", Some(1), at(310), 0.5), "slow, but alive");
        assert_eq!(rotation.due_checks(at(610), patience), ["a".into()]);
        assert!(rotation.probed("a", None, at(900), 0.5), "what it holds goes to others");
        assert_eq!(rotation.census().ejected, 1);
        assert_eq!(rotation.due_checks(at(1200), patience), ["a".into()], "it holds something still");
        assert!(rotation.probed("a", None, at(1250), 0.5));
        rotation.release("a", false, Verdict::Unfinished, at(1250), 0.5);
        assert!(rotation.due_checks(at(9000), patience).is_empty());
    }

    #[test]
    fn suspects_never_share_a_replica() {
        let now = Instant::now();
        let mut rotation = Rotation::default();
        rotation.publish(&set(&["a", "b"]), now);
        for address in rotation.due_probes(now) {
            rotation.probed(&address, Some(3), now, 0.5);
        }
        let suspect = Demands { is_suspect: true, ..Demands::default() };
        let held = [(); 3].map(|()| rotation.pick(suspect, now));
        assert_eq!(held, [Some("a".into()), Some("b".into()), None]);
        assert_eq!(picks(&mut rotation, now, 5), ["a", "b", "a", "b", "none"], "others join them");
        rotation.release("b", true, OK, now, 0.5);
        assert_eq!(rotation.pick(suspect, now), Some("b".into()));
    }

    #[test]
    fn the_least_loaded_replica_is_chosen_by_its_share() {
        let now = Instant::now();
        let mut rotation = Rotation::new(Balance::LeastLoaded);
        rotation.publish(&set(&["a", "b"]), now);
        for (address, capacity) in rotation.due_probes(now).into_iter().zip([1, 4]) {
            rotation.probed(&address, Some(capacity), now, 0.5);
        }
        assert_eq!(picks(&mut rotation, now, 6), ["a", "b", "b", "b", "b", "none"]);
    }

    proptest! {
        #[test]
        fn turns_among_free_equals_go_to_whoever_waited_longest(
            capacity in 1..4_usize,
            steps in prop::collection::vec((any::<bool>(), 0..9_usize), 1..300),
        ) {
            let now = Instant::now();
            let names = ["a", "b", "c", "d", "e"];
            let mut rotation = Rotation::default();
            rotation.publish(&set(&names), now);
            for address in rotation.due_probes(now) {
                rotation.probed(&address, Some(capacity), now, 0.5);
            }
            // When each had its last turn, and what each holds.
            let (mut last_turns, mut held) = ([0; 5], [0; 5]);
            for (turn, (takes, which)) in steps.into_iter().enumerate() {
                if takes {
                    let free = (0..5).filter(|&index| held[index] < capacity);
                    let expected = free.min_by_key(|&index| (last_turns[index], index));
                    let picked = pick(&mut rotation, now);
                    prop_assert_eq!(picked.as_deref(), expected.map(|index| names[index]));
                    if let Some(index) = expected {
                        last_turns[index] = turn + 1;
                        held[index] += 1;
                    }
                } else if held[which % 5] > 0 {
                    held[which % 5] -= 1;
                    rotation.release(names[which % 5], false, OK, now, 0.5);
                }
            }
        }

        #[test]
        fn shares_are_proportional_to_capacity(capacities in prop::collection::vec(1..9_usize, 1..6)) {
            let now = Instant::now();
            let names: Vec<Address> = (0..capacities.len()).map(|index| index.to_string().into()).collect();
            let mut rotation = Rotation::default();
            rotation.publish(&names.iter().cloned().collect(), now);
            for (address, &capacity) in rotation.due_probes(now).iter().zip(&capacities) {
                rotation.probed(address, Some(capacity), now, 0.5);
            }
            let rounds = 20;
            let total: usize = capacities.iter().sum();
            let mut turns = vec![0_usize; capacities.len()];
            for _ in 0..total * rounds {
                let address = pick(&mut rotation, now).expect("everybody is free");
                turns[address.parse::<usize>().expect("its index")] += 1;
                rotation.release(&address, false, OK, now, 0.5);
            }
            for (index, &capacity) in capacities.iter().enumerate() {
                prop_assert!(turns[index].abs_diff(capacity * rounds) <= capacity, "{turns:?} for {capacities:?}");
            }
        }

        #[test]
        fn nobody_ever_holds_more_than_it_advertises(steps in prop::collection::vec((0..4_u8, 0..4_usize), 0..300)) {
            let now = Instant::now();
            let names = ["a", "b", "c", "d"];
            let mut rotation = rotation(&names);
            let mut held: Vec<Address> = Vec::new();
            for (action, which) in steps {
                match action {
                    0 | 1 => held.extend(pick(&mut rotation, now)),
                    2 if !held.is_empty() => {
                        let address = held.remove(which % held.len());
                        rotation.release(&address, false, OK, now, 0.5);
                    }
                    _ => {
                        rotation.publish(&set(&names[which..]), now);
                        join(&mut rotation, now);
                    }
                }
                for replica in rotation.replicas() {
                    let holds = held.iter().filter(|&address| *address == replica.address).count();
                    prop_assert_eq!(replica.in_flight, holds);
                    prop_assert!(replica.in_flight <= replica.capacity);
                }
                prop_assert!(held.iter().all(|address| rotation.replicas().iter().any(|r| r.address == *address)));
            }
        }
    }
}
