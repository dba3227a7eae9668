//! Tile registers: eight of them, each of 16 rows of 64 bytes.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2, TDPBF16PS.

use super::layout::Layout;
use super::split::number;
use crate::product::Ahead;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;

/// Columns of a tile of sums.
pub(super) const COLUMNS: usize = 16;

/// Numbers of `bf16` in a row: how deep into rows and columns one multiplication goes.
pub(super) const DEPTH: usize = 32;

/// Tiles of sums at a time; the other four registers hold what they are computed from.
pub(super) const TILES: usize = 4;

/// What multiplies tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registers {
    /// The same arithmetic number by number: for tests, where there is no such unit.
    Emulated,
    /// The matrix unit.
    Amx,
}

impl Registers {
    /// Those of this processor, the fastest last.
    pub fn available() -> Vec<Self> {
        [Self::Emulated, Self::Amx].into_iter().filter(|registers| registers.is_available()).collect()
    }

    /// Whether this processor has them and the system lets this process use them.
    pub fn is_available(self) -> bool {
        match self {
            Self::Emulated => true,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => amx::is_available(),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Self::Amx => false,
        }
    }

    /// To multiply on this thread.
    ///
    /// # Panics
    /// When they are not available.
    pub(super) fn session(self) -> Session {
        assert!(self.is_available(), "this processor lacks {self:?}");
        match self {
            Self::Emulated => Session::Emulated,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Session::Amx(amx::Configured::new()),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Self::Amx => unreachable!("not available"),
        }
    }
}

/// Sums of up to [`TILES`] tiles.
#[repr(align(64))]
pub(super) struct Sums([[f32; COLUMNS]; ROWS * TILES]);

impl Default for Sums {
    fn default() -> Self {
        Self([[0.0; COLUMNS]; ROWS * TILES])
    }
}

impl Sums {
    /// Row by row.
    #[inline(always)]
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f32; COLUMNS]> {
        self.0.iter()
    }
}

/// Multiplies on the thread that began it.
pub(super) enum Session {
    Emulated,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(amx::Configured),
}

impl Session {
    /// Multiplies `tiles` tiles of positions from `pixels` on with a block of columns, and asks meanwhile for what is ahead.
    ///
    /// # Safety
    /// `pixels` lies in an image of `layout` that has as many positions from there on; `weights` are a block of a filter of
    /// the same depth.
    #[inline(always)]
    pub(super) unsafe fn multiply(
        &self,
        layout: &Layout,
        pixels: *const u8,
        tiles: usize,
        weights: *const f32,
        ahead: Ahead,
        sums: &mut Sums,
    ) {
        let weights = weights.cast::<u8>();
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Emulated => emulated(layout, pixels, tiles, weights, sums),
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                Self::Amx(_) => amx::multiply(layout, pixels, tiles, weights, ahead, sums),
            }
        }
        // Without such a unit nothing is asked for.
        let _unused = ahead;
    }
}

/// # Safety
/// As for [`Session::multiply`].
unsafe fn emulated(layout: &Layout, pixels: *const u8, tiles: usize, weights: *const u8, sums: &mut Sums) {
    // SAFETY: the caller's.
    let read = |from: *const u8, index: usize| number(unsafe { from.cast::<u16>().add(index).read_unaligned() });
    for (row, sums) in sums.0.iter_mut().take(tiles * ROWS).enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            *sum = 0.0;
            for (step, offset) in layout.offsets.iter().enumerate() {
                let high = pixels.wrapping_add(offset + row * layout.step);
                let low = high.wrapping_add(layout.low);
                let columns = weights.wrapping_add(step * 2 * BYTES);
                for k in 0..DEPTH {
                    let place = (k / 2 * COLUMNS + column) * 2 + k % 2;
                    let (high_weight, low_weight) = (read(columns, place), read(columns.wrapping_add(BYTES), place));
                    *sum += read(high, k) * high_weight + read(high, k) * low_weight + read(low, k) * high_weight;
                }
            }
        }
    }
}

