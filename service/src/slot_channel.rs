//! The messages by which dispatchers and a replica agree on the replica's slots, while several dispatchers use it. Each
//! dispatcher has one connection for them to each replica that it shares: `GET /slots` with
//! `Upgrade: roundhouse-slots/1`, on which each line is one message. The end of the connection ends the dispatcher's
//! claim and its grants. Does no I/O.

use serde::{Deserialize, Serialize};

/// The path of the request for the connection.
pub const PATH: &str = "/slots";

/// The name of the protocol, as in the header `Upgrade`.
pub const PROTOCOL: &str = "roundhouse-slots/1";

/// The slots that a dispatcher could use at a replica. All its times are relative to the instant at which it was sent,
/// because the clocks of two machines differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotClaim {
    /// The number of slots. With 0, the claim is withdrawn.
    pub slots: u32,
    /// The number of waiting requests in the class of the next request: punctual requests, or late ones if none is
    /// punctual.
    pub waiting: u32,
    /// The time for which the next request has waited, in microseconds.
    pub waited_us: u64,
    /// The time after its arrival at which a request becomes late, in microseconds; absent if the next request is late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_after_us: Option<u64>,
}

/// A message of a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromDispatcher {
    /// The dispatcher claims slots and asks for one at once. The replica grants one, or says that none is free.
    Ask(SlotClaim),
    /// The dispatcher changes or withdraws its claim. There is no reply but a grant.
    Claim(SlotClaim),
    /// The dispatcher does not need a slot that it was granted, and claims none.
    Return,
    /// The numbers of punctual and of late requests that wait at the dispatcher. The replica replies with those of all
    /// other dispatchers.
    Backlog {
        /// Requests that can still meet the objective.
        punctual: u32,
        /// Requests that can no longer meet the objective.
        late: u32,
    },
}

/// A message of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromReplica {
    /// The number of slots that requests and grants of other dispatchers take.
    pub others: u32,
    /// Whether other dispatchers claim slots.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// The message itself.
    pub event: SlotEvent,
}

/// What a replica tells a dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotEvent {
    /// The reply to [`FromDispatcher::Ask`]: a slot is kept for the dispatcher.
    Granted,
    /// The reply to [`FromDispatcher::Ask`]: no slot is free. The claim stays.
    Queued,
    /// A slot has become free, and is kept for the dispatcher.
    Freed,
    /// The replica has forgotten the claim, because the dispatcher did not use a slot that was kept for it.
    Forgotten,
    /// The requests that wait at all other dispatchers.
    Backlog {
        /// Requests that can still meet the objective.
        punctual: u32,
        /// Requests that can no longer meet the objective.
        late: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_short_lines_that_stay_as_they_are() {
        let claim = SlotClaim { slots: 3, waiting: 7, waited_us: 12_000, late_after_us: Some(420_000) };
        let late = SlotClaim { late_after_us: None, ..claim };
        for (message, line) in [
            (FromDispatcher::Ask(claim), r#"{"ask":{"slots":3,"waiting":7,"waited_us":12000,"late_after_us":420000}}"#),
            (FromDispatcher::Claim(late), r#"{"claim":{"slots":3,"waiting":7,"waited_us":12000}}"#),
            (FromDispatcher::Return, r#""return""#),
            (FromDispatcher::Backlog { punctual: 5, late: 0 }, r#"{"backlog":{"punctual":5,"late":0}}"#),
        ] {
            assert_eq!(serde_json::to_string(&message).expect("a message is JSON"), line);
            assert_eq!(serde_json::from_str::<FromDispatcher>(line).expect("a message"), message);
        }
        for (message, line) in [
            (
                FromReplica { others: 2, claimed: true, event: SlotEvent::Granted },
                r#"{"others":2,"claimed":true,"event":"granted"}"#,
            ),
            (
                FromReplica { others: 0, claimed: false, event: SlotEvent::Backlog { punctual: 1, late: 2 } },
                r#"{"others":0,"event":{"backlog":{"punctual":1,"late":2}}}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&message).expect("a message is JSON"), line);
            assert_eq!(serde_json::from_str::<FromReplica>(line).expect("a message"), message);
        }
    }
}
