//! Bounded queue of jobs with deadlines, in order of arrival. Knows time only as an argument; knows nothing of HTTP or
//! of replicas.

use admission::Order;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Names a job for as long as the process lives. Later jobs have higher tickets, which makes it the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A job in its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its name, and its place in the order.
    pub ticket: Ticket,
    /// An answer after this instant misses the objective.
    pub objective: Instant,
    /// It is never handed out at or after this instant.
    pub deadline: Instant,
    /// The job itself.
    pub job: T,
}

/// Two classes, each in order of arrival. Under [`Order::Fifo`] everybody stays in the first.
#[derive(Debug)]
pub struct Queue<T> {
    order: Order,
    /// Can still meet the objective, as far as is known.
    punctual: BTreeMap<Ticket, Entry<T>>,
    /// The punctual ones by what makes them late; empty under [`Order::Fifo`].
    objectives: BTreeSet<(Instant, Ticket)>,
    /// Stepped aside; nobody comes back from here into the first class.
    late: BTreeMap<Ticket, Entry<T>>,
    max_length: usize,
}

impl<T> Queue<T> {
    /// An empty queue for so many jobs.
    pub fn new(order: Order, max_length: usize) -> Self {
        let (punctual, objectives, late) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { order, punctual, objectives, late, max_length }
    }

    /// Adds a job in its place.
    ///
    /// # Errors
    /// Gives the entry back when the queue is full.
    pub fn push(&mut self, entry: Entry<T>) -> Result<(), Entry<T>> {
        if self.len() >= self.max_length {
            return Err(entry);
        }
        self.put_back(entry);
        Ok(())
    }

    /// Puts a job that was already admitted back where it was: before all that came after it. It has been counted once
    /// and is never refused, so the bound can be exceeded by what was in flight.
    pub fn put_back(&mut self, entry: Entry<T>) {
        if self.order == Order::LateLast {
            self.objectives.insert((entry.objective, entry.ticket));
        }
        self.punctual.insert(entry.ticket, entry);
    }

    /// Moves the jobs that would miss the objective, even if they were handed out now and took `service_time`, to
    /// the second class.
    pub fn demote(&mut self, now: Instant, service_time: Duration) {
        while let Some(&(objective, ticket)) = self.objectives.first()
            && objective < now + service_time
        {
            self.objectives.pop_first();
            let entry = self.punctual.remove(&ticket).expect("every objective is a punctual job's");
            self.late.insert(ticket, entry);
        }
    }

    /// Takes the first job whose deadline lies after `now` and for which `place` finds one, late ones last; those only
    /// while a replica that takes `service_time` would answer before their deadlines. Expired jobs stay until their
    /// owner removes them.
    pub fn pop<P>(
        &mut self,
        now: Instant,
        service_time: Duration,
        mut place: impl FnMut(&T) -> Option<P>,
    ) -> Option<(Entry<T>, P)> {
        let punctual = self.punctual.values().filter(|entry| entry.deadline > now);
        let late = self.late.values().filter(|entry| entry.deadline > now + service_time);
        let mut alive = punctual.chain(late);
        let (ticket, place) = alive.find_map(|entry| Some((entry.ticket, place(&entry.job)?)))?;
        Some((self.remove(ticket)?, place))
    }

