//! How long replicas that have to wait for a node wait, and how long such replicas stay desired.

use std::collections::VecDeque;
use std::time::Duration;

/// The number of latest placements of which the longest counts.
const LATEST: usize = 10;

/// The time in which a replica may get a node, as a multiple of the longest of the latest placements.
const FACTOR: f64 = 1.5;

/// The time in which a replica may get a node before any placement was measured. Cluster autoscalers take one to five
/// minutes for a node, and a replica that is withdrawn earlier never gets it. Waiting in vain costs nothing: a replica
/// without a node takes no room, and the ceiling holds meanwhile.
const FIRST: Duration = Duration::from_secs(5 * 60);

/// The least time in which a replica may get a node. cluster-autoscaler looks for unschedulable pods every ten seconds
/// (its flag --scan-interval).
const LEAST: Duration = Duration::from_secs(10);

/// The time in which a replica may get a node although the cluster's autoscaler says that it adds none, or has not kept
/// its word. Only other replicas could make room then.
pub const REFUSED: Duration = LEAST;

/// The longest time in which a replica may get a node.
const MOST: Duration = Duration::from_secs(10 * 60);

/// The latest placements: the times that replicas took to get a node if none had room for them at once.
#[derive(Debug, Default)]
pub struct Placements(VecDeque<Duration>);

impl Placements {
    /// Adds a placement.
    pub fn add(&mut self, took: Duration) {
        self.0.push_back(took);
        if self.0.len() > LATEST {
            self.0.pop_front();
        }
    }

    /// Learns from a replica that was withdrawn after it had waited for a node for `waited`. If that is longer than the
    /// latest placements, it counts as one. Otherwise a node that always comes a little later would never be waited for.
    pub fn add_withdrawn(&mut self, waited: Duration) {
        if self.0.iter().max().is_some_and(|&longest| waited > longest) {
            self.add(waited);
        }
    }

    /// The mean of the latest placements; `None` before the first one.
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.0.len()).ok().filter(|count| *count > 0)?;
        Some(self.0.iter().sum::<Duration>() / count)
    }

    /// The time in which a replica gets a node if the cluster's autoscaler says that one is coming. The latest placements
    /// may have been quicker, because there was a node already.
    pub fn promised_time_limit(&self) -> Duration {
        self.time_limit().max(FIRST)
    }

    /// The time in which a replica may get a node, from its creation.
    pub fn time_limit(&self) -> Duration {
        self.0.iter().max().map_or(FIRST, |longest| longest.mul_f64(FACTOR).clamp(LEAST, MOST))
    }
}
