//! Bounded queue of requests with deadlines: first the punctual ones, then the late ones. Within each of these classes
//! the tenants take turns by their shares, and each tenant's requests are in order of arrival. Pure: time is an argument.
//! It knows nothing of HTTP or of replicas.

use crate::fair::{FairOrder, Tenant, TenantId};
use admission::Order;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// A request's number in the order of arrival. A later request has a higher number. No two requests of the process have
/// the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceNumber(pub u64);

/// A request in the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueEntry<T> {
    /// The request's number in the order of arrival.
    pub sequence_number: SequenceNumber,
    /// The tenant to which the request belongs.
    pub tenant: Tenant,
    /// An answer after this instant misses the objective.
    pub objective: Instant,
    /// The request is never dispatched at or after this instant.
    pub deadline: Instant,
    /// The request. The queue only passes it on.
    pub request: T,
}

/// The queue. It has two classes of requests, punctual and late. Under [`Order::Fifo`] all requests count as punctual.
#[derive(Debug)]
pub struct Queue<T> {
    order: Order,
    entries: HashMap<SequenceNumber, WaitingEntry<T>>,
    /// Requests that could still meet the objective when [`Queue::demote`] was last called, and those added since.
    punctual: FairOrder,
    /// The objectives and numbers of the punctual requests, the earliest objective first; empty under [`Order::Fifo`].
    objectives: BTreeSet<(Instant, SequenceNumber)>,
    /// Requests that can no longer meet the objective. They stay late while they wait.
    late: FairOrder,
    max_length: usize,
}

/// A request and the class in which it waits.
#[derive(Debug)]
struct WaitingEntry<T> {
    entry: QueueEntry<T>,
    is_late: bool,
}

impl<T> Queue<T> {
    /// An empty queue with room for `max_length` requests.
    pub fn new(order: Order, max_length: usize) -> Self {
        Self {
            order,
            entries: HashMap::new(),
            punctual: FairOrder::default(),
            objectives: BTreeSet::new(),
            late: FairOrder::default(),
            max_length,
        }
    }

    /// Adds a request at its place in the order of arrival of its tenant. If the queue is full, and another tenant has
    /// more requests in it by its share, the newest request of the tenant with the most makes room and is returned. So
    /// one tenant can fill an empty queue, and has to give it up when others come.
    ///
    /// # Errors
    /// If the queue is full and no other tenant has more requests in it, the entry is returned.
    pub fn push(&mut self, entry: QueueEntry<T>) -> Result<Option<QueueEntry<T>>, QueueEntry<T>> {
        let mut displaced = None;
        if self.len() >= self.max_length {
            match self.tenant_over(entry.tenant).and_then(|tenant| self.remove_newest(tenant)) {
                Some(newest) => displaced = Some(newest),
                None => return Err(entry),
            }
        }
        self.requeue(entry);
        Ok(displaced)
    }

    /// The tenant with the most waiting requests by its share, if it has more than `arriving` would have with one more.
    fn tenant_over(&self, arriving: Tenant) -> Option<TenantId> {
        // A fraction length / share is compared without rounding.
        let is_more = |(length, share): (usize, u32), (than, of_share): (usize, u32)| {
            length as u64 * u64::from(of_share) > than as u64 * u64::from(share)
        };
        let mut most = (self.length_of(arriving.id) + 1, arriving.share);
        let mut found = None;
        for (tenant, _) in self.punctual.backlogs().chain(self.late.backlogs()) {
            let backlog = (self.length_of(tenant.id), tenant.share);
            if tenant.id != arriving.id && is_more(backlog, most) {
                (most, found) = (backlog, Some(tenant.id));
            }
        }
        found
    }

    /// Removes the request of a tenant that came last, a late one if there is any.
    fn remove_newest(&mut self, tenant: TenantId) -> Option<QueueEntry<T>> {
        let newest = self.late.last_of(tenant).or_else(|| self.punctual.last_of(tenant))?;
        self.remove(newest)
    }

