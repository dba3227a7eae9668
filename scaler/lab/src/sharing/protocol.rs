//! The protocols by which dispatchers share replicas.

use clap::ValueEnum;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Each dispatcher takes all slots for its own; a replica that answers busy is tried again after 10 ms
    Blind,
    /// Each slot belongs to one dispatcher, in turn
    Partition,
    /// Replicas tell with each answer how many slots are taken, and with busy when to come back
    Told,
    /// As told, and a dispatcher asks three replicas for their state before each request (Prequal)
    Probes,
    /// Dispatchers that know of no free slot claim one, and replicas grant free slots to the oldest request; each
    /// dispatcher admits by its own departures
    Claims,
    /// As claims, and replicas tell how many requests wait at the other dispatchers, by which dispatchers admit
    Board,
}

/// The slots and requests by which a dispatcher predicts how soon a request will be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Estimate {
    /// All slots of all replicas, and the requests that wait here.
    AllSlots,
    /// The slots that the dispatcher's own requests take while requests wait, and the requests that wait here.
    OwnSlots,
    /// All slots of all replicas, and the requests that wait at all dispatchers.
    AllRequests,
}

impl Protocol {
    /// The name as in `--protocols`.
    pub(super) fn name(self) -> String {
        self.to_possible_value().expect("clap hides no protocol").get_name().to_owned()
    }

    /// The slots and requests by which a dispatcher predicts.
    pub(super) fn estimate(self) -> Estimate {
        match self {
            Self::Blind => Estimate::AllSlots,
            Self::Partition | Self::Told | Self::Probes | Self::Claims => Estimate::OwnSlots,
            Self::Board => Estimate::AllRequests,
        }
    }

    /// Whether dispatchers claim slots.
    pub(super) fn claims(self) -> bool {
        matches!(self, Self::Claims | Self::Board)
    }
}
