//! Round robin over replicas that have a free slot. Knows time and chance only as arguments; opens no socket.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A replica's published `host:port`.
pub type Address = String;

/// Failures in a row, of a replica that does answer, before it is ejected.
const FAILURES_TO_EJECT: u32 = 3;

/// First back-off of an ejected replica; doubled by every failed probe.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// Longest back-off: with its jitter under a second, so that a replica that is well again is used within one.
const LAST_BACKOFF: Duration = Duration::from_millis(800);

/// How long a replica that said `busy` is passed over: another dispatcher filled it, and its answer frees a slot.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

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
    replicas: Vec<Replica>,
    next: usize,
}

impl Rotation {
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
            if !self.replicas.iter().any(|replica| replica.address == *address) {
                self.replicas.push(Replica {
                    address: address.clone(),
                    capacity: 1,
                    in_flight: 0,
                    state: State::Ejected { probe_at: now, probing: false },
                    failures: 0,
                    backoffs: 0,
                    busy_until: None,
                });
            }
        }
        self.forget_drained();
    }

    /// Takes a slot of the next replica in turn, passing over `tried` as long as any other is in rotation.
    pub fn pick(&mut self, tried: &[Address], now: Instant) -> Option<Address> {
        let untried_exists =
            self.replicas.iter().any(|replica| replica.state == State::Ready && !tried.contains(&replica.address));
        let count = self.replicas.len();
        let chosen = (0..count).map(|step| (self.next + step) % count).find(|&index| {
            let replica = &self.replicas[index];
            replica.has_slot(now) && !(untried_exists && tried.contains(&replica.address))
        })?;
        self.next = (chosen + 1) % count;
        self.replicas[chosen].in_flight += 1;
        Some(self.replicas[chosen].address.clone())
    }

    /// Whether a job that was never tried would find a slot.
    pub fn has_slot(&self, now: Instant) -> bool {
        self.replicas.iter().any(|replica| replica.has_slot(now))
    }

    /// Gives a slot back. `jitter`, 0 to 1, spreads the probes of replicas that failed together.
    pub fn release(&mut self, address: &str, verdict: Verdict, now: Instant, jitter: f64) {
        let Some(replica) = self.find(address) else { return };
        replica.in_flight = replica.in_flight.saturating_sub(1);
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

    /// What a probe found: the advertised capacity of a ready replica, or nothing.
    pub fn probed(&mut self, address: &str, capacity: Option<usize>, now: Instant, jitter: f64) {
        let Some(replica) = self.find(address) else { return };
        if let State::Ejected { .. } = replica.state {
            match capacity {
                Some(capacity) => {
                    replica.state = State::Ready;
                    replica.capacity = capacity.max(1);
                    // One more failure ejects it again.
                    replica.failures = if replica.on_probation() { FAILURES_TO_EJECT - 1 } else { 0 };
                }
                None => replica.eject(now, jitter),
            }
        }
    }

    /// The next instant after `now` at which something changes by itself: a probe falls due, or a pause ends.
    pub fn wakes_at(&self, now: Instant) -> Option<Instant> {
        self.replicas
            .iter()
            .filter_map(|replica| match replica.state {
                State::Ejected { probe_at, probing: false, .. } => Some(probe_at),
                State::Ready => replica.busy_until.filter(|&until| until > now),
                _ => None,
            })
            .min()
    }

    /// Everybody, in turn order from an arbitrary start.
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
        self.replicas.iter_mut().find(|replica| replica.address == address)
    }

    fn forget_drained(&mut self) {
        let gone = |replica: &Replica| replica.state == State::Draining && replica.in_flight == 0;
        // Removing somebody before `next` would skip a turn.
        let before_next = self.replicas.iter().take(self.next).filter(|replica| gone(replica)).count();
        self.replicas.retain(|replica| !gone(replica));
        self.next -= before_next;
    }
}

impl Replica {
    fn has_slot(&self, now: Instant) -> bool {
        let slots = if self.on_probation() { 1 } else { self.capacity };
        self.state == State::Ready && self.in_flight < slots && self.busy_until.is_none_or(|until| until <= now)
    }

    /// It was ejected and has not answered a request since: it gets one at a time.
    fn on_probation(&self) -> bool {
        self.backoffs > 0
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
        addresses.iter().map(|&address| address.to_owned()).collect()
    }

    const OK: Verdict = Verdict::Answered { capacity: None };

    #[test]
    fn turns_go_round_those_with_a_free_slot() {
        let now = Instant::now();
        let mut rotation = rotation(&["a", "b", "c"]);
        let pick = |rotation: &mut Rotation| rotation.pick(&[], now);
        assert_eq!([(); 4].map(|()| pick(&mut rotation)), [Some("a".into()), Some("b".into()), Some("c".into()), None]);
        rotation.release("b", Verdict::Answered { capacity: Some(2) }, now, 0.5);
        rotation.release("a", OK, now, 0.5);
        assert_eq!([(); 4].map(|()| pick(&mut rotation)), [Some("a".into()), Some("b".into()), Some("b".into()), None]);
    }