    /// Returns a dispatched request to its place in the order of arrival of its tenant. The queue takes such a request
    /// even if it is full, so its length can exceed its bound by the number of requests in flight.
    pub fn requeue(&mut self, entry: QueueEntry<T>) {
        if self.order == Order::LateLast {
            self.objectives.insert((entry.objective, entry.sequence_number));
        }
        self.punctual.insert(entry.tenant, entry.sequence_number);
        self.entries.insert(entry.sequence_number, WaitingEntry { entry, is_late: false });
    }

    /// Moves punctual requests to the late ones if they would miss the objective even with a dispatch at `now` and an
    /// answer after `service_time`.
    pub fn demote(&mut self, now: Instant, service_time: Duration) {
        while let Some(&(objective, sequence_number)) = self.objectives.first()
            && objective < now + service_time
        {
            self.objectives.pop_first();
            let waiting = self.entries.get_mut(&sequence_number).expect("every objective belongs to a waiting request");
            waiting.is_late = true;
            self.punctual.remove(waiting.entry.tenant.id, sequence_number);
            self.late.insert(waiting.entry.tenant, sequence_number);
        }
    }

    /// Takes the first request for which `find_replica` finds a replica. Punctual requests come before late ones. A
    /// punctual request is passed over once its deadline has come. A late request is passed over once a replica that
    /// takes `service_time` would answer at its deadline or later. Such requests stay in the queue until
    /// [`Queue::remove`] removes them.
    pub fn pop<R>(
        &mut self,
        now: Instant,
        service_time: Duration,
        mut find_replica: impl FnMut(&T) -> Option<R>,
    ) -> Option<(QueueEntry<T>, R)> {
        let mut find_in = |class: &FairOrder, latest: Instant| {
            class.iter().find_map(|(tenant, sequence_number)| {
                let entry = &self.entries[&sequence_number].entry;
                let replica = if entry.deadline > latest { find_replica(&entry.request) } else { None };
                replica.map(|replica| (tenant, sequence_number, replica))
            })
        };
        let (tenant, sequence_number, replica) =
            find_in(&self.punctual, now).or_else(|| find_in(&self.late, now + service_time))?;
        let WaitingEntry { entry, is_late } =
            self.entries.remove(&sequence_number).expect("the request was just found");
        if is_late {
            self.late.dispatch(tenant, sequence_number);
        } else {
            self.punctual.dispatch(tenant, sequence_number);
            self.objectives.remove(&(entry.objective, sequence_number));
        }
        Some((entry, replica))
    }

    /// Removes a request of either class; `None` if the request is not in the queue.
    pub fn remove(&mut self, sequence_number: SequenceNumber) -> Option<QueueEntry<T>> {
        let WaitingEntry { entry, is_late } = self.entries.remove(&sequence_number)?;
        if is_late {
            self.late.remove(entry.tenant.id, sequence_number);
        } else {
            self.punctual.remove(entry.tenant.id, sequence_number);
            self.objectives.remove(&(entry.objective, sequence_number));
        }
        Some(entry)
    }

    /// Number of requests in the queue, late ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of late requests in the queue.
    pub fn late_len(&self) -> usize {
        self.late.len()
    }

    /// Whether the queue has no request.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The request that is next, whether or not it can find a replica, and whether it is late.
    pub fn first(&self) -> Option<(&QueueEntry<T>, bool)> {
        let (_, sequence_number) = self.punctual.iter().next().or_else(|| self.late.iter().next())?;
        let WaitingEntry { entry, is_late } = self.entries.get(&sequence_number)?;
        Some((entry, *is_late))
    }

    /// Numbers of punctual and of late requests that would be dispatched before a request of `tenant` that arrives now.
    pub fn ahead_of(&self, tenant: Tenant) -> (usize, usize) {
        (self.punctual.ahead_of(tenant), self.late.ahead_of(tenant))
    }

