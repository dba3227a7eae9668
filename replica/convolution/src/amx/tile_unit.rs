//! The unit that multiplies tiles: AMX with eight tile registers of 16 rows of 64 bytes each, or an emulation.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, and volume 2, TDPBF16PS.

use super::image_layout::ImageLayout;
use super::split::from_bf16;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::Instructions;
use crate::product::Prefetch;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;

/// Columns of a tile of sums.
pub(super) const COLUMNS: usize = 16;

/// How many numbers of `bf16` a row of a tile has, and how many products one multiplication of tiles adds to each sum.
pub(super) const DEPTH: usize = 32;

/// Largest number of tiles of sums that are computed together. The other four registers hold the factors.
pub(super) const TILES: usize = 4;

/// A unit that multiplies tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TileUnit {
    /// The same arithmetic without tile instructions, for tests on processors that lack the unit.
    Emulated,
    /// The matrix unit of the processor.
    Amx,
}

impl TileUnit {
    /// The units that can be used on this processor, the fastest last.
    pub fn available() -> Vec<Self> {
        [Self::Emulated, Self::Amx].into_iter().filter(|unit| unit.is_available()).collect()
    }

    /// Whether this processor has the unit and the operating system lets this process use it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Emulated => true,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Instructions::is_unrestricted() && amx::is_available(),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Self::Amx => false,
        }
    }

    /// Prepares the unit for multiplications on this thread.
    ///
    /// # Panics
    /// If the unit is not available.
    pub(super) fn session(self) -> TileSession {
        assert!(self.is_available(), "this processor lacks {self:?}");
        match self {
            Self::Emulated => TileSession::Emulated,
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => TileSession::Amx(amx::ConfiguredTiles::new()),
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Self::Amx => unreachable!("the assertion above has refused the unit"),
        }
    }
}

/// The sums of up to [`TILES`] tiles.
#[repr(align(64))]
pub(super) struct Sums([[f32; COLUMNS]; ROWS * TILES]);

impl Default for Sums {
    fn default() -> Self {
        Self([[0.0; COLUMNS]; ROWS * TILES])
    }
}

impl Sums {
    /// All rows of sums, tile by tile.
    #[inline(always)]
    pub(super) fn rows(&self) -> impl Iterator<Item = &[f32; COLUMNS]> {
        self.0.iter()
    }
}

/// A unit that is prepared for multiplications on the thread that opened the session.
pub(super) enum TileSession {
    Emulated,
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx(amx::ConfiguredTiles),
}

impl TileSession {
    /// Multiplies `tiles` tiles of positions by a block of columns, and prefetches `prefetch` meanwhile. The first
    /// position of the first tile is at `pixels`.
    ///
    /// # Safety
    /// `pixels` is a position in an image of `layout`, and all rows of `tiles` tiles lie within that image's memory.
    /// `weights` is a block of a filter of the same geometry and input channels.
    #[inline(always)]
    pub(super) unsafe fn multiply(
        &self,
        layout: &ImageLayout,
        pixels: *const u8,
        tiles: usize,
        weights: *const f32,
        prefetch: Prefetch,
        sums: &mut Sums,
    ) {
        let weights = weights.cast::<u8>();
        // SAFETY: guaranteed by the caller.
        unsafe {
            match self {
                Self::Emulated => emulated(layout, pixels, tiles, weights, sums),
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                Self::Amx(_) => amx::multiply(layout, pixels, tiles, weights, prefetch, sums),
            }
        }
        // The emulation does not use `prefetch`. Where AMX is not compiled, the argument would be unused.
        let _unused = prefetch;
    }
}

