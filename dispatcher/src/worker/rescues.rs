//! How the worker moves requests away from replicas that do not answer.

use super::Worker;
use crate::retry;
use crate::rotation::ReplicaId;
use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// A request at a replica that has not answered its liveness check moves to another replica when this number of service
/// times, and [`RESCUE_MARGIN`], are left until its deadline. With one, the answer of the other replica would often come
/// too late.
const RESCUE_SERVICE_TIMES: u32 = 2;

/// The time for the way to the other replica and for a short wait for its slot, on a busy machine.
const RESCUE_MARGIN: Duration = Duration::from_millis(100);

impl Worker {
    /// Sends the attempts at a stalled replica their stall notices, as far as attempts and retry budget allow, the
    /// earliest dispatch first. The requests return to the queue when the attempts have reported.
    pub(super) fn requeue_stalled(&mut self, replica: ReplicaId) {
        for permit_id in self.dispatched.permits_at(replica) {
            self.send_stall_notice(permit_id);
        }
    }

    /// Plans when each request at `replica`, which is in doubt, moves to another replica unless there is a sign of life
    /// before. A request with much time left stays until the check fails, because the replica may be alive.
    pub(super) fn plan_rescues(&mut self, replica: ReplicaId, now: Instant) {
        let (dispatched, rotation) = (&self.dispatched, &self.rotation);
        // Without this, the plans of earlier doubts would add up until the deadlines of the requests.
        self.rescues.retain(|Reverse((_, permit_id))| {
            dispatched
                .get(*permit_id)
                .is_some_and(|request| request.replica != replica && rotation.is_in_doubt(request.replica))
        });
        let needed = self.load.service_time() * RESCUE_SERVICE_TIMES + RESCUE_MARGIN;
        for permit_id in self.dispatched.permits_at(replica) {
            let time_left =
                self.dispatched.get(permit_id).map_or(now, |request| request.deadline).saturating_duration_since(now);
            self.rescues.push(Reverse((now + time_left.saturating_sub(needed), permit_id)));
        }
    }

    /// Moves the requests whose last chance of another replica has come.
    pub(super) fn rescue_due(&mut self, now: Instant) {
        while let Some(&Reverse((at, permit_id))) = self.rescues.peek()
            && at <= now
        {
            self.rescues.pop();
            let replica = self.dispatched.get(permit_id).map(|dispatched| dispatched.replica);
            if replica.is_some_and(|replica| self.rotation.is_in_doubt(replica)) {
                self.send_stall_notice(permit_id);
            }
        }
    }

    /// Sends an attempt its stall notice, if its number of attempts and the retry budget allow another one.
    fn send_stall_notice(&mut self, permit_id: u64) {
        let Some(dispatched) = self.dispatched.get_mut(permit_id) else { return };
        // The channel is `None` if the attempt has had its notice, and closed if the client has left.
        if dispatched.stall_notice.as_ref().is_some_and(|notice| !notice.is_closed())
            && retry::moves_off_stalled_replica(&dispatched.failed, || self.retry_budget.withdraw(Instant::now()))
            && let Some(stall_notice) = dispatched.stall_notice.take()
        {
            // An attempt that has just ended does not receive the notice. Its report is on its way.
            let _ended = stall_notice.send(());
        }
    }
}