    /// Number of waiting requests of a tenant.
    fn length_of(&self, tenant: TenantId) -> usize {
        self.punctual.length(tenant) + self.late.length(tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A bound of the queue that is larger than the number of requests that a test adds.
    const UNFILLED: usize = 10;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn entry(number: u64, deadline: Instant) -> QueueEntry<()> {
        let sequence_number = SequenceNumber(number);
        QueueEntry { sequence_number, tenant: Tenant::default(), objective: deadline, deadline, request: () }
    }

    /// Takes the first request, while replicas have free slots and answer at once. Returns its sequence number.
    fn pop(queue: &mut Queue<()>, now: Instant) -> Option<u64> {
        queue.demote(now, Duration::ZERO);
        queue.pop(now, Duration::ZERO, |()| Some(())).map(|(entry, ())| entry.sequence_number.0)
    }

    #[test]
    fn a_request_that_finds_no_replica_lets_the_next_one_pass() {
        let now = Instant::now();
        let mut queue = Queue::new(Order::LateLast, UNFILLED);
        let deadline = now + seconds(1);
        for (number, request) in ["constrained", "free", "last"].into_iter().enumerate() {
            let sequence_number = SequenceNumber(number as u64);
            let tenant = Tenant::default();
            let entry = QueueEntry { sequence_number, tenant, objective: deadline, deadline, request };
            queue.push(entry).expect("there is room");
        }
        let (entry, replica) = queue
            .pop(now, Duration::ZERO, |request| (*request != "constrained").then_some(7))
            .expect("two requests find a replica");
        assert_eq!((entry.request, replica), ("free", 7));
        let next = queue.pop(now, Duration::ZERO, |_| Some(())).map(|(entry, ())| entry.request);
        assert_eq!(next, Some("constrained"), "the request has kept its place");
    }

    #[test]
    fn expired_requests_are_never_dispatched() {
        let start = Instant::now();
        let at = |count| start + seconds(count);
        let mut queue = Queue::new(Order::LateLast, UNFILLED);
        for (number, deadline) in [(1, at(1)), (2, at(5)), (3, at(1))] {
            queue.push(entry(number, deadline)).expect("there is room");
        }
        assert_eq!(pop(&mut queue, at(1)), Some(2));
        assert_eq!(pop(&mut queue, at(1)), None);
        assert_eq!(queue.len(), 2);
        assert!(queue.remove(SequenceNumber(1)).is_some() && queue.remove(SequenceNumber(3)).is_some());
        assert!(queue.is_empty());
    }

    #[test]
    fn a_requeued_request_returns_to_its_place_and_is_never_refused() {
        let later = Instant::now() + seconds(9);
        let mut queue = Queue::new(Order::LateLast, 1);
        queue.push(entry(1, later)).expect("there is room");
        assert_eq!(queue.push(entry(2, later)).map_err(|entry| entry.sequence_number), Err(SequenceNumber(2)));
        queue.requeue(entry(0, later));
        assert_eq!(pop(&mut queue, Instant::now()), Some(0));
        assert_eq!(queue.remove(SequenceNumber(1)).map(|entry| entry.sequence_number), Some(SequenceNumber(1)));
    }

    #[test]
    fn late_requests_come_last_and_are_still_served() {
        let start = Instant::now();
        let order = |order| {
            let mut queue = Queue::new(order, UNFILLED);
            // (sequence number, objective in seconds). After 1 s, a service time of 2 s makes requests late whose
            // objective is before 3 s: requests 1 and 2.
            for (number, objective) in [(1, 2), (2, 1), (3, 4), (4, 3)] {
                let (objective, deadline) = (start + seconds(objective), start + seconds(60));
                queue.push(QueueEntry { objective, ..entry(number, deadline) }).expect("there is room");
            }
            let now = start + seconds(1);
            queue.demote(now, seconds(2));
            let late = queue.late_len();
            let served = [(); 4].map(|()| {
                let (entry, ()) = queue.pop(now, Duration::ZERO, |()| Some(())).expect("four requests wait");
                entry.sequence_number.0
            });
            (late, served)
        };
        assert_eq!(order(Order::LateLast), (2, [3, 4, 1, 2]));
        assert_eq!(order(Order::Fifo), (0, [1, 2, 3, 4]));
    }

    #[test]
    fn a_full_queue_takes_room_from_the_tenant_that_has_more_than_its_share() {
        let (start, later) = (Instant::now(), Instant::now() + seconds(60));
        let (greedy, polite) = (Tenant { id: TenantId(1), share: 2 }, Tenant { id: TenantId(2), share: 1 });
        let mut queue = Queue::new(Order::LateLast, 6);
        let push = |queue: &mut Queue<()>, number, tenant, objective| {
            let pushed = queue.push(QueueEntry { tenant, objective, ..entry(number, later) });
            pushed.map(|displaced| displaced.map(|entry| entry.sequence_number.0)).map_err(|_refused| ())
        };
        // The request 2 is late from the first second on.
        for number in 0..6 {
            let objective = if number == 2 { start } else { later };
            assert_eq!(push(&mut queue, number, greedy, objective), Ok(None));
        }
        queue.demote(start + seconds(1), Duration::ZERO);
        assert_eq!(push(&mut queue, 6, greedy, later), Err(()), "it has the whole queue already");
        assert_eq!(push(&mut queue, 7, polite, later), Ok(Some(2)), "a late request makes room first");
        assert_eq!(push(&mut queue, 8, polite, later), Ok(Some(5)), "then the newest one");
        assert_eq!(push(&mut queue, 9, polite, later), Err(()), "both have their shares");
        assert_eq!(push(&mut queue, 10, greedy, later), Err(()));
        assert_eq!((queue.len(), queue.length_of(greedy.id), queue.length_of(polite.id)), (6, 4, 2));
    }

    #[test]
    fn the_classes_go_before_the_shares_and_a_tenant_sees_only_its_share_ahead() {
        let (start, later) = (Instant::now(), Instant::now() + seconds(60));
        let (greedy, polite) = (Tenant { id: TenantId(1), share: 1 }, Tenant { id: TenantId(2), share: 1 });
        let mut queue = Queue::new(Order::LateLast, 100);
        // The first two requests of each tenant are late.
        for (number, tenant, objective) in (0..20)
            .map(|number| (number, greedy, if number < 2 { start } else { later }))
            .chain((20..24).map(|number| (number, polite, if number < 22 { start } else { later })))
        {
            queue.push(QueueEntry { tenant, objective, ..entry(number, later) }).expect("there is room");
        }
        let now = start + seconds(1);
        queue.demote(now, Duration::ZERO);
        assert_eq!(queue.ahead_of(polite), (2 + 3, 2 + 2));
        assert_eq!(queue.ahead_of(greedy), (18 + 2, 2 + 2));
        assert_eq!(queue.ahead_of(Tenant::default()), (2, 2));
        let served: Vec<u64> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(served[..5], [2, 22, 3, 23, 4]);
        assert_eq!(served[20..], [0, 20, 1, 21]);
    }

    /// A step of the property test. One step is made every simulated second. Times are in seconds.
    #[derive(Debug, Clone)]
    enum QueueStep {
        Push {
            punctual_for: u64,
            lifetime: u64,
        },
        Pop {
            service_time: u64,
        },
        /// Returns the request that was dispatched last to the queue.
        Requeue,
        /// Removes the request with this sequence number.
        Remove(u64),
    }

    fn step() -> impl Strategy<Value = QueueStep> {
        prop_oneof![
            3 => (0..9_u64, 0..20_u64)
                .prop_map(|(punctual_for, lifetime)| QueueStep::Push { punctual_for, lifetime }),
            2 => (0..4_u64).prop_map(|service_time| QueueStep::Pop { service_time }),
            1 => Just(QueueStep::Requeue),
            1 => (0..60_u64).prop_map(QueueStep::Remove),
        ]
    }

    /// One request in the reference queue. Times are seconds since the start.
    #[derive(Debug, Clone, Copy)]
    struct ReferenceRequest {
        number: u64,
        objective: u64,
        deadline: u64,
        late: bool,
    }

    /// A second implementation of the queue, to compare with: a list that is searched from end to end.
    #[derive(Debug)]
    struct ReferenceQueue {
        fifo: bool,
        max_length: usize,
        waiting: Vec<ReferenceRequest>,
    }

    impl ReferenceQueue {
        /// Adds a request if there is room. Returns whether there was room.
        fn push(&mut self, request: ReferenceRequest) -> bool {
            let has_room = self.waiting.len() < self.max_length;
            if has_room {
                self.waiting.push(request);
            }
            has_room
        }

        fn pop(&mut self, clock: u64, service_time: u64) -> Option<ReferenceRequest> {
            for request in &mut self.waiting {
                request.late |= !self.fifo && request.objective < clock + service_time;
            }
            let unexpired = self.waiting.iter().filter(|request| {
                let needed = if request.late { service_time } else { 0 };
                request.deadline > clock + needed
            });
            let number = unexpired.min_by_key(|request| (request.late, request.number))?.number;
            self.remove(number)
        }

        fn remove(&mut self, number: u64) -> Option<ReferenceRequest> {
            let index = self.waiting.iter().position(|request| request.number == number)?;
            Some(self.waiting.remove(index))
        }
    }

    proptest! {
        #[test]
        fn the_queue_does_the_same_as_a_plain_list(
            fifo in any::<bool>(),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let start = Instant::now();
            let mut reference = ReferenceQueue { fifo, max_length: 5, waiting: Vec::new() };
            let mut queue = Queue::new(if fifo { Order::Fifo } else { Order::LateLast }, reference.max_length);
            let mut dispatched: Vec<(QueueEntry<()>, ReferenceRequest)> = Vec::new();
            for (clock, step) in (0..).zip(steps) {
                let now = start + seconds(clock);
                match step {
                    QueueStep::Push { punctual_for, lifetime } => {
                        let (objective, deadline) = (clock + punctual_for, clock + lifetime);
                        let entry = QueueEntry {
                            objective: start + seconds(objective),
                            ..entry(clock, start + seconds(deadline))
                        };
                        let request = ReferenceRequest { number: clock, objective, deadline, late: false };
                        let has_room = reference.push(request);
                        prop_assert_eq!(queue.push(entry).is_ok(), has_room);
                    }
                    QueueStep::Pop { service_time } => {
                        queue.demote(now, seconds(service_time));
                        let popped = queue.pop(now, seconds(service_time), |()| Some(())).map(|(entry, ())| entry);
                        let expected = reference.pop(clock, service_time);
                        let number = popped.as_ref().map(|entry| entry.sequence_number.0);
                        prop_assert_eq!(number, expected.map(|request| request.number));
                        dispatched.extend(popped.zip(expected));
                    }
                    QueueStep::Requeue => {
                        if let Some((entry, request)) = dispatched.pop() {
                            queue.requeue(entry);
                            reference.waiting.push(ReferenceRequest { late: false, ..request });
                        }
                    }
                    QueueStep::Remove(number) => {
                        let removed = queue.remove(SequenceNumber(number)).map(|entry| entry.sequence_number.0);
                        prop_assert_eq!(removed, reference.remove(number).map(|request| request.number));
                    }
                }
                prop_assert_eq!(queue.len(), reference.waiting.len());
                prop_assert_eq!(queue.late_len(), reference.waiting.iter().filter(|request| request.late).count());
            }
        }
    }
}
