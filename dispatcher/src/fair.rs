//! The order in which waiting requests of several tenants are dispatched: weighted fair queueing between the tenants,
//! and order of arrival within a tenant. Pure: it knows the numbers of requests, and nothing of time or of replicas.
//!
//! It is start-time fair queueing (Goyal, Vin and Cheng, 1996) with requests of equal length. Each tenant has a start
//! tag. The tenant with the lowest tag is next, and each dispatch raises its tag by 1 / share. A tenant that begins to
//! wait starts at the tag of the last dispatch, so it gets no credit for the time without requests. While two tenants
//! with the shares a and b wait, the numbers of their dispatches divided by their shares differ by at most 1/a + 1/b.

use crate::queue::SequenceNumber;
use std::collections::{BTreeMap, VecDeque};

/// The step of a start tag for the share 1. A whole number, so that tags add up without rounding. A tag of 64 bits is
/// enough for 10^13 dispatches.
const STEP: u64 = 1 << 20;

/// The largest share. Shares are at least 1.
pub const MAX_SHARE: u32 = 1000;

/// From this number of remembered tags on, those that have no effect any more are forgotten.
const FORGET_FROM: usize = 64;

/// The number of emptied lists whose memory is kept for the next tenants, so that a single tenant that comes and goes
/// allocates nothing.
const SPARE_LISTS: usize = 16;

/// The number of a tenant. The number 0 is for requests without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TenantId(pub u32);

/// The client or the group of clients to which a request belongs, and its share of the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// The number of the tenant.
    pub id: TenantId,
    /// The share of the replicas' work, in proportion to the shares of the other tenants that wait; 1 to [`MAX_SHARE`].
    pub share: u32,
}

impl Default for Tenant {
    /// The tenant of all requests if no tokens are required.
    fn default() -> Self {
        Self { id: TenantId::default(), share: 1 }
    }
}

/// The numbers of waiting requests, in the order in which they should be dispatched.
///
/// The tenants that wait are in a list that is searched from end to end: there are few of them, and mostly one.
#[derive(Debug, Default)]
pub struct FairOrder {
    /// The tenants with waiting requests, the next one first.
    flows: Vec<Flow>,
    /// The start tags of tenants without waiting requests, if those tags are above the virtual time.
    tags: BTreeMap<TenantId, u64>,
    /// Number of waiting requests.
    length: usize,
    /// The start tag of the last dispatch, or the highest of all tags once no request waits.
    virtual_time: u64,
    /// The highest start tag that a dispatch has led to.
    highest_tag: u64,
    spare: Vec<VecDeque<SequenceNumber>>,
}

/// The waiting requests of one tenant.
#[derive(Debug)]
struct Flow {
    tenant: Tenant,
    start_tag: u64,
    /// In order of arrival; never empty.
    waiting: VecDeque<SequenceNumber>,
}

impl Flow {
    /// The tenant with the lowest rank is next. Tenants with equal tags are in the order of arrival of their first
    /// requests.
    fn rank(&self) -> (u64, SequenceNumber) {
        (self.start_tag, self.waiting[0])
    }
}

impl FairOrder {
    /// Adds a request of `tenant` at its place in the tenant's order of arrival.
    pub fn insert(&mut self, tenant: Tenant, sequence_number: SequenceNumber) {
        self.length += 1;
        let Some(index) = self.index_of(tenant.id) else {
            let start_tag = self.tags.remove(&tenant.id).unwrap_or_default().max(self.virtual_time);
            let mut waiting = self.spare.pop().unwrap_or_default();
            waiting.push_back(sequence_number);
            return self.place(Flow { tenant, start_tag, waiting });
        };
        let flow = &mut self.flows[index];
        flow.tenant.share = tenant.share;
        if flow.waiting.back().is_some_and(|&last| last < sequence_number) {
            return flow.waiting.push_back(sequence_number);
        }
        let place = flow.waiting.partition_point(|&other| other < sequence_number);
        flow.waiting.insert(place, sequence_number);
        if place == 0 {
            self.place_again(index);
        }
    }

    /// Removes a request that is not dispatched.
    ///
    /// # Panics
    /// If the request does not wait.
    pub fn remove(&mut self, tenant: TenantId, sequence_number: SequenceNumber) {
        self.take(tenant, sequence_number, 0);
    }

    /// Removes a request that is dispatched, and charges its tenant for it.
    ///
    /// # Panics
    /// If the request does not wait.
    pub fn dispatch(&mut self, tenant: TenantId, sequence_number: SequenceNumber) {
        self.take(tenant, sequence_number, STEP);
    }

