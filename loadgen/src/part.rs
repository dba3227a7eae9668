//! The part of a load that one process sends, when several processes share the load. Pure.

use serde::{Deserialize, Serialize};

/// One of the parts into which a load is divided. Request k of the whole load belongs to part k mod `count`, so the
/// parts together are exactly the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The number of this part, from 0; less than `count`.
    pub index: usize,
    /// The number of parts; at least 1.
    pub count: usize,
}

impl Part {
    /// The whole load as a single part.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether request `index` of the whole load belongs to this part.
    pub fn owns(self, index: usize) -> bool {
        index % self.count == self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_request_belongs_to_one_part_and_parts_differ_by_one_request_at_most(
            count in 1..=64_usize,
            requests in 0..2000_usize,
        ) {
            let parts = (0..count).map(|index| Part { index, count });
            let owned: Vec<Vec<usize>> =
                parts.map(|part| (0..requests).filter(|&request| part.owns(request)).collect()).collect();
            let mut all = owned.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..requests).collect::<Vec<_>>());
            let lengths = owned.iter().map(Vec::len);
            prop_assert!(lengths.clone().max() <= lengths.min().map(|least| least + 1));
        }
    }

    #[test]
    fn a_whole_load_owns_every_request() {
        assert!((0..100).all(|index| Part::WHOLE.owns(index)));
    }
}
