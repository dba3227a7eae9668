//! Samples of each channel, at its own resolution → rows at the picture's. Knows nothing of colours.
//!
//! Source: libjpeg's `jdsample.c`; what it calls fancy upsampling is a triangle filter, with its edges and roundings.

/// One channel's samples.
pub(super) struct Plane {
    /// In rows of `stride`.
    pub(super) samples: Vec<u8>,
    /// Columns that are stored: whole blocks.
    pub(super) stride: usize,
    /// Columns that belong to the picture.
    pub(super) width: usize,
    /// Rows that belong to the picture.
    pub(super) height: usize,
    /// How to get to the picture's resolution.
    pub(super) scaling: Scaling,
}

/// How a channel's samples become the picture's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scaling {
    /// Each is repeated so many times across and down.
    Repeated(usize, usize),
    /// Twice as many across.
    Across,
    /// Twice as many down.
    Down,
    /// Twice as many both ways.
    Both,
}

impl Scaling {
    /// For a channel `width` samples wide whose factors are `own`, where the largest of any channel are `most`;
    /// none where they do not divide.
    pub(super) fn of(own: (usize, usize), most: (usize, usize), width: usize) -> Option<Self> {
        if !most.0.is_multiple_of(own.0) || !most.1.is_multiple_of(own.1) {
            return None;
        }
        // libjpeg filters across only where there is something between the edges.
        let wide = width > 2;
        Some(match (most.0 / own.0, most.1 / own.1) {
            (2, 1) if wide => Self::Across,
            (1, 2) => Self::Down,
            (2, 2) if wide => Self::Both,
            (across, down) => Self::Repeated(across, down),
        })
    }
}

/// Room for one row on its way.
#[derive(Default)]
pub(super) struct Scratch {
    /// Sums of two rows, with one more at each end.
    sums: Vec<u16>,
}

impl Plane {
    /// Row `y` of the picture, into `row`, which is as wide as the picture.
    pub(super) fn row(&self, y: usize, scratch: &mut Scratch, row: &mut [u8]) {
        match self.scaling {
            Scaling::Repeated(1, down) => row.copy_from_slice(&self.stored(y / down)[..row.len()]),
            Scaling::Repeated(across, down) => {
                for (samples, &sample) in row.chunks_mut(across).zip(self.stored(y / down)) {
                    samples.fill(sample);
                }
            }
            Scaling::Down => {
                let (near, far) = self.neighbours(y);
                let half = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((sample, &near), &far) in row.iter_mut().zip(near).zip(far) {
                    *sample = ((3 * u16::from(near) + u16::from(far) + half) >> 2) as u8;
                }
            }
            Scaling::Across => {
                scratch.fill(self.stored(y).iter().map(|&sample| u16::from(sample)));
                scratch.doubled::<2>([1, 2], row);
            }
            Scaling::Both => {
                let (near, far) = self.neighbours(y);
                scratch.fill(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
                scratch.doubled::<4>([8, 7], row);
            }
        }
    }

    fn stored(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.width]
    }

    /// The rows that row `y` lies between, the nearer one first; beyond the first and the last are themselves.
    fn neighbours(&self, y: usize) -> (&[u8], &[u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
        (self.stored(near), self.stored(far))
    }
}

impl Scratch {
    fn fill(&mut self, sums: impl Iterator<Item = u16>) {
        self.sums.clear();
        self.sums.push(0);
        self.sums.extend(sums);
        let (first, last) = (self.sums[1], self.sums[self.sums.len() - 1]);
        self.sums[0] = first;
        self.sums.push(last);
    }

    /// Two for each sum: three parts of it and one of the neighbour on that side, rounded by `half` on the left and
    /// on the right.
    fn doubled<const SHIFT: u32>(&self, half: [u16; 2], row: &mut [u8]) {
        let mut triples = self.sums.iter().zip(&self.sums[1..]).zip(&self.sums[2..]);
        let double = |((before, here), after): ((&u16, &u16), &u16)| {
            [((3 * here + before + half[0]) >> SHIFT) as u8, ((3 * here + after + half[1]) >> SHIFT) as u8]
        };
        let (pairs, rest) = row.as_chunks_mut::<2>();
        for (pair, triple) in pairs.iter_mut().zip(triples.clone()) {
            *pair = double(triple);
        }
        if let ([odd], Some(triple)) = (rest, triples.next_back()) {
            *odd = double(triple)[0];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: &[u8], (width, height): (usize, usize), scaling: Scaling, y: usize, wide: usize) -> Vec<u8> {
        let plane = Plane { samples: samples.to_vec(), stride: width, width, height, scaling };
        let mut row = vec![0; wide];
        plane.row(y, &mut Scratch::default(), &mut row);
        row
    }

    #[test]
    fn how_channels_are_scaled_is_libjpegs() {
        for (own, most, width, scaling) in [
            ((1, 1), (1, 1), 9, Some(Scaling::Repeated(1, 1))),
            ((1, 1), (2, 1), 3, Some(Scaling::Across)),
            ((1, 1), (2, 1), 2, Some(Scaling::Repeated(2, 1))),
            ((1, 1), (2, 2), 3, Some(Scaling::Both)),
            ((1, 1), (2, 2), 1, Some(Scaling::Repeated(2, 2))),
            ((2, 1), (2, 2), 1, Some(Scaling::Down)),
            ((1, 2), (4, 2), 9, Some(Scaling::Repeated(4, 1))),
            ((2, 1), (3, 1), 9, None),
        ] {
            assert_eq!(Scaling::of(own, most, width), scaling, "{own:?} of {most:?}");
        }
    }

    #[test]
    fn a_triangle_filter_is_three_parts_to_one() {
        assert_eq!(row(&[0, 100, 200], (3, 1), Scaling::Across, 0, 6), [0, 25, 75, 125, 175, 200]);
        assert_eq!(row(&[0, 100, 200], (3, 1), Scaling::Across, 0, 5), [0, 25, 75, 125, 175]);
        assert_eq!(row(&[0, 100], (1, 2), Scaling::Down, 0, 1), [0]);
        assert_eq!(row(&[0, 100], (1, 2), Scaling::Down, 1, 1), [25]);
        assert_eq!(row(&[0, 100], (1, 2), Scaling::Down, 3, 1), [100]);
        assert_eq!(row(&[0, 0, 0, 160, 160, 160], (3, 2), Scaling::Both, 2, 6), [120; 6]);
        assert_eq!(row(&[1, 2], (2, 1), Scaling::Repeated(3, 2), 1, 5), [1, 1, 1, 2, 2]);
    }
}
