//! A histogram of magnitudes whose range grows with them, and the clipping that loses least when they become levels.

/// Number of bins; even.
const BINS: usize = 4096;

/// Number of clippings that are compared.
const CLIPPINGS: usize = 128;

/// Counts of magnitudes, in bins of equal width.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The width of a bin; 0 as long as all magnitudes are 0.
    width: f32,
    /// The counts; empty as long as `width` is 0.
    counts: Vec<u64>,
    largest: f32,
}

impl Histogram {
    /// Counts the magnitudes of finite numbers, but for zeros: every clipping keeps them.
    pub(super) fn add(&mut self, numbers: &[f32]) {
        let largest = numbers.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
        if largest == 0.0 || !largest.is_finite() {
            return;
        }
        self.largest = self.largest.max(largest);
        if self.width == 0.0 {
            // The smallest power of two, so that doubling is exact.
            self.width = (largest / BINS as f32).log2().ceil().exp2().max(f32::MIN_POSITIVE);
            self.counts = vec![0; BINS];
        }
        while self.width * BINS as f32 <= largest {
            for bin in 0..BINS / 2 {
                self.counts[bin] = self.counts[2 * bin] + self.counts[2 * bin + 1];
            }
            self.counts[BINS / 2..].fill(0);
            self.width *= 2.0;
        }
        let per_bin = 1.0 / self.width;
        for number in numbers.iter().filter(|number| **number != 0.0) {
            self.counts[((number.abs() * per_bin) as usize).min(BINS - 1)] += 1;
        }
    }

    /// The magnitude that becomes the level `levels`, with the least mean squared error: larger magnitudes are clipped,
    /// and smaller ones rounded to multiples of `clip / levels`. 1 if all magnitudes were 0.
    ///
    /// Source: Migacz 2017, 8-bit Inference with TensorRT, with the squared error in place of the divergence. The error of
    /// rounding to multiples of `s` is `s² / 12` in the mean.
    pub(super) fn clip(&self, levels: f32) -> f32 {
        if self.width == 0.0 {
            return 1.0;
        }
        let candidates = (CLIPPINGS / 8..=CLIPPINGS).map(|part| self.largest * part as f32 / CLIPPINGS as f32);
        let best = candidates.map(|clip| (self.error(clip, levels), clip)).min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(self.largest, |(_, clip)| clip)
    }

    /// The sum of the squared errors if magnitudes above `clip` are clipped.
    fn error(&self, clip: f32, levels: f32) -> f64 {
        let rounding = f64::from(clip / levels).powi(2) / 12.0;
        let of_bin = |(bin, count): (usize, &u64)| {
            let magnitude = (bin as f32 + 0.5) * self.width;
            *count as f64 * if magnitude <= clip { rounding } else { f64::from(magnitude - clip).powi(2) }
        };
        self.counts.iter().enumerate().map(of_bin).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_grows_and_no_count_is_lost() {
        let mut histogram = Histogram::default();
        histogram.add(&[0.0, 0.0]);
        assert_eq!(histogram.clip(255.0), 1.0);
        for largest in [0.5, -3.0, 1.0, 1000.0, 0.001] {
            histogram.add(&[largest, largest / 3.0, 0.0]);
        }
        assert_eq!(histogram.counts.iter().sum::<u64>(), 10);
        assert_eq!(histogram.largest, 1000.0);
        assert!(histogram.width * BINS as f32 > 1000.0 && histogram.width * (BINS as f32) <= 2000.0);
    }

    #[test]
    fn a_rare_outlier_is_clipped_and_a_uniform_range_is_kept() {
        let uniform: Vec<f32> = (1..=1000).map(|number| number as f32 / 1000.0).collect();
        let mut histogram = Histogram::default();
        (0..1000).for_each(|_| histogram.add(&uniform));
        assert!(histogram.clip(255.0) > 0.97, "{}", histogram.clip(255.0));
        histogram.add(&[8.0]);
        let clip = histogram.clip(255.0);
        assert!(clip < 7.9, "one in a million at 8 does not cost the others three bits: {clip}");
        // With few numbers, the outlier is worth more than the rounding of the others.
        let mut few = Histogram::default();
        few.add(&[0.1, 0.2, 8.0]);
        assert!(few.clip(255.0) > 7.5);
    }
}
