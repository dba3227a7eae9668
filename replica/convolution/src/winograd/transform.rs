//! The transforms of Winograd's algorithms, one dimension at a time.
//!
//! Source: Lavin and Gray (2015), arXiv:1509.09308, sections 4.1 and 4.3. The names are theirs: inputs `d` are
//! transformed by the matrix B, filters `g` by G, and products `m` by A. A tile is transformed in both dimensions: `Bᵀ
//! d B`, `G g Gᵀ`, `Aᵀ m A`. Those of 2 and 4 taps are made in the same way: element `i` of a transformed filter is the
//! value of the polynomial with the coefficients `g` at a point, divided by the product of the differences of this
//! point to the other ones; the last element is the highest coefficient. See A. Toom (1963) and S. Cook (1966).

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
}

/// One dimension of the transforms of F(M, R), on vectors of channels: `N = M + R - 1` inputs, `R` weights, `M`
/// outputs.
///
/// # Safety
/// The conditions of [`Vector`] hold.
pub(crate) trait WinogradTransform<const N: usize, const M: usize, const R: usize> {
    /// The transformed filter, `G g`.
    unsafe fn filter<V: Vector>(g: [V; R]) -> [V; N];
    /// The transformed inputs, `Bᵀ d`.
    unsafe fn input<V: Vector>(d: [V; N]) -> [V; N];
    /// The outputs, `Aᵀ m`.
    unsafe fn output<V: Vector>(m: [V; N]) -> [V; M];

    /// The element that a short tile does without. A short tile has `M - 1` outputs, for which `N - 1` points are
    /// enough.
    const SPARE: usize;
    /// The transformed inputs of a short tile, for the same transformed filter. The last input is not used, and the
    /// spare element is zero.
    unsafe fn short_input<V: Vector>(d: [V; N]) -> [V; N];
    /// The outputs of a short tile. The spare element is not used, and the last output is zero.
    unsafe fn short_output<V: Vector>(m: [V; N]) -> [V; M];
}

/// The transforms of F(2, 3).
pub(crate) struct F2;

impl WinogradTransform<4, 2, 3> for F2 {
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

    const SPARE: usize = 2;

    #[inline(always)]
    unsafe fn short_input<V: Vector>(d: [V; 4]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [d[0].sub(d[1]), d[1].add(d[1]), V::splat(0.0), d[2].sub(d[1])] }
    }

    #[inline(always)]
    unsafe fn short_output<V: Vector>(m: [V; 4]) -> [V; 2] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [m[0].add(m[1].add(m[3])), V::splat(0.0)] }
    }
}

/// The transforms of F(4, 3).
pub(crate) struct F4;

impl WinogradTransform<6, 4, 3> for F4 {
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

    const SPARE: usize = 4;

    #[inline(always)]
    unsafe fn short_input<V: Vector>(d: [V; 6]) -> [V; 6] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (two, minus_two, zero) = (V::splat(2.0), V::splat(-2.0), V::splat(0.0));
            let (near, wide) = (d[2].sub(d[1]), d[3].sub(d[1]));
            let (step, far) = (d[3].sub(d[2]), d[4].sub(d[2]));
            [
                d[2].sub(d[0]).mul_add(V::splat(-4.0), wide.mul_add(two, zero)),
                d[1].mul_add(minus_two, step).mul_add(V::splat(3.0), zero),
                near.mul_add(minus_two, step),
                wide.mul_add(V::splat(4.0), zero),
                zero,
                wide.mul_add(minus_two, far),
            ]
        }
    }

    #[inline(always)]
    unsafe fn short_output<V: Vector>(m: [V; 6]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            [
                m[0].add(sum.add(m[3])),
                m[3].mul_add(V::splat(2.0), difference),
                m[3].mul_add(V::splat(4.0), sum).add(m[5]),
                V::splat(0.0),
            ]
        }
    }
}

/// The transforms of F(4, 4), with the points 0, 1, -1, 2, -2, 1/2 and infinity.
pub(crate) struct F4With4Taps;