    /// Takes the job `ticket`, wherever it stands; nothing if it does not wait here.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Entry<T>> {
        let entry = self.punctual.remove(&ticket).or_else(|| self.late.remove(&ticket))?;
        self.objectives.remove(&(entry.objective, ticket));
        Some(entry)
    }

    /// Jobs waiting.
    pub fn len(&self) -> usize {
        self.punctual.len() + self.late.len()
    }

    /// Of those, the late ones.
    pub fn late_len(&self) -> usize {
        self.late.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AMPLE: usize = 10;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn entry(ticket: u64, deadline: Instant) -> Entry<()> {
        Entry { ticket: Ticket(ticket), objective: deadline, deadline, job: () }
    }

    /// The ticket of the first job, wherever it may go.
    fn pop(queue: &mut Queue<()>, now: Instant) -> Option<u64> {
        queue.demote(now, Duration::ZERO);
        queue.pop(now, Duration::ZERO, |()| Some(())).map(|(entry, ())| entry.ticket.0)
    }

    #[test]
    fn a_job_without_a_place_lets_the_next_pass() {
        let now = Instant::now();
        let mut queue = Queue::new(Order::LateLast, AMPLE);
        let deadline = now + seconds(1);
        for (ticket, job) in ["picky", "easy", "late"].into_iter().enumerate() {
            let entry = Entry { ticket: Ticket(ticket as u64), objective: deadline, deadline, job };
            queue.push(entry).expect("there is room");
        }
        let popped =
            queue.pop(now, Duration::ZERO, |job| (*job != "picky").then_some(7)).expect("somebody has a place");
        assert_eq!((popped.0.job, popped.1), ("easy", 7));
        assert_eq!(
            queue.pop(now, Duration::ZERO, |_| Some(())).map(|(entry, ())| entry.job),
            Some("picky"),
            "it kept its turn"
        );
    }

    #[test]
    fn expired_jobs_are_never_handed_out() {
        let start = Instant::now();
        let at = |count| start + seconds(count);
        let mut queue = Queue::new(Order::LateLast, AMPLE);
        for (ticket, deadline) in [(1, at(1)), (2, at(5)), (3, at(1))] {
            queue.push(entry(ticket, deadline)).expect("there is room");
        }
        assert_eq!(pop(&mut queue, at(1)), Some(2));
        assert_eq!(pop(&mut queue, at(1)), None);
        assert_eq!(queue.len(), 2);
        assert!(queue.remove(Ticket(1)).is_some() && queue.remove(Ticket(3)).is_some());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_returned_job_goes_first_and_is_never_refused() {
        let later = Instant::now() + seconds(9);
        let mut queue = Queue::new(Order::LateLast, 1);
        queue.push(entry(1, later)).expect("there is room");
        assert_eq!(queue.push(entry(2, later)).map_err(|entry| entry.ticket), Err(Ticket(2)));
        queue.put_back(entry(0, later));
        assert_eq!(pop(&mut queue, Instant::now()), Some(0));
        assert_eq!(queue.remove(Ticket(1)).map(|entry| entry.ticket), Some(Ticket(1)));
    }

    #[test]
    fn late_jobs_step_aside_and_are_still_served() {
        let start = Instant::now();
        let order = |order| {
            let mut queue = Queue::new(order, AMPLE);
            // (ticket, objective) in seconds; a service time of two makes the first two late at the first second.
            for (ticket, objective) in [(1, 2), (2, 1), (3, 4), (4, 3)] {
                let (objective, deadline) = (start + seconds(objective), start + seconds(60));
                queue.push(Entry { objective, ..entry(ticket, deadline) }).expect("there is room");
            }
            let now = start + seconds(1);
            queue.demote(now, seconds(2));
            let late = queue.late_len();
            let served =
                [(); 4].map(|()| queue.pop(now, Duration::ZERO, |()| Some(())).map(|(entry, ())| entry.ticket.0));
            (late, served.map(|ticket| ticket.expect("four jobs")))
        };
        assert_eq!(order(Order::LateLast), (2, [3, 4, 1, 2]));
        assert_eq!(order(Order::Fifo), (0, [1, 2, 3, 4]));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push {
            punctual_for: u64,
            lifetime: u64,
        },
        Pop {
            service_time: u64,
        },
        /// What was taken last comes back.
        PutBack,
        Remove(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..9_u64, 0..20_u64)
                .prop_map(|(punctual_for, lifetime)| Step::Push { punctual_for, lifetime }),
            2 => (0..4_u64).prop_map(|service_time| Step::Pop { service_time }),
            1 => Just(Step::PutBack),
            1 => (0..60_u64).prop_map(Step::Remove),
        ]
    }

    /// The plainest possible model: what waits, in order of arrival; times in seconds since the start.
    #[derive(Debug, Clone, Copy)]
    struct Waiting {
        ticket: u64,
        objective: u64,
        deadline: u64,
        late: bool,
    }

    proptest! {
        #[test]
        fn order_and_bound_hold_whatever_happens(
            fifo in any::<bool>(),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let start = Instant::now();
            let max_length = 5;
            let mut queue = Queue::new(if fifo { Order::Fifo } else { Order::LateLast }, max_length);
            let mut model: Vec<Waiting> = Vec::new();
            let mut taken: Vec<(Entry<()>, Waiting)> = Vec::new();
            for (clock, step) in steps.into_iter().enumerate() {
                let clock = clock as u64;
                let now = start + seconds(clock);
                match step {
                    Step::Push { punctual_for, lifetime } => {
                        let room = model.len() < max_length;
                        let (objective, deadline) = (clock + punctual_for, clock + lifetime);
                        let pushed = queue.push(Entry {
                            objective: start + seconds(objective),
                            ..entry(clock, start + seconds(deadline))
                        });
                        prop_assert_eq!(pushed.is_ok(), room);
                        if room {
                            model.push(Waiting { ticket: clock, objective, deadline, late: false });
                        }
                    }
                    Step::Pop { service_time } => {
                        for job in &mut model {
                            job.late |= !fifo && job.objective < clock + service_time;
                        }
                        let expected = model
                            .iter()
                            .enumerate()
                            .filter(|(_, job)| job.deadline > clock + if job.late { service_time } else { 0 })
                            .min_by_key(|(_, job)| (job.late, job.ticket))
                            .map(|(index, _)| index);
                        queue.demote(now, seconds(service_time));
                        let popped = queue.pop(now, seconds(service_time), |()| Some(())).map(|(entry, ())| entry);
                        prop_assert_eq!(popped.as_ref().map(|entry| entry.ticket.0), expected.map(|index| model[index].ticket));
                        if let (Some(entry), Some(index)) = (popped, expected) {
                            taken.push((entry, model.remove(index)));
                        }
                    }
                    Step::PutBack => {
                        if let Some((entry, waiting)) = taken.pop() {
                            queue.put_back(entry);
                            model.push(Waiting { late: false, ..waiting });
                        }
                    }
                    Step::Remove(ticket) => {
                        let index = model.iter().position(|job| job.ticket == ticket);
                        let expected = index.map(|index| model.remove(index).ticket);
                        prop_assert_eq!(queue.remove(Ticket(ticket)).map(|entry| entry.ticket.0), expected);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.late_len(), model.iter().filter(|job| job.late).count());
            }
        }
    }
}