/// Computes the sums number by number, in a loop over the depth.
///
/// # Safety
/// The conditions of [`TileSession::multiply`] hold.
unsafe fn emulated(layout: &ImageLayout, pixels: *const u8, tiles: usize, weights: *const u8, sums: &mut Sums) {
    // SAFETY: guaranteed by the caller.
    let read = |from: *const u8, index: usize| from_bf16(unsafe { from.cast::<u16>().add(index).read_unaligned() });
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

/// Bytes of a tile.
const BYTES: usize = ROWS * DEPTH * size_of::<u16>();

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use super::{BYTES, ImageLayout, Prefetch, ROWS, Sums};
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _MM_HINT_T1, _mm_prefetch};
    use std::marker::PhantomData;
    use std::sync::OnceLock;

    /// Whether the processor has the unit and the operating system permits its use. The permission is requested once,
    /// and holds for the whole process.
    pub(super) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| {
            // Feature bits AMX-BF16 and AMX-TILE.
            const FEATURES: u32 = 1 << 22 | 1 << 24;
            is_x86_feature_detected!("avx512f") && __cpuid_count(7, 0).edx & FEATURES == FEATURES && is_permitted()
        })
    }

    /// Requests permission to use the tile registers, without which Linux ends the process at the first tile
    /// instruction (Documentation/arch/x86/xstate.rst).
    fn is_permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_ulong = 18;
        // SAFETY: a system call that takes two numbers and touches no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    /// The tile registers of this thread, configured until dropped. Not [`Send`], because each thread has its own
    /// registers.
    pub(in super::super) struct ConfiguredTiles(PhantomData<*const ()>);

    /// The memory operand of LDTILECFG.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// The configuration that gives each of the eight registers 16 rows of 64 bytes.
    const WHOLE: Configuration = {
        let (mut row_bytes, mut rows, mut register) = ([0; 16], [0; 16], 0);
        while register < 8 {
            (row_bytes[register], rows[register]) = (64, ROWS as u8);
            register += 1;
        }
        Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    };

    impl ConfiguredTiles {
        pub(super) fn new() -> Self {
            // SAFETY: `TileUnit::session` has checked that the unit exists and is permitted.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &WHOLE, options(nostack, readonly)) };
            Self(PhantomData)
        }
    }

    impl Drop for ConfiguredTiles {
        fn drop(&mut self) {
            // SAFETY: the unit exists, since the registers were configured.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }

    /// Multiplies on the matrix unit.
    ///
    /// # Safety
    /// The conditions of [`super::TileSession::multiply`] hold, and a [`ConfiguredTiles`] exists on this thread.
    #[inline(always)]
    pub(super) unsafe fn multiply(
        layout: &ImageLayout,
        pixels: *const u8,
        tiles: usize,
        weights: *const u8,
        prefetch: Prefetch,
        sums: &mut Sums,
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match tiles {
                1 => one(layout, pixels, weights, prefetch),
                2 => two(layout, pixels, weights, prefetch),
                3 => three(layout, pixels, weights, prefetch),
                4 => four(layout, pixels, weights, prefetch),
                _ => unreachable!("a group has one to four tiles"),
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

    /// Defines a function that multiplies a fixed number of tiles. The sums are in tmm0 to tmm3, the high and low
    /// weights in tmm4 and tmm5, and pixels alternately in tmm6 and tmm7. If there are several sums, consecutive
    /// multiplications add to different sums where possible, since the latency of an addition is longer than the time
    /// between two multiplications.
    macro_rules! tiles {
        ($name:ident: $($high:ident $low:ident = $index:literal),*; $($instruction:literal)*) => {
            #[inline(always)]
            unsafe fn $name(layout: &ImageLayout, pixels: *const u8, weights: *const u8, prefetch: Prefetch) {
                let (mut columns, tile, steps) = (weights, ROWS * layout.step, layout.offsets.len());
                // SAFETY: guaranteed by the caller; a prefetch never faults.
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
                        prefetch_lines(prefetch.part(step, steps));
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
        "tileloadd tmm7, [{b} + {row}]" "tdpbf16ps tmm1, tmm7, tmm4"
        "tdpbf16ps tmm0, tmm6, tmm5" "tdpbf16ps tmm1, tmm7, tmm5"
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

    /// Prefetches all cache lines of `prefetch` into the second-level cache.
    #[inline(always)]
    fn prefetch_lines(prefetch: Prefetch) {
        const LINE: usize = 64 / size_of::<f32>();
        for line in (0..prefetch.length).step_by(LINE) {
            // SAFETY: a prefetch of any address never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(prefetch.start.wrapping_add(line).cast()) };
        }
    }
}