impl WinogradTransform<7, 4, 4> for F4With4Taps {
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 4]) -> [V; 7] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let times = |factor: f32, vector: V| vector.mul_add(V::splat(factor), V::splat(0.0));
            let (four, quarter) = (V::splat(4.0), V::splat(0.25));
            let (even, odd) = (g[0].add(g[2]), g[1].add(g[3]));
            let wide_even = g[2].mul_add(four, g[0]);
            let wide_odd = times(2.0, g[3].mul_add(four, g[1]));
            let near_even = g[2].mul_add(quarter, g[0]);
            let near_odd = times(0.5, g[3].mul_add(quarter, g[1]));
            [
                times(-0.5, g[0]),
                times(-1.0 / 3.0, even.add(odd)),
                times(1.0 / 9.0, even.sub(odd)),
                times(1.0 / 36.0, wide_even.add(wide_odd)),
                times(-1.0 / 60.0, wide_even.sub(wide_odd)),
                times(32.0 / 45.0, near_even.add(near_odd)),
                g[3],
            ]
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 7]) -> [V; 7] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (two, four, minus_four, minus_five) = (V::splat(2.0), V::splat(4.0), V::splat(-4.0), V::splat(-5.0));
            let minus_half = V::splat(-0.5);
            // Without the point 1/2, the elements would be those of F(4, 3). Each is multiplied by `x - 1/2`: its value
            // one input later, minus half of it.
            let ends = [
                d[0].mul_add(four, d[2].mul_add(minus_five, d[4])),
                d[1].mul_add(four, d[3].mul_add(minus_five, d[5])),
                d[2].mul_add(four, d[4].mul_add(minus_five, d[6])),
            ];
            let wide = [d[1].mul_add(minus_four, d[3]), d[2].mul_add(minus_four, d[4]), d[3].mul_add(minus_four, d[5])];
            let near = [d[3].sub(d[1]), d[4].sub(d[2]), d[5].sub(d[3])];
            let wide = [wide[1].mul_add(minus_half, wide[2]), wide[0].mul_add(minus_half, wide[1])];
            let near = [near[1].mul_add(minus_half, near[2]), near[0].mul_add(minus_half, near[1])];
            [
                ends[0].mul_add(minus_half, ends[1]),
                wide[0].add(wide[1]),
                wide[0].sub(wide[1]),
                near[1].mul_add(two, near[0]),
                near[1].mul_add(V::splat(-2.0), near[0]),
                ends[1],
                ends[1].mul_add(minus_half, ends[2]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 7]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (wide_sum, wide_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                m[0].add(m[5]).add(sum.add(wide_sum)),
                wide_difference.mul_add(V::splat(2.0), m[5].mul_add(V::splat(0.5), difference)),
                wide_sum.mul_add(V::splat(4.0), m[5].mul_add(V::splat(0.25), sum)),
                wide_difference.mul_add(V::splat(8.0), m[5].mul_add(V::splat(0.125), difference)).add(m[6]),
            ]
        }
    }

    const SPARE: usize = 5;

    #[inline(always)]
    unsafe fn short_input<V: Vector>(d: [V; 7]) -> [V; 7] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let times = |factor: f32, vector: V| vector.mul_add(V::splat(factor), V::splat(0.0));
            let [first, plus, minus, wide_plus, wide_minus, last] = F4::input([d[0], d[1], d[2], d[3], d[4], d[5]]);
            // The filter is divided by the differences of each point to 1/2 too.
            [
                times(-0.5, first),
                times(0.5, plus),
                times(-1.5, minus),
                times(1.5, wide_plus),
                times(-2.5, wide_minus),
                V::splat(0.0),
                last,
            ]
        }
    }

    #[inline(always)]
    unsafe fn short_output<V: Vector>(m: [V; 7]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (wide_sum, wide_difference) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                m[0].add(sum.add(wide_sum)),
                wide_difference.mul_add(V::splat(2.0), difference),
                wide_sum.mul_add(V::splat(4.0), sum).add(m[6]),
                V::splat(0.0),
            ]
        }
    }
}

/// The transforms of F(2, 2), with the points 0, 1 and infinity.
pub(crate) struct F2With2Taps;

impl WinogradTransform<3, 2, 2> for F2With2Taps {
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 2]) -> [V; 3] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [g[0], g[0].add(g[1]), g[1]] }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 3]) -> [V; 3] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [d[0].sub(d[1]), d[1], d[2].sub(d[1])] }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 3]) -> [V; 2] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [m[0].add(m[1]), m[1].add(m[2])] }
    }

    const SPARE: usize = 1;

    #[inline(always)]
    unsafe fn short_input<V: Vector>(d: [V; 3]) -> [V; 3] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [d[0], V::splat(0.0), d[1]] }
    }

    #[inline(always)]
    unsafe fn short_output<V: Vector>(m: [V; 3]) -> [V; 2] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe { [m[0].add(m[2]), V::splat(0.0)] }
    }
}

/// The transforms of F(4, 2), with the points 0, 1, -1, 2 and infinity.
pub(crate) struct F4With2Taps;

impl WinogradTransform<5, 4, 2> for F4With2Taps {
    #[inline(always)]
    unsafe fn filter<V: Vector>(g: [V; 2]) -> [V; 5] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let times = |factor: f32, vector: V| vector.mul_add(V::splat(factor), V::splat(0.0));
            [
                times(0.5, g[0]),
                times(-0.5, g[0].add(g[1])),
                times(1.0 / 6.0, g[1].sub(g[0])),
                times(1.0 / 6.0, g[1].mul_add(V::splat(2.0), g[0])),
                g[1],
            ]
        }
    }

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 5]) -> [V; 5] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let two = V::splat(2.0);
            let wide = d[3].sub(d[1]);
            let (near, far) = (d[2].sub(d[1]), d[4].sub(d[2]));
            [
                d[0].sub(d[2]).mul_add(two, wide),
                d[1].mul_add(V::splat(-2.0), d[3].sub(d[2])),
                near.mul_add(V::splat(-2.0), d[3].sub(d[2])),
                wide,
                wide.mul_add(V::splat(-2.0), far),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 5]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let (sum, difference) = (m[1].add(m[2]), m[1].sub(m[2]));
            [
                m[0].add(m[3].add(sum)),
                m[3].mul_add(V::splat(2.0), difference),
                m[3].mul_add(V::splat(4.0), sum),
                m[3].mul_add(V::splat(8.0), difference).add(m[4]),
            ]
        }
    }

    const SPARE: usize = 3;

    #[inline(always)]
    unsafe fn short_input<V: Vector>(d: [V; 5]) -> [V; 5] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let zero = V::splat(0.0);
            [
                d[0].sub(d[2]).mul_add(V::splat(2.0), zero),
                zero.sub(d[1].add(d[2])),
                d[1].sub(d[2]).mul_add(V::splat(3.0), zero),
                zero,
                d[3].sub(d[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn short_output<V: Vector>(m: [V; 5]) -> [V; 4] {
        // SAFETY: guaranteed by the caller; see `WinogradTransform`.
        unsafe {
            let sum = m[1].add(m[2]);
            [m[0].add(sum), m[1].sub(m[2]), sum.add(m[4]), V::splat(0.0)]
        }
    }
}