    /// Removes a request and raises the start tag of its tenant by `step / share`.
    fn take(&mut self, tenant: TenantId, sequence_number: SequenceNumber, step: u64) {
        self.length -= 1;
        let index = self.index_of(tenant).expect("a tenant with a waiting request is in the list");
        let flow = &mut self.flows[index];
        let place = flow.waiting.binary_search(&sequence_number).expect("only waiting requests are removed");
        flow.waiting.remove(place);
        if step > 0 {
            self.virtual_time = self.virtual_time.max(flow.start_tag);
            flow.start_tag += step / u64::from(flow.tenant.share);
            self.highest_tag = self.highest_tag.max(flow.start_tag);
        }
        if flow.waiting.is_empty() {
            let flow = self.flows.remove(index);
            self.forget(flow);
        } else if place == 0 || step > 0 {
            self.place_again(index);
        }
    }

    /// Keeps the tag of a tenant that has no waiting requests any more, as long as it has an effect.
    fn forget(&mut self, flow: Flow) {
        if self.spare.len() < SPARE_LISTS {
            self.spare.push(flow.waiting);
        }
        if self.flows.is_empty() {
            // Nothing was kept waiting for the tenants that were served last, so they are not behind the others now.
            self.virtual_time = self.highest_tag;
            self.tags.clear();
        } else if flow.start_tag > self.virtual_time {
            if self.tags.len() >= FORGET_FROM {
                let virtual_time = self.virtual_time;
                self.tags.retain(|_, &mut tag| tag > virtual_time);
            }
            self.tags.insert(flow.tenant.id, flow.start_tag);
        }
    }

    /// Puts a tenant at its place by rank.
    fn place(&mut self, flow: Flow) {
        let index = self.flows.partition_point(|other| other.rank() < flow.rank());
        self.flows.insert(index, flow);
    }

    /// Moves a tenant to its place after its rank has changed.
    fn place_again(&mut self, index: usize) {
        if self.flows.len() > 1 {
            let flow = self.flows.remove(index);
            self.place(flow);
        }
    }

    fn index_of(&self, tenant: TenantId) -> Option<usize> {
        self.flows.iter().position(|flow| flow.tenant.id == tenant)
    }

    /// All waiting requests: those of the tenant that is next, in order of arrival, then those of the other tenants.
    pub fn iter(&self) -> impl Iterator<Item = (TenantId, SequenceNumber)> {
        self.flows.iter().flat_map(|flow| flow.waiting.iter().map(|&number| (flow.tenant.id, number)))
    }

    /// Number of waiting requests.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Number of requests that would be dispatched before a request of `tenant` that arrives now. While the tenant's
    /// waiting requests and this one are dispatched, every other tenant gets its share at most.
    pub fn ahead_of(&self, tenant: Tenant) -> usize {
        let own = self.length(tenant.id);
        let others = self.backlogs().filter(|(other, _)| other.id != tenant.id);
        let before = others.map(|(other, length)| {
            let dispatches = (own + 1) as f64 * f64::from(other.share) / f64::from(tenant.share);
            length.min(dispatches.ceil() as usize)
        });
        own + before.sum::<usize>()
    }

    /// The tenants with waiting requests, and the number of these requests.
    pub fn backlogs(&self) -> impl Iterator<Item = (Tenant, usize)> {
        self.flows.iter().map(|flow| (flow.tenant, flow.waiting.len()))
    }

    /// Number of waiting requests of a tenant.
    pub fn length(&self, tenant: TenantId) -> usize {
        self.index_of(tenant).map_or(0, |index| self.flows[index].waiting.len())
    }

