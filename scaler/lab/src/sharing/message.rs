//! The messages between dispatchers and replicas. Each takes the delay of the network.

use crate::simulate::requests::PlantRequest;
use admission::claim::Claim;
use admission::grants::Backlog;

/// What a dispatcher tells with a message: its claim, or its backlog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// The number of the note. Messages can overtake each other, and a replica ignores older notes.
    pub(super) version: u64,
    pub(super) backlog: Backlog,
    pub(super) claim: Claim,
}

/// The state of a replica as it concerns one dispatcher, which each message to that dispatcher tells.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct News {
    /// The number of slots that the requests and the grants of other dispatchers take.
    pub(super) taken_by_others: usize,
    /// Whether other dispatchers claim slots.
    pub(super) is_claimed: bool,
}

/// A message of a dispatcher to a replica.
#[derive(Debug, Clone, Copy)]
pub(super) enum ToReplica {
    /// A request with its body.
    Request {
        request: PlantRequest,
        /// The instant at which the request left the queue.
        dispatched: u64,
        /// Whether the request uses a slot that the replica has granted.
        is_granted: bool,
    },
    /// The dispatcher claims slots. The replica grants one at once, or says that none is free.
    Claim,
    /// The dispatcher changes or withdraws its claim. There is no reply but a grant.
    Update,
    /// The dispatcher does not need a slot that it was granted.
    Return,
    /// The dispatcher tells its backlog and asks for that of the others.
    Backlog,
    /// The dispatcher asks for the replica's state.
    Probe,
}

/// A message of a replica to a dispatcher.
#[derive(Debug, Clone, Copy)]
pub(super) enum ToDispatcher {
    /// The answer to a request.
    Answer { arrived: u64, dispatched: u64 },
    /// All slots of the replica are taken.
    Busy {
        request: PlantRequest,
        /// The time until the replica expects a free slot, in nanoseconds.
        free_in: u64,
    },
    /// The replica is draining and takes no request.
    Gone { request: Option<PlantRequest> },
    /// The replica keeps a slot for the dispatcher.
    Grant {
        /// Whether this is the reply to a claim, rather than a slot that got free later.
        is_reply: bool,
    },
    /// No slot is free. The claim stays.
    Queued,
    /// The replica has forgotten the claim, because a granted slot was not used.
    Forgotten,
    /// The requests that wait at the other dispatchers.
    Backlog { others: Backlog },
    /// The reply to a probe.
    State,
}