/// Of a tile.
const BYTES: usize = ROWS * DEPTH * size_of::<u16>();

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::{Ahead, BYTES, Layout, ROWS, Sums};
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _MM_HINT_T1, _mm_prefetch};
    use std::marker::PhantomData;
    use std::sync::OnceLock;

    /// Asked for once: it holds for the whole process.
    pub(super) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| {
            // Feature bits AMX-BF16 and AMX-TILE.
            const WANTED: u32 = 1 << 22 | 1 << 24;
            is_x86_feature_detected!("avx512f") && __cpuid_count(7, 0).edx & WANTED == WANTED && is_permitted()
        })
    }

    /// Registers of this size are given only to those who ask (Documentation/arch/x86/xstate.rst of Linux).
    fn is_permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: a system call that takes two numbers and touches no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    /// The registers of this thread, until dropped.
    pub(in super::super) struct Configured(PhantomData<*const ()>);

    /// As LDTILECFG reads it.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// Every register whole.
    const WHOLE: Configuration = {
        let (mut row_bytes, mut rows, mut register) = ([0; 16], [0; 16], 0);
        while register < 8 {
            (row_bytes[register], rows[register]) = (64, ROWS as u8);
            register += 1;
        }
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };

    impl Configured {
        pub(super) fn new() -> Self {
            // SAFETY: the registers are there and permitted, as whoever asks for a session has asserted.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &WHOLE, options(nostack, readonly)) };
            Self(PhantomData)
        }
    }

    impl Drop for Configured {
        fn drop(&mut self) {
            // SAFETY: as above.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    /// # Safety
    /// As for [`super::Session::multiply`], in a session.
    #[inline(always)]
    pub(super) unsafe fn multiply(
        layout: &Layout,
        pixels: *const u8,
        tiles: usize,
        weights: *const u8,
        ahead: Ahead,
        sums: &mut Sums,
    ) {
        // SAFETY: the caller's.
        unsafe {
            match tiles {
                1 => one(layout, pixels, weights, ahead),
                2 => two(layout, pixels, weights, ahead),
                3 => three(layout, pixels, weights, ahead),
                4 => four(layout, pixels, weights, ahead),
                _ => unreachable!("at most four tiles"),
            }
            asm!(
                "tilestored [{to} + {stride}], tmm0",
                "tilestored [{to} + {stride} + 1024], tmm1",
                "tilestored [{to} + {stride} + 2048], tmm2",
                "tilestored [{to} + {stride} + 3072], tmm3",
                to = in(reg) sums,
                stride = in(reg) 64_usize,
                options(nostack),
            );
        }
    }

    /// A function that multiplies so many tiles. Sums are in tmm0 to tmm3; tmm4 and tmm5 are the high and the low weights;
    /// tmm6 and tmm7 take turns in holding pixels. A sum is used again only when another one was, since an addition to it
    /// takes longer than a multiplication.
    macro_rules! tiles {
        ($name:ident: $($high:ident $low:ident = $index:literal),*; $($instruction:literal)*) => {
            #[inline(always)]
            unsafe fn $name(layout: &Layout, pixels: *const u8, weights: *const u8, ahead: Ahead) {
                let (mut columns, tile, steps) = (weights, ROWS * layout.step, layout.offsets.len());
                // SAFETY: the caller's; a prefetch never faults.
                unsafe {
                    asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
                    for (step, offset) in layout.offsets.iter().enumerate() {
                        let (high, low) = (pixels.add(*offset), pixels.add(*offset + layout.low));
                        asm!(
                            "tileloadd tmm4, [{weights} + {line}]",
                            "tileloadd tmm5, [{weights} + {line} + 1024]",
                            $($instruction,)*
                            weights = in(reg) columns,
                            line = in(reg) 64_usize,
                            $($high = in(reg) high.wrapping_add($index * tile),)*
                            $($low = in(reg) low.wrapping_add($index * tile),)*
                            row = in(reg) layout.step,
                            options(nostack, readonly),
                        );
                        columns = columns.wrapping_add(2 * BYTES);
                        ask(ahead.part(step, steps));
                    }
                }
            }
        };
    }

    tiles!(one: a low_a = 0;
        "tileloadd tmm6, [{a} + {row}]" "tdpbf16ps tmm0, tmm6, tmm4" "tdpbf16ps tmm0, tmm6, tmm5"
        "tileloadd tmm7, [{low_a} + {row}]" "tdpbf16ps tmm0, tmm7, tmm4"
    );

    tiles!(two: a low_a = 0, b low_b = 1;
        "tileloadd tmm6, [{a} + {row}]" "tdpbf16ps tmm0, tmm6, tmm4"
        "tileloadd tmm7, [{b} + {row}]" "tdpbf16ps tmm1, tmm7, tmm4" "tdpbf16ps tmm0, tmm6, tmm5" "tdpbf16ps tmm1, tmm7, tmm5"
        "tileloadd tmm6, [{low_a} + {row}]" "tdpbf16ps tmm0, tmm6, tmm4"
        "tileloadd tmm7, [{low_b} + {row}]" "tdpbf16ps tmm1, tmm7, tmm4"
    );

    tiles!(three: a low_a = 0, b low_b = 1, c low_c = 2;
        "tileloadd tmm6, [{a} + {row}]" "tdpbf16ps tmm0, tmm6, tmm4"
        "tileloadd tmm7, [{b} + {row}]" "tdpbf16ps tmm1, tmm7, tmm4" "tdpbf16ps tmm0, tmm6, tmm5"
        "tileloadd tmm6, [{c} + {row}]" "tdpbf16ps tmm2, tmm6, tmm4" "tdpbf16ps tmm1, tmm7, tmm5"
        "tileloadd tmm7, [{low_a} + {row}]" "tdpbf16ps tmm0, tmm7, tmm4" "tdpbf16ps tmm2, tmm6, tmm5"
        "tileloadd tmm6, [{low_b} + {row}]" "tdpbf16ps tmm1, tmm6, tmm4"
        "tileloadd tmm7, [{low_c} + {row}]" "tdpbf16ps tmm2, tmm7, tmm4"
    );

    tiles!(four: a low_a = 0, b low_b = 1, c low_c = 2, d low_d = 3;
        "tileloadd tmm6, [{a} + {row}]" "tdpbf16ps tmm0, tmm6, tmm4"
        "tileloadd tmm7, [{b} + {row}]" "tdpbf16ps tmm1, tmm7, tmm4" "tdpbf16ps tmm0, tmm6, tmm5"
        "tileloadd tmm6, [{c} + {row}]" "tdpbf16ps tmm1, tmm7, tmm5" "tdpbf16ps tmm2, tmm6, tmm4"
        "tileloadd tmm7, [{d} + {row}]" "tdpbf16ps tmm3, tmm7, tmm4" "tdpbf16ps tmm2, tmm6, tmm5"
        "tileloadd tmm6, [{low_a} + {row}]" "tdpbf16ps tmm3, tmm7, tmm5" "tdpbf16ps tmm0, tmm6, tmm4"
        "tileloadd tmm7, [{low_b} + {row}]" "tdpbf16ps tmm1, tmm7, tmm4"
        "tileloadd tmm6, [{low_c} + {row}]" "tdpbf16ps tmm2, tmm6, tmm4"
        "tileloadd tmm7, [{low_d} + {row}]" "tdpbf16ps tmm3, tmm7, tmm4"
    );

    /// Asks for what will be read.
    #[inline(always)]
    fn ask(ahead: Ahead) {
        const LINE: usize = 64 / size_of::<f32>();
        for line in (0..ahead.length).step_by(LINE) {
            // SAFETY: a hint, which never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.start.wrapping_add(line).cast()) };
        }
    }
}
