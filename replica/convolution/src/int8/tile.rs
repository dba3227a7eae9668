//! The innermost loops: the sums of a few pixels by one block of output channels stay in registers.

use super::dot::{DotVector, MAX_ROWS, Requantisation};
use std::hint::black_box;
use std::ptr::null;

/// A few output pixels and a block of output channels.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The address of the first input of each pixel.
    pub(super) corners: [*const u8; MAX_ROWS],
    /// The distance of each run from the first input.
    pub(super) offsets: *const usize,
    /// For each pixel, an address for each run, if a window reaches outside the image; otherwise null.
    pub(super) addresses: *const *const u8,
    /// Number of runs of consecutive inputs.
    pub(super) runs: usize,
    /// Bytes of a run; a multiple of four.
    pub(super) run_bytes: usize,
    /// The weights of the block: for each run and each four inputs, four for each output channel.
    pub(super) weights: *const i8,
    /// The factors of the block's output channels.
    pub(super) scale: *const f32,
    /// The terms of the block's output channels.
    pub(super) bias: *const f32,
    /// The residual of the block's first channel of the first pixel, and the factor of its levels.
    pub(super) residual: Option<(*const u8, f32)>,
    /// The block's first channel of the first pixel.
    pub(super) output: *mut u8,
    /// Bytes from a pixel of the output, and of the residual, to the next.
    pub(super) stride: usize,
    /// Number of output channels of the block that exist.
    pub(super) count: usize,
}

impl Tile {
    /// What follows the sums of a pixel.
    ///
    /// # Safety
    /// The tile has the pixel.
    #[inline(always)]
    unsafe fn requantisation(&self, row: usize) -> Requantisation {
        // SAFETY: guaranteed by the caller.
        let residual = self.residual.map(|(levels, factor)| (unsafe { levels.add(row * self.stride) }, factor));
        Requantisation { scale: self.scale, bias: self.bias, residual }
    }
}

/// Computes `rows` pixels of a tile.
///
/// # Safety
/// The conditions of [`DotVector`] hold. The tile's addresses are valid for all numbers that it describes, and `rows` is
/// from 1 to [`DotVector::ROWS`].
#[inline(always)]
pub(super) unsafe fn compute<V: DotVector>(tile: Tile, rows: usize) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match rows {
            6 => rows_of::<V, 6>(tile),
            5 => rows_of::<V, 5>(tile),
            4 => rows_of::<V, 4>(tile),
            3 => rows_of::<V, 3>(tile),
            2 => rows_of::<V, 2>(tile),
            _ => rows_of::<V, 1>(tile),
        }
    }
}

/// Computes a tile of `ROWS` pixels.
///
/// # Safety
/// As for [`compute`].
#[inline(always)]
unsafe fn rows_of<V: DotVector, const ROWS: usize>(tile: Tile) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match V::VECTORS {
            4 => blocks_of::<V, ROWS, 4>(tile),
            2 => blocks_of::<V, ROWS, 2>(tile),
            _ => blocks_of::<V, ROWS, 1>(tile),
        }
    }
}

/// Computes a tile of `ROWS` pixels by `VECTORS` vectors of output channels.
///
/// # Safety
/// As for [`compute`]; `VECTORS` is [`DotVector::VECTORS`].
#[inline(always)]
unsafe fn blocks_of<V: DotVector, const ROWS: usize, const VECTORS: usize>(tile: Tile) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let sums = sums::<V, ROWS, VECTORS>(tile);
        if tile.count < VECTORS * V::LANES {
            // A copy, because `finish_part` reads the sums by index. If the sums themselves were memory, the compiler
            // would store every sum after every product.
            let mut copy = [[V::zero(); VECTORS]; ROWS];
            let copy = black_box(&mut copy);
            for row in 0..ROWS {
                for vector in 0..VECTORS {
                    copy[row][vector] = sums[row][vector];
                }
            }
            return finish_part(tile, copy);
        }
        V::requantise_all(sums, tile.requantisation(0), tile.output, tile.stride);
    }
}

/// The sums of `ROWS` pixels by `VECTORS` vectors of output channels.
///
/// # Safety
/// As for [`blocks_of`].
#[inline(always)]
unsafe fn sums<V: DotVector, const ROWS: usize, const VECTORS: usize>(tile: Tile) -> [[V; VECTORS]; ROWS] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        let mut weights = tile.weights;
        for run in 0..tile.runs {
            let mut addresses = [null(); ROWS];
            if tile.addresses.is_null() {
                let offset = *tile.offsets.add(run);
                for row in 0..ROWS {
                    addresses[row] = tile.corners[row].wrapping_add(offset);
                }
            } else {
                for row in 0..ROWS {
                    addresses[row] = *tile.addresses.add(row * tile.runs + run);
                }
            }
            for at in (0..tile.run_bytes).step_by(4) {
                // No closure: a closure would be compiled without the instructions of this function.
                let mut factors = [V::zero(); VECTORS];
                for vector in 0..VECTORS {
                    factors[vector] = V::load(weights.add(vector * 4 * V::LANES));
                }
                for row in 0..ROWS {
                    let activations = V::splat(addresses[row].add(at));
                    for vector in 0..VECTORS {
                        sums[row][vector] = sums[row][vector].dot(activations, factors[vector]);
                    }
                }
                weights = weights.add(VECTORS * 4 * V::LANES);
            }
        }
        sums
    }
}

/// Turns the sums of a tile into levels, and stores those of output channels that exist.
///
/// # Safety
/// As for [`blocks_of`].
#[inline(always)]
unsafe fn finish_part<V: DotVector, const ROWS: usize, const VECTORS: usize>(tile: Tile, sums: &[[V; VECTORS]; ROWS]) {
    for row in 0..ROWS {
        for (vector, first) in (0..tile.count).step_by(V::LANES).enumerate() {
            let count = (tile.count - first).min(V::LANES);
            // SAFETY: guaranteed by the caller; the channels exist.
            unsafe {
                let output = tile.output.add(row * tile.stride + first);
                some(sums[row][vector], tile.requantisation(row).skip(first), output, count);
            }
        }
    }
}

/// Turns sums into levels, of which only `count` exist.
///
/// # Safety
/// The conditions of [`DotVector`] hold. The residual and the output have `count` levels, at most
/// [`DotVector::LANES`].
#[inline(always)]
unsafe fn some<V: DotVector>(sums: V, by: Requantisation, output: *mut u8, count: usize) {
    let (mut residual, mut levels) = ([0; 16], [0; 16]);
    // SAFETY: guaranteed by the caller; no vector has more than 16 lanes.
    unsafe {
        let by = Requantisation {
            residual: by.residual.map(|(from, factor)| {
                std::ptr::copy_nonoverlapping(from, residual.as_mut_ptr(), count);
                (residual.as_ptr(), factor)
            }),
            ..by
        };
        sums.requantise(by, levels.as_mut_ptr());
        std::ptr::copy_nonoverlapping(levels.as_ptr(), output, count);
    }
}
