//! The transforms of F(2×2, 3×3) and F(4×4, 3×3), one dimension at a time.
//!
//! Source: Lavin and Gray (2015), arXiv:1509.09308, sections 4.1 and 4.3. The names are theirs: inputs `d` are
//! transformed by the matrix B, filters `g` by G, and products `m` by A. A tile is transformed in both dimensions:
//! `Bᵀ d B`, `G g Gᵀ`, `Aᵀ m A`.

use crate::vector::Vector;

/// The size of a tile, which is a square of outputs that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TileSize {
    /// F(2×2, 3×3): 2×2 outputs from 4×4 inputs, with 16 multiplications instead of 36.
    Two,
    /// F(4×4, 3×3): 4×4 outputs from 6×6 inputs, with 36 multiplications instead of 144. Rounding errors are some ten
    /// times those of F(2×2, 3×3).
    Four,
}

impl TileSize {
    /// Side of a tile of outputs, in pixels.
    pub(crate) fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Side of the square of inputs from which a tile of outputs is computed, in pixels.
    pub(crate) fn inputs(self) -> usize {
        self.outputs() + 2
    }
}

/// One dimension of the transforms of F(M, 3), on vectors of channels: `N = M + 2` inputs, three weights, `M` outputs.
///
/// # Safety
/// The conditions of [`Vector`] hold.
pub(crate) trait WinogradTransform<const N: usize, const M: usize> {
    /// The transformed filter, `G g`.
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; N];
    /// The transformed inputs, `Bᵀ d`.
    unsafe fn input<V: Vector>(d: [V; N]) -> [V; N];
    /// The outputs, `Aᵀ m`.
    unsafe fn output<V: Vector>(m: [V; N]) -> [V; M];
}

/// The transforms of F(2, 3).
pub(crate) struct F2;

impl WinogradTransform<4, 2> for F2 {
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (zero, half) = (V::splat(0.0), V::splat(0.5));
            let ends = g[0].add(g[2]).mul_add(half, zero);
            let middle = g[1].mul_add(half, zero);
            [g[0], ends.add(middle), ends.sub(middle), g[2]]
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 4]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3])] }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 4]) -> [V; 2] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [m[0].add(m[1].add(m[2])), m[1].sub(m[2]).sub(m[3])] }
    }
}

/// The transforms of F(4, 3).
pub(crate) struct F4;

impl WinogradTransform<6, 4> for F4 {
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 3]) -> [V; 6] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let times = |factor: f32, vector: V| vector.mul_add(V::splat(factor), V::splat(0.0));
            let ends = times(-1.0 / 6.0, g[0].add(g[2]));
            let middle = times(-1.0 / 6.0, g[1]);
            // The terms `(g0 + 4 g2) / 24` and `2 g1 / 24` of `G g`.
            let wide_ends = times(1.0 / 24.0, g[2].mul_add(V::splat(4.0), g[0]));
            let wide_middle = times(1.0 / 12.0, g[1]);
            [
                times(0.25, g[0]),
                ends.add(middle),
                ends.sub(middle),
                wide_ends.add(wide_middle),
                wide_ends.sub(wide_middle),
                g[2],
            ]
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 6]) -> [V; 6] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (two, four, minus_four, minus_five) = (V::splat(2.0), V::splat(4.0), V::splat(-4.0), V::splat(-5.0));
            let even = d[2].mul_add(minus_four, d[4]);
            let odd = d[1].mul_add(minus_four, d[3]);
            let near = d[4].sub(d[2]);
            let far = d[3].sub(d[1]);
            [
                d[0].mul_add(four, d[2].mul_add(minus_five, d[4])),
                even.add(odd),
                even.sub(odd),
                far.mul_add(two, near),
                far.mul_add(V::splat(-2.0), near),
                d[1].mul_add(four, d[3].mul_add(minus_five, d[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 6]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (wide_sum, wide_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                m[0].add(sum.add(wide_sum)),
                wide_difference.mul_add(V::splat(2.0), difference),
                wide_sum.mul_add(V::splat(4.0), sum),
                wide_difference.mul_add(V::splat(8.0), difference).add(m[5]),
            ]
        }
    }
}
