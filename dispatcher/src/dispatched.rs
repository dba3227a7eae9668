//! The requests that have a permit, by the id of the permit and by replica. Knows nothing of how they are sent.

use crate::request::DispatchedRequest;
use crate::rotation::ReplicaId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The hash of the ids of permits. This process counts them up, so no client chooses them, and a multiplication spreads
/// them over the table (Fibonacci hashing). The usual hash would take as long as an allocation.
#[derive(Debug, Clone, Default)]
struct PermitHasher(u64);

type PermitHash = BuildHasherDefault<PermitHasher>;

impl Hasher for PermitHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(self.0 ^ u64::from(byte)));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The set of requests that have a permit.
#[derive(Debug, Default)]
pub struct Dispatched {
    requests: HashMap<u64, DispatchedRequest, PermitHash>,
    /// The permits for each replica, by [`ReplicaId::slot`], in no particular order. Without them, finding the requests at
    /// one replica would read those at all replicas, and a failure of many replicas would cost the square of their number.
    by_slot: Vec<Vec<u64>>,
}

impl Dispatched {
    /// Whether there is no request.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether there is a request with this permit.
    pub fn contains(&self, permit_id: u64) -> bool {
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

    /// Adds a request that has got a permit.
    pub fn insert(&mut self, permit_id: u64, request: DispatchedRequest) {
        let slot = request.replica.slot();
        if self.by_slot.len() <= slot {
            self.by_slot.resize_with(slot + 1, Vec::new);
        }
        self.by_slot[slot].push(permit_id);
        let replaced = self.requests.insert(permit_id, request);
        debug_assert!(replaced.is_none(), "the id of a permit is never used again");
    }

    /// Removes the request with this permit. The cost grows with the number of requests at its replica.
    pub fn remove(&mut self, permit_id: u64) -> Option<DispatchedRequest> {
        let request = self.requests.remove(&permit_id)?;
        let at_replica = &mut self.by_slot[request.replica.slot()];
        if let Some(index) = at_replica.iter().position(|&id| id == permit_id) {
            at_replica.swap_remove(index);
        }
        Some(request)
    }

    /// The permits of the requests at `replica`, in the order of their dispatch. Reads no request at another replica.
    pub fn permits_at(&self, replica: ReplicaId) -> Vec<u64> {
        // The ids of permits ascend. A replica that is gone has no requests, so another one may have its place.
        let at_slot = self.by_slot.get(replica.slot()).map_or(&[][..], Vec::as_slice);
        let is_here = |permit_id: &u64| self.get(*permit_id).is_some_and(|request| request.replica == replica);
        let mut permits: Vec<u64> = at_slot.iter().copied().filter(is_here).collect();
        permits.sort_unstable();
        permits
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

    #[test]
    fn the_permits_at_a_replica_are_in_the_order_of_dispatch() {
        let [a, b] = replicas(2)[..] else { unreachable!("there are two replicas") };
        let mut dispatched = Dispatched::default();
        for (permit_id, replica) in [(1, a), (2, b), (9, a), (10, a), (11, b)] {
            dispatched.insert(permit_id, request(replica, permit_id));
        }
        assert_eq!((dispatched.permits_at(a), dispatched.permits_at(b)), (vec![1, 9, 10], vec![2, 11]));
        assert_eq!(dispatched.remove(9).map(|request| request.sequence_number), Some(SequenceNumber(9)));
        assert!(dispatched.remove(9).is_none(), "a request is removed once");
        assert_eq!(dispatched.permits_at(a), [1, 10]);
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
                    prop_assert_eq!(dispatched.permits_at(replica), at_replica.collect::<Vec<u64>>());
                }
                for permit_id in 0..=permit_id {
                    let replica = expected.get(&permit_id).copied();
                    prop_assert_eq!(dispatched.contains(permit_id), replica.is_some());
                    prop_assert_eq!(dispatched.get(permit_id).map(|request| request.replica), replica);
                    let number = dispatched.get_mut(permit_id).map(|request| request.sequence_number);
                    prop_assert_eq!(number, replica.map(|_| SequenceNumber(permit_id)));
                }
                prop_assert_eq!(dispatched.is_empty(), expected.is_empty());
            }
        }
    }
}
