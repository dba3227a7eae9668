//! The requests that have a permit, by the id of the permit and by replica. Knows nothing of how they are sent.

use crate::request::DispatchedRequest;
use crate::rotation::ReplicaId;
use std::collections::{BTreeSet, HashMap};

/// The set of requests that have a permit.
///
/// The ids of permits ascend, so their order is the order of dispatch.
#[derive(Debug, Default)]
pub struct Dispatched {
    requests: HashMap<u64, DispatchedRequest>,
    /// The replica and the permit of each request. Without this order, finding the requests at one replica would read
    /// those at all replicas, and a failure of many replicas would cost the square of their number.
    by_replica: BTreeSet<(ReplicaId, u64)>,
}

impl Dispatched {
    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether there is a request with this permit.
    pub fn contains_key(&self, permit_id: u64) -> bool {
        self.requests.contains_key(&permit_id)
    }

    /// The request with this permit.
    pub fn get(&self, permit_id: u64) -> Option<&DispatchedRequest> {
        self.requests.get(&permit_id)
    }

    /// The request with this permit. Its replica must not be changed, or [`Dispatched::permits_at`] would be wrong; a
    /// request gets another permit for another replica.
    pub fn get_mut(&mut self, permit_id: u64) -> Option<&mut DispatchedRequest> {
        self.requests.get_mut(&permit_id)
    }

    /// Adds a request that has got a permit. The cost grows by the logarithm of the number of requests.
    pub fn insert(&mut self, permit_id: u64, request: DispatchedRequest) {
        self.by_replica.insert((request.replica, permit_id));
        let replaced = self.requests.insert(permit_id, request);
        debug_assert!(replaced.is_none(), "the id of a permit is never used again");
    }

    /// Removes the request with this permit. The cost grows by the logarithm of the number of requests.
    pub fn remove(&mut self, permit_id: u64) -> Option<DispatchedRequest> {
        let request = self.requests.remove(&permit_id)?;
        self.by_replica.remove(&(request.replica, permit_id));
        Some(request)
    }

    /// The permits of the requests at `replica`, in the order of their dispatch. Reads no request at another replica.
    pub fn permits_at(&self, replica: ReplicaId) -> impl Iterator<Item = u64> {
        self.by_replica.range((replica, 0)..=(replica, u64::MAX)).map(|&(_, permit_id)| permit_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fair::Tenant;
    use crate::queue::SequenceNumber;
    use crate::retry::FailedAttempts;
    use crate::rotation::{Balance, EndpointChanges, Rotation};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Instant;

    fn replicas(count: usize) -> Vec<ReplicaId> {
        let mut rotation = Rotation::new(Balance::RoundRobin);
        let added = (0..count).map(|number| (format!("{number}").into(), None)).collect();
        rotation.publish(&EndpointChanges { added, removed: Vec::new() }, Instant::now());
        rotation.replicas().map(|replica| replica.id).collect()
    }

    /// A request at `replica` with the number `number`.
    fn request(replica: ReplicaId, number: u64) -> DispatchedRequest {
        let now = Instant::now();
        DispatchedRequest {
            sequence_number: SequenceNumber(number),
            tenant: Tenant::default(),
            objective: now,
            deadline: now,
            accepted: now,
            waited: None,
            uses_grant: false,
            failed: FailedAttempts::default(),
            replica,
            address: "a".into(),
            stall_notice: None,
            hedge: None,
            twin: None,
        }
    }

    fn permits_at(dispatched: &Dispatched, replica: ReplicaId) -> Vec<u64> {
        dispatched.permits_at(replica).collect()
    }

    #[test]
    fn the_permits_at_a_replica_are_in_the_order_of_dispatch() {
        let [a, b] = replicas(2)[..] else { unreachable!("there are two replicas") };
        let mut dispatched = Dispatched::default();
        for (permit_id, replica) in [(1, a), (2, b), (9, a), (10, a), (11, b)] {
            dispatched.insert(permit_id, request(replica, permit_id));
        }
        assert_eq!((permits_at(&dispatched, a), permits_at(&dispatched, b)), (vec![1, 9, 10], vec![2, 11]));
        assert_eq!(dispatched.remove(9).map(|request| request.sequence_number), Some(SequenceNumber(9)));
        assert!(dispatched.remove(9).is_none(), "a request is removed once");
        assert_eq!(permits_at(&dispatched, a), [1, 10]);
    }

    proptest! {
        #[test]
        fn the_set_answers_as_a_scan_of_all_requests_does(
            steps in prop::collection::vec(prop::option::weighted(0.6, 0..5_usize), 0..200),
            which in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let replicas = replicas(5);
            let (mut dispatched, mut expected) = (Dispatched::default(), BTreeMap::new());
            for (permit_id, (step, which)) in (1..).zip(steps.into_iter().zip(which)) {
                match step {
                    Some(index) => {
                        dispatched.insert(permit_id, request(replicas[index], permit_id));
                        expected.insert(permit_id, replicas[index]);
                    }
                    None if expected.is_empty() => prop_assert!(dispatched.remove(permit_id).is_none()),
                    None => {
                        let removed = *which.get(&expected.keys().copied().collect::<Vec<u64>>());
                        let request = dispatched.remove(removed);
                        prop_assert_eq!(request.map(|request| request.replica), expected.remove(&removed));
                    }
                }
                for &replica in &replicas {
                    let at_replica = expected.iter().filter(|(_, at)| **at == replica).map(|(&permit_id, _)| permit_id);
                    prop_assert_eq!(permits_at(&dispatched, replica), at_replica.collect::<Vec<u64>>());
                }
                for permit_id in 0..=permit_id {
                    let replica = expected.get(&permit_id).copied();
                    prop_assert_eq!(dispatched.contains_key(permit_id), replica.is_some());
                    prop_assert_eq!(dispatched.get(permit_id).map(|request| request.replica), replica);
                    let number = dispatched.get_mut(permit_id).map(|request| request.sequence_number);
                    prop_assert_eq!(number, replica.map(|_| SequenceNumber(permit_id)));
                }
                prop_assert_eq!(dispatched.is_empty(), expected.is_empty());
            }
        }
    }
}