    /// The waiting request of a tenant that arrived last; `None` if none waits.
    pub fn last_of(&self, tenant: TenantId) -> Option<SequenceNumber> {
        self.flows[self.index_of(tenant)?].waiting.back().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tenant(id: u32, share: u32) -> Tenant {
        Tenant { id: TenantId(id), share }
    }

    /// Dispatches the next request. Returns its tenant and its number.
    fn next(order: &mut FairOrder) -> Option<(u32, u64)> {
        let (tenant, number) = order.iter().next()?;
        order.dispatch(tenant, number);
        Some((tenant.0, number.0))
    }

    #[test]
    fn tenants_take_turns_and_each_keeps_its_order_of_arrival() {
        let mut order = FairOrder::default();
        for (id, number) in [(1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (3, 6)] {
            order.insert(tenant(id, 1), SequenceNumber(number));
        }
        let numbers: Vec<u64> = std::iter::from_fn(|| next(&mut order)).map(|(_, number)| number).collect();
        assert_eq!(numbers, [0, 4, 6, 1, 5, 2, 3]);
    }

    #[test]
    fn a_tenant_with_a_larger_share_is_served_more_often() {
        let mut order = FairOrder::default();
        for number in 0..40 {
            order.insert(tenant(1, 3), SequenceNumber(2 * number));
            order.insert(tenant(2, 1), SequenceNumber(2 * number + 1));
        }
        let of_first = (0..20).filter(|_| next(&mut order).expect("80 requests wait").0 == 1).count();
        assert_eq!(of_first, 15);
    }

    #[test]
    fn a_tenant_gets_no_credit_for_the_time_without_requests() {
        let mut order = FairOrder::default();
        for number in 0..20 {
            order.insert(tenant(1, 1), SequenceNumber(number));
        }
        for _ in 0..10 {
            next(&mut order);
        }
        for number in 20..30 {
            order.insert(tenant(2, 1), SequenceNumber(number));
        }
        let of_second = (0..8).filter(|_| next(&mut order).expect("20 requests wait").0 == 2).count();
        assert!((4..=5).contains(&of_second), "{of_second} of 8 dispatches");
    }

    #[test]
    fn the_requests_ahead_are_those_of_the_tenant_and_the_share_of_the_others() {
        let mut order = FairOrder::default();
        for number in 0..50 {
            order.insert(tenant(1, 1), SequenceNumber(number));
        }
        for number in 50..53 {
            order.insert(tenant(2, 2), SequenceNumber(number));
        }
        for (arriving, expected) in [(tenant(1, 1), 53), (tenant(2, 2), 5), (tenant(3, 1), 3), (tenant(3, 100), 2)] {
            assert_eq!(order.ahead_of(arriving), expected, "{arriving:?}");
        }
    }

    #[test]
    fn tenants_that_send_nothing_more_are_forgotten() {
        let mut order = FairOrder::default();
        for number in 0..10_000 {
            order.insert(tenant(0, 1), SequenceNumber(number));
        }
        for id in 1..5000 {
            order.insert(tenant(id, 1), SequenceNumber(u64::from(id) + 10_000));
            let served = [next(&mut order), next(&mut order)];
            assert!(served.iter().flatten().any(|&(served, _)| served == id), "{served:?}");
        }
        assert!(order.tags.len() <= FORGET_FROM, "{} tags", order.tags.len());
    }

    #[derive(Debug, Clone)]
    enum OrderStep {
        Insert(u32),
        Dispatch,
        /// Removes the waiting request at this place in the order, counted in the round.
        Remove(usize),
    }

    fn step() -> impl Strategy<Value = OrderStep> {
        prop_oneof![
            3 => (0..4_u32).prop_map(OrderStep::Insert),
            2 => Just(OrderStep::Dispatch),
            1 => any::<usize>().prop_map(OrderStep::Remove),
        ]
    }

    proptest! {
        #[test]
        fn each_tenant_that_waits_gets_its_share(
            shares in prop::array::uniform4(1..20_u32),
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let mut order = FairOrder::default();
            // The waiting requests of each tenant.
            let mut waiting: [BTreeSet<u64>; 4] = Default::default();
            // For each pair of tenants, the dispatches since both have been waiting without a break.
            let mut dispatched = [[(0_u32, 0_u32); 4]; 4];
            for (number, step) in (0..).zip(steps) {
                match step {
                    OrderStep::Insert(id) => {
                        order.insert(tenant(id, shares[id as usize]), SequenceNumber(number));
                        waiting[id as usize].insert(number);
                    }
                    OrderStep::Dispatch => {
                        let Some((id, number)) = next(&mut order) else {
                            prop_assert!(waiting.iter().all(BTreeSet::is_empty), "nothing is lost");
                            continue;
                        };
                        let id = id as usize;
                        prop_assert_eq!(waiting[id].pop_first(), Some(number), "the order of arrival of a tenant");
                        for (other, pairs) in dispatched.iter_mut().enumerate() {
                            pairs[id].1 += 1;
                            if other == id {
                                pairs.iter_mut().for_each(|pair| pair.0 += 1);
                            }
                        }
                    }
                    OrderStep::Remove(place) => {
                        let removed = (!order.is_empty()).then(|| order.iter().nth(place % order.len())).flatten();
                        if let Some((id, number)) = removed {
                            order.remove(id, number);
                            prop_assert!(waiting[id.0 as usize].remove(&number.0));
                        }
                    }
                }
                prop_assert_eq!(order.len(), waiting.iter().map(BTreeSet::len).sum::<usize>());
                for one in 0..4 {
                    prop_assert_eq!(order.length(TenantId(one as u32)), waiting[one].len());
                    for other in 0..4 {
                        if waiting[one].is_empty() || waiting[other].is_empty() {
                            dispatched[one][other] = (0, 0);
                        }
                        let (one_share, other_share) = (f64::from(shares[one]), f64::from(shares[other]));
                        let (ours, theirs) = dispatched[one][other];
                        let gap = f64::from(ours) / one_share - f64::from(theirs) / other_share;
                        let bound = 1.0 / one_share + 1.0 / other_share + 1e-3;
                        prop_assert!(one == other || gap.abs() <= bound, "{gap} of {bound} between {one} and {other}");
                    }
                }
            }
        }

        #[test]
        fn a_single_tenant_is_served_in_order_of_arrival(numbers in prop::collection::btree_set(0..1000_u64, 0..50)) {
            let mut order = FairOrder::default();
            // Requests return to the queue in any order.
            for number in numbers.iter().rev() {
                order.insert(Tenant::default(), SequenceNumber(*number));
            }
            let found: Vec<u64> = std::iter::from_fn(|| next(&mut order)).map(|(_, number)| number).collect();
            prop_assert_eq!(found, numbers.into_iter().collect::<Vec<_>>());
        }
    }
}
