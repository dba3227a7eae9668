//! The part of a component that has been decoded so far: coefficients of a progressive frame, samples of a sequential
//! one. Knows which coefficients are still incomplete.

use crate::block::{self, Block};
use crate::planes::{Plane, Upsampling};
use crate::scan_header::Scan;
use crate::segments::{Component, FrameHeader};
use crate::smoothing;

/// The error for a missing quantisation table.
pub(crate) const NO_QUANTISATION: &str = "a scan names a quantisation table that the file lacks";

/// The size of a component, which follows from the frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ComponentSize {
    /// The number of samples that belong to the image, across and down.
    pub(crate) samples: (usize, usize),
    /// The number of stored blocks, across and down. They fill whole MCUs.
    pub(crate) stored_blocks: (usize, usize),
}

impl ComponentSize {
    /// The sizes of a frame's components, and the number of MCUs of an interleaved scan, across and down.
    pub(crate) fn of(frame: &FrameHeader) -> (Vec<Self>, (usize, usize)) {
        let most = frame.largest_factors();
        let (width, height) = (usize::from(frame.width), usize::from(frame.height));
        let mcus = (width.div_ceil(8 * most.0), height.div_ceil(8 * most.1));
        let size = |component: &Component| {
            let own = (usize::from(component.across), usize::from(component.down));
            Self {
                samples: ((width * own.0).div_ceil(most.0), (height * own.1).div_ceil(most.1)),
                stored_blocks: (mcus.0 * own.0, mcus.1 * own.1),
            }
        };
        (frame.components.iter().map(size).collect(), mcus)
    }

    /// The number of samples in memory.
    pub(crate) fn stored_samples(self) -> usize {
        self.stored_blocks.0 * self.stored_blocks.1 * 64
    }
}

/// A component while the scans of its frame are decoded.
pub(crate) struct DecodedComponent {
    pub(crate) component: Component,
    /// The number of blocks, across and down, in a scan of this component alone.
    pub(crate) blocks: (usize, usize),
    pub(crate) plane: Plane,
    /// The coefficients of all blocks of a progressive frame. Empty in a sequential frame, whose blocks become samples
    /// as soon as they are read.
    coefficients: Vec<i16>,
    /// The table that its destination had when the component's first scan began.
    pub(crate) quantisation: Option<[u16; 64]>,
    /// For each coefficient in zigzag order, the number of low bits that are still missing. `None` if no scan has coded
    /// the coefficient yet.
    missing_bits: [Option<u8>; 64],
}

impl DecodedComponent {
    /// Allocates the memory for a component. The operating system provides it only as far as blocks are decoded.
    ///
    /// # Errors
    /// If the largest sampling factors `most` are no multiples of the component's factors.
    pub(crate) fn new(
        component: Component,
        size: ComponentSize,
        most: (usize, usize),
        progressive: bool,
    ) -> Result<Self, &'static str> {
        let (width, height) = size.samples;
        let own = (usize::from(component.across), usize::from(component.down));
        let upsampling =
            Upsampling::of(own, most, width).ok_or("its sampling factors are no divisors of the largest factor")?;
        let (samples, coefficients) = match progressive {
            // Zeros of numbers, unlike zeros of blocks, are not written before they are used.
            true => (Vec::new(), vec![0; size.stored_samples()]),
            false => (vec![0; size.stored_samples()], Vec::new()),
        };
        let plane = Plane { samples, stride: size.stored_blocks.0 * 8, width, height, upsampling };
        let blocks = (width.div_ceil(8), height.div_ceil(8));
        Ok(Self { component, blocks, plane, coefficients, quantisation: None, missing_bits: [None; 64] })
    }

    /// The number of stored blocks in a row of blocks.
    pub(crate) fn stride(&self) -> usize {
        self.plane.stride / 8
    }

    /// The coefficients of the block at column `x` and row `y` of blocks, in a progressive frame.
    #[inline(always)]
    pub(crate) fn block(&mut self, x: usize, y: usize) -> &mut Block {
        let index = y * self.stride() + x;
        &mut self.coefficients.as_chunks_mut().0[index]
    }

    /// Records the bits that a scan codes, and checks that they are the next ones after those of earlier scans.
    pub(crate) fn record_bits(&mut self, scan: &Scan) -> Result<(), &'static str> {
        for missing in &mut self.missing_bits[scan.band.clone()] {
            let before = missing.replace(scan.low);
            if before.unwrap_or(0) != scan.high {
                return Err("its scans repeat each other or are out of order, so the file is damaged");
            }
        }
        Ok(())
    }

    /// The plane of the component. Must be called after all scans were decoded. An encoder may leave the last bits of
    /// coefficients out, and any coefficient but the first (T.81 G.1.1). They are estimated like in libjpeg.
    ///
    /// # Errors
    /// If the first coefficients or the quantisation table are missing.
    #[inline(always)]
    pub(crate) fn into_plane(self, smooth: bool, down: usize) -> Result<Plane, &'static str> {
        if !self.has_first_coefficients() {
            return Err("scans are missing, so the file was cut short");
        }
        if self.coefficients.is_empty() {
            return Ok(self.plane);
        }
        let quantisation = self.quantisation.ok_or(NO_QUANTISATION)?;
        let across = self.stride();
        let mut plane = self.plane;
        plane.samples = vec![0; self.coefficients.len()];
        let coefficients: &[Block] = self.coefficients.as_chunks().0;
        if smooth {
            let blocks = smoothing::Blocks { coefficients, stride: across, size: self.blocks, down };
            blocks.smooth(&quantisation, &self.missing_bits, |x, y, block| {
                plane.put(x, y, &block::samples(block, &quantisation));
            });
            return Ok(plane);
        }
        for (y, row) in coefficients.chunks_exact(across).enumerate() {
            for (x, coefficients) in row.iter().enumerate() {
                if block::is_flat(coefficients) {
                    plane.put(x, y, &[block::flat(coefficients[0], quantisation[0]); 64]);
                } else {
                    plane.put(x, y, &block::samples(coefficients, &quantisation));
                }
            }
        }
        Ok(plane)
    }

    /// Whether a scan has coded the first coefficient of each block.
    pub(crate) fn has_first_coefficients(&self) -> bool {
        self.missing_bits[0].is_some()
    }

    /// Whether libjpeg would estimate coefficients: a low coefficient is incomplete, and no factor is zero.
    pub(crate) fn incomplete(&self) -> (bool, bool) {
        let low = self.missing_bits[1..smoothing::ESTIMATED].iter().any(|&missing| missing != Some(0));
        (low, self.quantisation.is_some_and(|table| smoothing::PLACES.iter().all(|&place| table[place] != 0)))
    }
}

impl Plane {
    /// Writes the samples of the block at column `x` and row `y` of blocks.
    #[inline(always)]
    pub(crate) fn put(&mut self, x: usize, y: usize, samples: &[u8; 64]) {
        let from = y * 8 * self.stride + x * 8;
        let rows = self.samples[from..].chunks_mut(self.stride);
        for (row, samples) in rows.zip(samples.as_chunks::<8>().0) {
            row[..8].copy_from_slice(samples);
        }
    }
}
