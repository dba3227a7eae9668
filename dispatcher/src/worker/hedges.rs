//! How the worker sends requests whose objective is in danger to a second replica. `hedge.rs` says which ones.

use super::Worker;
use crate::hedge::NextHedge;
use crate::request::{DispatchedRequest, Twin};
use crate::rotation::{Constraints, ReplicaState};
use std::time::Instant;

impl Worker {
    /// Sends the requests whose objective is in danger to a second replica, too, as far as slots are free, no request
    /// waits and the retry budget permits it. Returns the instant at which the next one becomes due.
    pub(super) fn hedge_due_requests(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let hedging = self.hedging.as_mut()?;
            let candidate = match hedging.next(now, |permit_id| self.dispatched.contains(permit_id)) {
                NextHedge::None => return None,
                NextHedge::At(due) => return Some(due),
                NextHedge::Due(candidate) => candidate,
            };
            // A candidate that stays due is looked at again at the next event, such as a slot that becomes free.
            if !self.queue.is_empty() || !self.rotation.has_free_slot(now) || !self.hedge(candidate.permit_id, now) {
                return None;
            }
            self.hedging.as_mut().expect("it was there above").remove_first();
        }
    }

    /// Gives the request with this permit a second replica. Returns false if no other replica has a free slot, or the
    /// retry budget is used up, and true if the request needs no further look.
    fn hedge(&mut self, permit_id: u64, now: Instant) -> bool {
        let first = self.dispatched.get_mut(permit_id).expect("the candidate is at a replica");
        let Some(sender) = first.hedge.take_if(|sender| !sender.is_closed()) else { return true };
        let is_ready =
            |replica| self.rotation.replica(replica).is_some_and(|replica| replica.state == ReplicaState::Ready);
        let others_are_ready = self.rotation.totals().ready > usize::from(is_ready(first.replica));
        let picked = if others_are_ready && self.retry_budget.permits(now) {
            // While another replica is ready, the one that was tried is passed over. A request that is hedged has no
            // failed attempts.
            let tried = std::slice::from_ref(&first.address);
            self.rotation.pick(Constraints { tried, is_suspect: false }, now)
        } else {
            None
        };
        let Some(replica) = picked else {
            first.hedge = Some(sender);
            return false;
        };
        self.retry_budget.withdraw(now);
        let address = self.rotation.replica(replica).expect("a picked replica is in the rotation").address.clone();
        let second = DispatchedRequest {
            sequence_number: first.sequence_number,
            tenant: first.tenant,
            objective: first.objective,
            deadline: first.deadline,
            accepted: first.accepted,
            waited: None,
            uses_grant: false,
            failed: first.failed.clone(),
            replica,
            address,
            stall_notice: None,
            hedge: None,
            twin: Some(Twin::Running(permit_id)),
        };
        let permit = self.give_permit(second, None, now);
        // If the client has just left, the permit is dropped, and its destructor frees the slot by a report.
        if sender.send(permit).is_ok() {
            let second = self.last_permit_id;
            let first = self.dispatched.get_mut(permit_id).expect("the candidate is at a replica");
            first.twin = Some(Twin::Running(second));
            self.meters.hedges.increment(1);
        }
        true
    }

    /// Tells the other attempt of a hedged request how `ended` ended. Returns whether there is one in progress.
    pub(super) fn set_twin(&mut self, ended: &DispatchedRequest, state: impl FnOnce() -> Twin) -> bool {
        let Some(Twin::Running(twin)) = ended.twin else { return false };
        // If the client left before the second attempt began, the first one does not know of it and may be gone.
        let Some(twin) = self.dispatched.get_mut(twin) else { return false };
        twin.twin = Some(state());
        true
    }
}
