//! Converts the samples of each component, at the component's resolution, to rows at the image's resolution. Knows
//! nothing of colours.
//!
//! Source: libjpeg's `jdsample.c`, whose "fancy upsampling" is a triangle filter. Edges and roundings are the same
//! here.

/// The samples of one component.
pub(super) struct Plane {
    /// The samples row by row. A row has `stride` samples.
    pub(super) samples: Vec<u8>,
    /// The number of stored columns, which are those of whole blocks.
    pub(super) stride: usize,
    /// The number of columns that belong to the image.
    pub(super) width: usize,
    /// The number of rows that belong to the image.
    pub(super) height: usize,
    /// The upsampling to the image's resolution.
    pub(super) upsampling: Upsampling,
}

/// The upsampling of a component to the image's resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upsampling {
    /// Each sample is repeated across and down, by these two numbers.
    Repeated(usize, usize),
    /// A triangle filter doubles the width.
    Across,
    /// A triangle filter doubles the height.
    Down,
    /// A triangle filter doubles width and height.
    Both,
}

impl Upsampling {
    /// The upsampling of a component that is `width` samples wide and has the sampling factors `own`; `most` are the
    /// largest factors of any component. `None` if `most` is no multiple of `own`.
    pub(super) fn of(own: (usize, usize), most: (usize, usize), width: usize) -> Option<Self> {
        if !most.0.is_multiple_of(own.0) || !most.1.is_multiple_of(own.1) {
            return None;
        }
        // libjpeg filters across only if there is a sample between the two edges.
        let wide = width > 2;
        Some(match (most.0 / own.0, most.1 / own.1) {
            (2, 1) if wide => Self::Across,
            (1, 2) => Self::Down,
            (2, 2) if wide => Self::Both,
            (across, down) => Self::Repeated(across, down),
        })
    }
}

/// The memory for the upsampling of one row. Reusing it avoids an allocation for each row.
#[derive(Default)]
pub(super) struct Scratch {
    /// The weighted sums of two rows. The first and the last sum are there twice, for the filter at the edges.
    sums: Vec<u16>,
}

impl Plane {
    /// Writes row `y` of the image to `row`, whose length is the width of the image.
    #[inline(always)]
    pub(super) fn row(&self, y: usize, scratch: &mut Scratch, row: &mut [u8]) {
        match self.upsampling {
            Upsampling::Repeated(1, down) => row.copy_from_slice(&self.stored(y / down)[..row.len()]),
            Upsampling::Repeated(across, down) => {
                for (samples, &sample) in row.chunks_mut(across).zip(self.stored(y / down)) {
                    samples.fill(sample);
                }
            }
            Upsampling::Down => {
                let (near, far) = self.neighbours(y);
                let half = if y.is_multiple_of(2) { 1 } else { 2 };
                for ((sample, &near), &far) in row.iter_mut().zip(near).zip(far) {
                    *sample = ((3 * u16::from(near) + u16::from(far) + half) >> 2) as u8;
                }
            }
            Upsampling::Across => {
                scratch.fill(self.stored(y).iter().map(|&sample| u16::from(sample)));
                scratch.doubled::<2>([1, 2], row);
            }
            Upsampling::Both => {
                let (near, far) = self.neighbours(y);
                scratch.fill(near.iter().zip(far).map(|(&near, &far)| 3 * u16::from(near) + u16::from(far)));
                scratch.doubled::<4>([8, 7], row);
            }
        }
    }

    /// Row `y` of the stored samples.
    #[inline(always)]
    fn stored(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.width]
    }

    /// The two stored rows between which row `y` of the image is, the nearer one first. Outside the first and the last
    /// stored row, both are that row.
    #[inline(always)]
    fn neighbours(&self, y: usize) -> (&[u8], &[u8]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
        (self.stored(near), self.stored(far))
    }
}

impl Scratch {
    /// Stores the sums of a row, and repeats the first and the last one.
    #[inline(always)]
    fn fill(&mut self, sums: impl Iterator<Item = u16>) {
        self.sums.clear();
        self.sums.push(0);
        self.sums.extend(sums);
        let (first, last) = (self.sums[1], self.sums[self.sums.len() - 1]);
        self.sums[0] = first;
        self.sums.push(last);
    }

    /// Writes two samples for each sum. The left sample is three parts of the sum and one part of the sum before. The
    /// right sample is three parts of the sum and one part of the sum after. For rounding, the numbers in `half` are
    /// added to the left and the right sample before they are shifted by `SHIFT` bits.
    #[inline(always)]
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

    fn row(samples: &[u8], (width, height): (usize, usize), upsampling: Upsampling, y: usize, wide: usize) -> Vec<u8> {
        let plane = Plane { samples: samples.to_vec(), stride: width, width, height, upsampling };
        let mut row = vec![0; wide];
        plane.row(y, &mut Scratch::default(), &mut row);
        row
    }

    #[test]
    fn components_are_upsampled_in_the_same_way_as_in_libjpeg() {
        for (own, most, width, upsampling) in [
            ((1, 1), (1, 1), 9, Some(Upsampling::Repeated(1, 1))),
            ((1, 1), (2, 1), 3, Some(Upsampling::Across)),
            ((1, 1), (2, 1), 2, Some(Upsampling::Repeated(2, 1))),
            ((1, 1), (2, 2), 3, Some(Upsampling::Both)),
            ((1, 1), (2, 2), 1, Some(Upsampling::Repeated(2, 2))),
            ((2, 1), (2, 2), 1, Some(Upsampling::Down)),
            ((1, 2), (4, 2), 9, Some(Upsampling::Repeated(4, 1))),
            ((2, 1), (3, 1), 9, None),
        ] {
            assert_eq!(Upsampling::of(own, most, width), upsampling, "{own:?} of {most:?}");
        }
    }

    #[test]
    fn the_triangle_filter_weighs_three_to_one() {
        assert_eq!(row(&[0, 100, 200], (3, 1), Upsampling::Across, 0, 6), [0, 25, 75, 125, 175, 200]);
        assert_eq!(row(&[0, 100, 200], (3, 1), Upsampling::Across, 0, 5), [0, 25, 75, 125, 175]);
        assert_eq!(row(&[0, 100], (1, 2), Upsampling::Down, 0, 1), [0]);
        assert_eq!(row(&[0, 100], (1, 2), Upsampling::Down, 1, 1), [25]);
        assert_eq!(row(&[0, 100], (1, 2), Upsampling::Down, 3, 1), [100]);
        assert_eq!(row(&[0, 0, 0, 160, 160, 160], (3, 2), Upsampling::Both, 2, 6), [120; 6]);
        assert_eq!(row(&[1, 2], (2, 1), Upsampling::Repeated(3, 2), 1, 5), [1, 1, 1, 2, 2]);
    }
}
