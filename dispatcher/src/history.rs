//! What became of a request's earlier attempts.

use crate::forward::Failure;
use crate::rotation::Address;

/// The attempts of one request that failed. Most requests have none: then it is one pointer.
#[derive(Debug, Default)]
pub struct History {
    failed: Option<Box<Failed>>,
}

#[derive(Debug, Default)]
struct Failed {
    tried: Vec<Address>,
    attempts: usize,
    deaths: u32,
}

impl History {
    /// Another attempt has failed, at `address`.
    pub fn add(&mut self, address: &Address, failure: Failure) {
        let failed = self.failed.get_or_insert_default();
        failed.deaths += u32::from(failure == Failure::Died);
        // One that could not be reached never saw the request, and is out now: that ends by itself, and costs nobody.
        failed.attempts += usize::from(!matches!(failure, Failure::Busy | Failure::Connect));
        if failure != Failure::Busy && !failed.tried.contains(address) {
            failed.tried.push(address.clone());
        }
    }

    /// Replicas that another attempt should avoid; a busy one is not among them.
    pub fn tried(&self) -> &[Address] {
        self.failed.as_ref().map_or(&[], |failed| &failed.tried)
    }

    /// Attempts that count: not those that reached no replica, or a busy one.
    pub fn attempts(&self) -> usize {
        self.failed.as_ref().map_or(0, |failed| failed.attempts)
    }

    /// Replicas that died while they held the request.
    pub fn deaths(&self) -> u32 {
        self.failed.as_ref().map_or(0, |failed| failed.deaths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_leaves_what_the_next_attempt_must_know() {
        let [a, b]: [Address; 2] = ["a".into(), "b".into()];
        let mut history = History::default();
        assert_eq!((history.tried(), history.attempts(), history.deaths()), (&[][..], 0, 0));
        for (address, failure, tried, attempts, deaths) in [
            (&a, Failure::Busy, 0, 0, 0),
            (&a, Failure::Connect, 1, 0, 0),
            (&a, Failure::Died, 1, 1, 1),
            (&b, Failure::Server, 2, 2, 1),
            (&b, Failure::Died, 2, 3, 2),
        ] {
            history.add(address, failure);
            let found = (history.tried().len(), history.attempts(), history.deaths());
            assert_eq!(found, (tried, attempts, deaths), "after {failure:?} at {address}");
        }
        assert_eq!(history.tried(), [a, b]);
    }
}
