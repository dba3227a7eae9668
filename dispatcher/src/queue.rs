//! Bounded FIFO of jobs with deadlines. Knows time only as an argument; knows nothing of HTTP or of replicas.

use std::collections::VecDeque;
use std::time::Instant;

/// Names a job for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A job in its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its name.
    pub ticket: Ticket,
    /// It is never handed out at or after this instant.
    pub deadline: Instant,
    /// What it counts towards [`Bounds::bytes`].
    pub bytes: usize,
    /// The job itself.
    pub job: T,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Jobs at most.
    pub length: usize,
    /// Bytes of all jobs together at most.
    pub bytes: usize,
}

/// The bound that a refused job would have broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// [`Bounds::length`]
    Length,
    /// [`Bounds::bytes`]
    Bytes,
}

/// First in, first out; a job that comes back from a failed attempt goes first.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: VecDeque<Entry<T>>,
    bytes: usize,
    bounds: Bounds,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, bounds }
    }

    /// Adds a job at the end.
    ///
    /// # Errors
    /// Gives the entry back with the bound that it would have broken.
    pub fn push(&mut self, entry: Entry<T>) -> Result<(), (Full, Entry<T>)> {
        if self.waiting.len() >= self.bounds.length {
            return Err((Full::Length, entry));
        }
        if self.bytes.saturating_add(entry.bytes) > self.bounds.bytes {
            return Err((Full::Bytes, entry));
        }
        self.bytes += entry.bytes;
        self.waiting.push_back(entry);
        Ok(())
    }

    /// Puts a job that was already admitted back at the head. It has been counted once and is never refused, so the
    /// bounds can be exceeded by what was in flight.
    pub fn push_front(&mut self, entry: Entry<T>) {
        self.bytes += entry.bytes;
        self.waiting.push_front(entry);
    }

    /// Takes the first job whose deadline lies after `now` and for which `place` finds one. Expired jobs stay until
    /// their owner removes them.
    pub fn pop<P>(&mut self, now: Instant, mut place: impl FnMut(&T) -> Option<P>) -> Option<(Entry<T>, P)> {
        let waiting = self.waiting.iter().enumerate().filter(|(_, entry)| entry.deadline > now);
        let (first, place) = waiting.filter_map(|(index, entry)| Some((index, place(&entry.job)?))).next()?;
        Some((self.take(first)?, place))
    }

    /// Takes the job `ticket`, wherever it stands; nothing if it does not wait here.
    pub fn remove(&mut self, ticket: Ticket) -> Option<Entry<T>> {
        let index = self.waiting.iter().position(|entry| entry.ticket == ticket)?;
        self.take(index)
    }

    /// Jobs waiting.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn take(&mut self, index: usize) -> Option<Entry<T>> {
        let entry = self.waiting.remove(index)?;
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn entry(ticket: u64, deadline: Instant, bytes: usize) -> Entry<()> {
        Entry { ticket: Ticket(ticket), deadline, bytes, job: () }
    }

    /// The ticket of the first job, wherever it may go.
    fn pop(queue: &mut Queue<()>, now: Instant) -> Option<u64> {
        queue.pop(now, |()| Some(())).map(|(entry, ())| entry.ticket.0)
    }

    #[test]
    fn a_job_without_a_place_lets_the_next_pass() {
        let now = Instant::now();
        let mut queue = Queue::new(Bounds { length: 10, bytes: 10 });
        for job in ["picky", "easy", "late"] {
            let deadline = now + Duration::from_secs(1);
            queue.push(Entry { ticket: Ticket(0), deadline, bytes: 1, job }).expect("there is room");
        }
        let popped = queue.pop(now, |job| (*job != "picky").then_some(7)).expect("somebody has a place");
        assert_eq!((popped.0.job, popped.1), ("easy", 7));
        assert_eq!(queue.pop(now, |_| Some(())).map(|(entry, ())| entry.job), Some("picky"), "it kept its turn");
    }

    #[test]
    fn expired_jobs_are_never_handed_out() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::new(Bounds { length: 10, bytes: 10 });
        for (ticket, deadline) in [(1, at(1)), (2, at(5)), (3, at(1))] {
            queue.push(entry(ticket, deadline, 1)).expect("there is room");
        }
        assert_eq!(pop(&mut queue, at(1)), Some(2));
        assert_eq!(pop(&mut queue, at(1)), None);
        assert_eq!(queue.len(), 2);
        assert!(queue.remove(Ticket(1)).is_some() && queue.remove(Ticket(3)).is_some());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_returned_job_goes_first_and_is_never_refused() {
        let later = Instant::now() + Duration::from_secs(9);
        let mut queue = Queue::new(Bounds { length: 1, bytes: 4 });
        queue.push(entry(1, later, 4)).expect("there is room");
        assert_eq!(queue.push(entry(2, later, 0)).map_err(|(full, _)| full), Err(Full::Length));
        queue.push_front(entry(0, later, 4));
        assert_eq!(pop(&mut queue, Instant::now()), Some(0));
        assert_eq!(queue.remove(Ticket(1)).map(|entry| entry.ticket), Some(Ticket(1)));
        assert_eq!(queue.push(entry(3, later, 5)).map_err(|(full, _)| full), Err(Full::Bytes));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { bytes: usize, lifetime: u64 },
        Pop,
        Remove(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..50_usize, 0..20_u64).prop_map(|(bytes, lifetime)| Step::Push { bytes, lifetime }),
            Just(Step::Pop),
            (0..60_u64).prop_map(Step::Remove),
        ]
    }

    proptest! {
        #[test]
        fn order_bounds_and_bytes_hold_whatever_happens(steps in prop::collection::vec(step(), 0..200)) {
            let start = Instant::now();
            let bounds = Bounds { length: 5, bytes: 100 };
            let mut queue = Queue::new(bounds);
            // The plainest possible model: what waits, in order.
            let mut model: Vec<(u64, u64, usize)> = Vec::new();
            for (clock, step) in steps.into_iter().enumerate() {
                let clock = clock as u64;
                let now = start + Duration::from_secs(clock);
                match step {
                    Step::Push { bytes, lifetime } => {
                        let room = model.len() < bounds.length
                            && model.iter().map(|job| job.2).sum::<usize>() + bytes <= bounds.bytes;
                        let deadline = clock + lifetime;
                        let pushed = queue.push(entry(clock, start + Duration::from_secs(deadline), bytes));
                        prop_assert_eq!(pushed.is_ok(), room);
                        if room {
                            model.push((clock, deadline, bytes));
                        }
                    }
                    Step::Pop => {
                        let first = model.iter().position(|job| job.1 > clock).map(|index| model.remove(index).0);
                        prop_assert_eq!(pop(&mut queue, now), first);
                    }
                    Step::Remove(ticket) => {
                        let there = model.iter().position(|job| job.0 == ticket).map(|index| model.remove(index).0);
                        prop_assert_eq!(queue.remove(Ticket(ticket)).map(|entry| entry.ticket.0), there);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.bytes, model.iter().map(|job| job.2).sum::<usize>());
            }
        }
    }
}