    #[test]
    fn a_retry_goes_to_another_replica_if_there_is_one() {
        let now = Instant::now();
        let mut rotation = rotation(&["a", "b"]);
        assert_eq!(rotation.pick(&["a".into()], now), Some("b".into()));
        assert_eq!(rotation.pick(&["a".into()], now), None, "b is busy, and worth waiting for");
        rotation.publish(&set(&["a"]), now);
        assert_eq!(rotation.pick(&["a".into()], now), Some("a".into()), "nobody else is left");
    }

    #[test]
    fn unreachable_replicas_are_out_until_a_probe_succeeds() {
        let start = Instant::now();
        let mut rotation = rotation(&["a"]);
        rotation.pick(&[], start);
        rotation.release("a", Verdict::Unreachable, start, 0.5);
        assert_eq!(rotation.pick(&[], start), None);
        assert_eq!(rotation.wakes_at(start), Some(start + FIRST_BACKOFF));
        assert!(rotation.due_probes(start).is_empty());
        let later = start + FIRST_BACKOFF;
        assert_eq!(rotation.due_probes(later), ["a"]);
        assert!(rotation.due_probes(later).is_empty(), "one probe at a time");
        rotation.probed("a", None, later, 0.5);
        assert_eq!(rotation.wakes_at(later), Some(later + 2 * FIRST_BACKOFF));
        let last = later + 2 * FIRST_BACKOFF;
        assert_eq!(rotation.due_probes(last), ["a"]);
        rotation.probed("a", Some(4), last, 0.5);
        assert_eq!(rotation.census(), Census { ready: 1, capacity: 4, ..Census::default() });
        assert!(rotation.pick(&[], last).is_some());
        assert_eq!(rotation.pick(&[], last), None, "on probation, one request at a time");
        rotation.release("a", Verdict::Failed, last, 0.5);
        assert_eq!(rotation.wakes_at(last), Some(last + 4 * FIRST_BACKOFF), "a good probe does not shorten it");
        let well = last + 4 * FIRST_BACKOFF;
        assert_eq!(rotation.due_probes(well), ["a"]);
        rotation.probed("a", Some(4), well, 0.5);
        assert!(rotation.pick(&[], well).is_some());
        rotation.release("a", OK, well, 0.5);
        assert_eq!([(); 5].map(|()| rotation.pick(&[], well).is_some()), [true, true, true, true, false]);
    }

    #[test]
    fn newcomers_take_part_once_they_are_ready() {
        let now = Instant::now();
        let mut rotation = Rotation::default();
        rotation.publish(&set(&["a"]), now);
        assert_eq!(rotation.pick(&[], now), None);
        assert_eq!(rotation.due_probes(now), ["a"]);
        rotation.probed("a", Some(2), now, 0.5);
        assert_eq!([(); 3].map(|()| rotation.pick(&[], now).is_some()), [true, true, false]);
    }

    #[test]
    fn faults_eject_after_three_in_a_row_and_busy_never_does() {
        let now = Instant::now();
        let mut rotation = rotation(&["a"]);
        for verdict in [Verdict::Failed, Verdict::Failed, OK, Verdict::Failed, Verdict::Failed] {
            assert!(rotation.pick(&[], now).is_some());
            rotation.release("a", verdict, now, 0.5);
        }
        for _ in 0..9 {
            rotation.release("a", Verdict::Unfinished, now, 0.5);
            rotation.release("a", Verdict::Busy, now, 0.5);
        }
        assert_eq!(rotation.pick(&[], now), None, "busy means a short pause");
        assert_eq!(rotation.wakes_at(now), Some(now + BUSY_PAUSE));
        assert!(rotation.pick(&[], now + BUSY_PAUSE).is_some());
        rotation.release("a", Verdict::Failed, now, 0.5);
        assert_eq!(rotation.census().ejected, 1);
    }

    #[test]
    fn an_unpublished_replica_finishes_what_it_holds() {
        let now = Instant::now();
        let mut rotation = rotation(&["a", "b"]);
        rotation.pick(&[], now);
        rotation.publish(&set(&["b"]), now);
        assert_eq!(rotation.census().draining, 1);
        assert_eq!(rotation.pick(&[], now), Some("b".into()));
        rotation.release("a", OK, now, 0.5);
        assert_eq!(rotation.census(), Census { ready: 1, capacity: 1, ..Census::default() });
    }

    proptest! {
        #[test]
        fn nobody_ever_holds_more_than_it_advertises(steps in prop::collection::vec((0..4_u8, 0..4_usize), 0..300)) {
            let now = Instant::now();
            let names = ["a", "b", "c", "d"];
            let mut rotation = rotation(&names);
            let mut held: Vec<Address> = Vec::new();
            for (action, which) in steps {
                match action {
                    0 | 1 => held.extend(rotation.pick(&[], now)),
                    2 if !held.is_empty() => {
                        let address = held.remove(which % held.len());
                        rotation.release(&address, OK, now, 0.5);
                    }
                    _ => {
                        rotation.publish(&set(&names[which..]), now);
                        join(&mut rotation, now);
                    }
                }
                for replica in rotation.replicas() {
                    let holds = held.iter().filter(|address| **address == replica.address).count();
                    prop_assert_eq!(replica.in_flight, holds);
                    prop_assert!(replica.in_flight <= replica.capacity);
                }
                prop_assert!(held.iter().all(|address| rotation.replicas().iter().any(|r| r.address == *address)));
            }
        }
    }
}
