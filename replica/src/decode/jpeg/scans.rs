//! Decodes scans to planes of samples. Knows the order in which a file stores blocks, and checks that no block is
//! missing.
//!
//! libjpeg and most other decoders paint the missing part of a cut or damaged scan grey, and report success. Here a
//! missing or damaged part is an error.
//!
//! Sources: ITU-T T.81 annexes F (sequential) and G (progressive). Where real files deviate from it, the source is
//! libjpeg's `jdhuff.c` and `jdphuff.c`.

use super::block::{self, Block, ZIGZAG};
use super::huffman::{BitReader, DAMAGED, HuffmanTable, HuffmanTables, SHORT, extend};
use super::planes::{Plane, Upsampling};
use super::segments::{Component, FrameHeader, position};
use std::ops::Range;

/// A scan may have this number of unread bytes, or a sixteenth of its bytes if that is more. Cameras write padding, and
/// libjpeg only warns of it.
const UNREAD_BYTES: usize = 4096;

/// Most bytes that one coefficient takes in a scan: a code of 16 bits and 15 more bits, with a stuffed zero after each
/// byte.
const COEFFICIENT_BYTES: usize = 8;

/// Most bytes that an MCU takes in addition to its coefficients: a restart marker, and the bits that fill the byte
/// before the marker.
const RESTART_BYTES: usize = 4;

/// The error for a missing quantisation table.
const NO_QUANTISATION: &str = "a scan names a quantisation table that the file lacks";

/// The quantisation tables that scans use at present, by destination. `None` for a table that the file has not defined.
pub(super) type QuantisationTables = [Option<[u16; 64]>; 4];

/// Decodes the scans of one frame.
pub(super) struct FrameDecoder<'file> {
    progressive: bool,
    /// The number of MCUs (minimum coded units) of an interleaved scan, across and down.
    mcus: (usize, usize),
    components: Vec<DecodedComponent>,
    bits: BitReader<'file>,
}

/// The part of a component that has been decoded so far.
struct DecodedComponent {
    component: Component,
    /// The number of blocks, across and down, in a scan of this component alone.
    blocks: (usize, usize),
    plane: Plane,
    /// The coefficients of all blocks of a progressive frame. Empty in a sequential frame, whose blocks become samples
    /// as soon as they are read.
    coefficients: Vec<Block>,
    /// The table that its destination had when the component's first scan began.
    quantisation: Option<[u16; 64]>,
    /// For each coefficient, the number of low bits that are still missing. `None` if no scan has coded the coefficient
    /// yet.
    missing_bits: [Option<u8>; 64],
}

/// A scan header (T.81 B.2.3).
struct Scan {
    components: Vec<ScanComponent>,
    /// The indices, in zigzag order, of the coefficients that the scan codes (T.81 Ss and Se).
    band: Range<usize>,
    /// The number of low bits that were missing before this scan; 0 for the first scan of a band (T.81 Ah).
    high: u8,
    /// The number of low bits that are missing after this scan (T.81 Al).
    low: u8,
}

/// A component in a scan header.
#[derive(Clone, Copy)]
struct ScanComponent {
    /// The component's index in the frame.
    index: usize,
    /// The destination of the Huffman table for DC coefficients.
    dc: u8,
    /// The destination of the Huffman table for AC coefficients.
    ac: u8,
}

/// A component while a sequential scan is decoded.
struct SequentialComponent<'tables> {
    /// The component's index in the frame.
    index: usize,
    /// The number of blocks in an MCU, across and down.
    in_mcu: (usize, usize),
    dc: &'tables HuffmanTable,
    ac: &'tables HuffmanTable,
    quantisation: [u16; 64],
    /// The DC coefficient of the previous block (T.81 PRED).
    predictor: i32,
}

impl<'file> FrameDecoder<'file> {
    /// Allocates the memory for a frame. The caller must have compared its size with the limits.
    ///
    /// # Errors
    /// If the largest sampling factors are no multiples of the factors of each component.
    pub(super) fn new(frame: &FrameHeader) -> Result<Self, &'static str> {
        let most = |factor: fn(&Component) -> u8| frame.components.iter().map(factor).max().map_or(1, usize::from);
        // A single component is not subsampled, even if its factors are above 1.
        let is_single = frame.components.len() == 1;
        let most = if is_single { (1, 1) } else { (most(|c| c.across), most(|c| c.down)) };
        let (width, height) = (usize::from(frame.width), usize::from(frame.height));
        let mcus = (width.div_ceil(8 * most.0), height.div_ceil(8 * most.1));
        let component = |&component: &Component| {
            let component = if is_single { Component { across: 1, down: 1, ..component } } else { component };
            let own = (usize::from(component.across), usize::from(component.down));
            let (width, height) = ((width * own.0).div_ceil(most.0), (height * own.1).div_ceil(most.1));
            let upsampling =
                Upsampling::of(own, most, width).ok_or("its sampling factors are no divisors of the largest factor")?;
            let stored = (mcus.0 * own.0, mcus.1 * own.1);
            let (samples, coefficients) = match frame.progressive {
                true => (Vec::new(), vec![[0; 64]; stored.0 * stored.1]),
                false => (vec![0; stored.0 * stored.1 * 64], Vec::new()),
            };
            let plane = Plane { samples, stride: stored.0 * 8, width, height, upsampling };
            let blocks = (width.div_ceil(8), height.div_ceil(8));
            Ok(DecodedComponent {
                component,
                blocks,
                plane,
                coefficients,
                quantisation: None,
                missing_bits: [None; 64],
            })
        };
        let components = frame.components.iter().map(component).collect::<Result<_, &'static str>>()?;
        Ok(Self { progressive: frame.progressive, mcus, components, bits: BitReader::default() })
    }

    /// Decodes one scan. `interval` is the number of MCUs between restart markers, or 0 if there are none.
    ///
    /// # Errors
    /// If the header is malformed, or data is missing or damaged. The error is a part of the message for the client.
    pub(super) fn decode_scan(
        &mut self,
        header: &[u8],
        data: &'file [u8],
        tables: &HuffmanTables,
        quantisation: &QuantisationTables,
        interval: u16,
    ) -> Result<(), &'static str> {
        let scan = self.parse_header(header)?;
        self.record_bits(&scan)?;
        for &ScanComponent { index, .. } in &scan.components {
            let decoded = &mut self.components[index];
            let table = quantisation.get(usize::from(decoded.component.quantisation)).copied().flatten();
            decoded.quantisation = decoded.quantisation.or(table);
        }
        let mcus = match scan.components[..] {
            [only] => self.components[only.index].blocks,
            _ => self.mcus,
        };
        let count = mcus.0 * mcus.1;
        let coefficients = self.blocks_in_mcu(&scan) * scan.band.len();
        if data.len() > count * (COEFFICIENT_BYTES * coefficients + RESTART_BYTES) + UNREAD_BYTES {
            return Err("a scan has more coded data than its pixels can take, so the file is damaged");
        }
        let interval = if interval == 0 { count } else { usize::from(interval) };
        let (mut unread, mut expected) = (0, None);
        let mut next = Some((None, data));
        for first in (0..count).step_by(interval) {
            let (restart, data) = next.ok_or(SHORT)?;
            if restart != expected {
                return Err("restart markers are missing or out of order, so the file is damaged");
            }
            expected = Some(expected.map_or(0, |number: u8| (number + 1) % 8));
            let coded;
            (coded, next) = split_at_restart(data);
            self.bits.load(coded);
            self.decode_interval(&scan, first..count.min(first + interval), mcus.0, tables)?;
            unread += self.bits.unread_bytes();
        }
        unread += next.map_or(0, |(_, data)| data.len());
        if unread > UNREAD_BYTES.max(data.len() / 16) {
            return Err(DAMAGED);
        }
        Ok(())
    }

    /// The planes of all components. Must be called after all scans were decoded.
    ///
    /// # Errors
    /// If a component, or a refinement of its coefficients, is missing.
    pub(super) fn into_planes(self) -> Result<Vec<Plane>, &'static str> {
        let plane = |decoded: DecodedComponent| {
            let missing = decoded.missing_bits;
            if missing[0].is_none() || missing.iter().flatten().any(|&bits| bits > 0) {
                return Err("scans are missing, so the file was cut short");
            }
            if self.progressive { decoded.into_transformed_plane() } else { Ok(decoded.plane) }
        };
        self.components.into_iter().map(plane).collect()
    }

    /// Parses a scan header and checks its values. Does not compare the header with earlier scans.
    fn parse_header(&self, header: &[u8]) -> Result<Scan, &'static str> {
        const MALFORMED: &str = "a scan header is malformed";
        let [count, rest @ ..] = header else { return Err(MALFORMED) };
        let (named, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or(MALFORMED)?;
        let [first, last, approximation] = *rest else { return Err(MALFORMED) };
        let mut components: Vec<ScanComponent> = Vec::new();
        for name in named.chunks_exact(2) {
            let index = self.components.iter().position(|decoded| decoded.component.id == name[0]);
            let index = index.filter(|index| components.iter().all(|other| other.index != *index)).ok_or(MALFORMED)?;
            components.push(ScanComponent { index, dc: name[1] >> 4, ac: name[1] & 15 });
        }
        let (first, last) = (usize::from(first), usize::from(last));
        let scan = if self.progressive {
            Scan { components, band: first..last + 1, high: approximation >> 4, low: approximation & 15 }
        } else {
            // A sequential scan has all coefficients, even if these fields have other values. libjpeg only warns of
            // them.
            Scan { components, band: 0..64, high: 0, low: 0 }
        };
        let is_single = scan.components.len() == 1;
        // An interleaved MCU has at most ten blocks (T.81 B.2.3).
        if scan.components.is_empty() || !is_single && self.blocks_in_mcu(&scan) > 10 {
            return Err(MALFORMED);
        }
        let band = if first == 0 { last == 0 } else { is_single && first <= last && last < 64 };
        let refines = scan.high == 0 || scan.high == scan.low + 1;
        if self.progressive && (!band || !refines || scan.low > 13) {
            return Err(MALFORMED);
        }
        Ok(scan)
    }

    /// Records the bits that a scan codes, and checks that they are the next ones after those of earlier scans.
    fn record_bits(&mut self, scan: &Scan) -> Result<(), &'static str> {
        for &ScanComponent { index, .. } in &scan.components {
            for missing in &mut self.components[index].missing_bits[scan.band.clone()] {
                let before = missing.replace(scan.low);
                if before.unwrap_or(0) != scan.high || before.is_some() && scan.high == 0 {
                    return Err("its scans repeat each other or are out of order, so the file is damaged");
                }
            }
        }
        Ok(())
    }

    /// The number of blocks of all components in an MCU of a scan.
    fn blocks_in_mcu(&self, scan: &Scan) -> usize {
        let blocks = |component: &ScanComponent| {
            let (across, down) = self.components[component.index].in_mcu(scan);
            across * down
        };
        scan.components.iter().map(blocks).sum()
    }

    /// Decodes the MCUs between two restart markers. A row has `across` MCUs.
    fn decode_interval(
        &mut self,
        scan: &Scan,
        mcus: Range<usize>,
        across: usize,
        tables: &HuffmanTables,
    ) -> Result<(), &'static str> {
        if !self.progressive {
            self.sequential(scan, mcus, across, tables)
        } else if scan.band.start == 0 {
            self.progressive_dc(scan, mcus, across, tables)
        } else {
            self.progressive_ac(scan, mcus, across, tables)
        }
    }

    /// Decodes all coefficients of sequential MCUs, and transforms them to samples (T.81 F.2).
    fn sequential(
        &mut self,
        scan: &Scan,
        mcus: Range<usize>,
        across: usize,
        tables: &HuffmanTables,
    ) -> Result<(), &'static str> {
        let mut components = Vec::new();
        for &ScanComponent { index, dc, ac } in &scan.components {
            let decoded = &self.components[index];
            components.push(SequentialComponent {
                index,
                in_mcu: decoded.in_mcu(scan),
                dc: tables.dc(dc)?,
                ac: tables.ac(ac)?,
                quantisation: decoded.quantisation.ok_or(NO_QUANTISATION)?,
                predictor: 0,
            });
        }
        for mcu in mcus {
            let (row, column) = (mcu / across, mcu % across);
            for SequentialComponent { index, in_mcu: (wide, high), dc, ac, quantisation, predictor } in &mut components
            {
                let plane = &mut self.components[*index].plane;
                for y in row * *high..(row + 1) * *high {
                    for x in column * *wide..(column + 1) * *wide {
                        let mut coefficients = [0; 64];
                        let last = self.bits.block(dc, ac, predictor, &mut coefficients)?;
                        if last == 0 {
                            plane.put(x, y, &[block::flat(coefficients[0], quantisation[0]); 64]);
                        } else {
                            plane.put(x, y, &block::samples(&coefficients, quantisation));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Decodes the DC coefficient of each block of progressive MCUs, or one more bit of that coefficient (T.81
    /// G.1.2.1).
    fn progressive_dc(
        &mut self,
        scan: &Scan,
        mcus: Range<usize>,
        across: usize,
        tables: &HuffmanTables,
    ) -> Result<(), &'static str> {
        let mut predictors = [0_i32; 4];
        for mcu in mcus {
            let (row, column) = (mcu / across, mcu % across);
            for &ScanComponent { index, dc, .. } in &scan.components {
                let decoded = &mut self.components[index];
                let ((wide, high), stride) = (decoded.in_mcu(scan), decoded.plane.stride / 8);
                for y in row * high..(row + 1) * high {
                    for x in column * wide..(column + 1) * wide {
                        let coefficient = &mut decoded.coefficients[y * stride + x][0];
                        if scan.high == 0 {
                            let predictor = &mut predictors[index];
                            *predictor = predictor.wrapping_add(self.bits.difference(tables.dc(dc)?)?);
                            *coefficient = (*predictor << scan.low) as i16;
                        } else if self.bits.bit()? {
                            *coefficient |= 1 << scan.low;
                        }
                    }
                }
                self.bits.check()?;
            }
        }
        Ok(())
    }

    /// Decodes a band of AC coefficients of one component's blocks, or one more bit of those coefficients (T.81 G.1.2.2
    /// and G.1.2.3).
    fn progressive_ac(
        &mut self,
        scan: &Scan,
        mcus: Range<usize>,
        across: usize,
        tables: &HuffmanTables,
    ) -> Result<(), &'static str> {
        let ScanComponent { index, ac, .. } = scan.components[0];
        let table = tables.ac(ac)?;
        let decoded = &mut self.components[index];
        let stride = decoded.plane.stride / 8;
        // The number of blocks from the present one on whose bands have ended (T.81 EOBRUN).
        let mut end_of_band_run = 0_u32;
        for mcu in mcus {
            if scan.high == 0 && end_of_band_run > 0 {
                end_of_band_run -= 1;
                continue;
            }
            let coefficients = &mut decoded.coefficients[mcu / across * stride + mcu % across];
            let run = match scan.high {
                0 => self.bits.first_pass(table, scan, coefficients)?,
                _ => self.bits.refinement(table, scan, coefficients, end_of_band_run)?,
            };
            end_of_band_run = run.saturating_sub(1);
            self.bits.check()?;
        }
        Ok(())
    }
}

impl DecodedComponent {
    /// The number of this component's blocks in an MCU of `scan`, across and down. In a scan of one component, an MCU
    /// is one block (T.81 A.2.2).
    fn in_mcu(&self, scan: &Scan) -> (usize, usize) {
        match scan.components.len() {
            1 => (1, 1),
            _ => (self.component.across.into(), self.component.down.into()),
        }
    }

    /// Transforms the coefficients of a progressive frame to samples.
    fn into_transformed_plane(self) -> Result<Plane, &'static str> {
        let quantisation = self.quantisation.ok_or(NO_QUANTISATION)?;
        let mut plane = self.plane;
        plane.samples = vec![0; self.coefficients.len() * 64];
        let across = plane.stride / 8;
        for (index, coefficients) in self.coefficients.iter().enumerate() {
            let samples = match block::is_flat(coefficients) {
                true => [block::flat(coefficients[0], quantisation[0]); 64],
                false => block::samples(coefficients, &quantisation),
            };
            plane.put(index % across, index / across, &samples);
        }
        Ok(plane)
    }
}

impl Plane {
    /// Writes the samples of the block at column `x` and row `y` of blocks.
    #[inline(always)]
    fn put(&mut self, x: usize, y: usize, samples: &[u8; 64]) {
        let from = y * 8 * self.stride + x * 8;
        let rows = self.samples[from..].chunks_mut(self.stride);
        for (row, samples) in rows.zip(samples.as_chunks::<8>().0) {
            row[..8].copy_from_slice(samples);
        }
    }
}

impl BitReader<'_> {
    /// Reads the difference of a DC coefficient from its predictor (T.81 F.2.2.1).
    #[inline(always)]
    fn difference(&mut self, table: &HuffmanTable) -> Result<i32, &'static str> {
        let (size, following) = self.symbol(table)?;
        // The mask drops no bit, because a DC table has no symbol above 15.
        let size = u32::from(size & 15);
        self.skip(size);
        Ok(extend(following, size))
    }

    /// Reads all coefficients of one block (T.81 F.2.2). Returns the zigzag index of the last AC coefficient that is
    /// not zero, or 0 if there is none.
    #[inline(always)]
    fn block(
        &mut self,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        predictor: &mut i32,
        coefficients: &mut Block,
    ) -> Result<usize, &'static str> {
        *predictor = predictor.wrapping_add(self.difference(dc)?);
        coefficients[0] = *predictor as i16;
        let (mut next, mut last) = (1, 0);
        while next < 64 {
            let (symbol, following) = self.symbol(ac)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            next += run;
            if size > 0 {
                *coefficients.get_mut(natural_index(next)?).ok_or(DAMAGED)? = extend(following, size) as i16;
                self.skip(size);
                last = next;
            } else if run < 15 {
                break;
            }
            next += 1;
        }
        self.check()?;
        Ok(last)
    }

    /// Reads a band of one block for the first time. Returns the number of blocks, from this block on, whose bands have
    /// ended; 0 if the band was coded to its last coefficient.
    fn first_pass(&mut self, table: &HuffmanTable, scan: &Scan, coefficients: &mut Block) -> Result<u32, &'static str> {
        let mut next = scan.band.start;
        while next < scan.band.end {
            let (symbol, following) = self.symbol(table)?;
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            if size == 0 && run < 15 {
                return Ok(self.end_of_band(run.into(), following));
            }
            next += usize::from(run);
            if size > 0 {
                coefficients[natural_index(next)?] = (extend(following, size) << scan.low) as i16;
                self.skip(size);
            }
            next += 1;
        }
        if next > scan.band.end { Err(DAMAGED) } else { Ok(0) }
    }

    /// Reads one more bit of each coefficient in a band of one block. Coefficients that were zero so far may become one
    /// or minus one in that bit. `ended` is the number of blocks, from this block on, whose bands have ended before the
    /// call. Returns that number after the call.
    fn refinement(
        &mut self,
        table: &HuffmanTable,
        scan: &Scan,
        coefficients: &mut Block,
        mut ended: u32,
    ) -> Result<u32, &'static str> {
        let bit = 1 << scan.low;
        let mut next = scan.band.start;
        while ended == 0 && next < scan.band.end {
            let (symbol, following) = self.symbol(table)?;
            let (mut run, size) = (symbol >> 4, symbol & 15);
            if size == 0 && run < 15 {
                ended = self.end_of_band(run.into(), following);
                break;
            }
            let fresh = if following >> 63 == 1 { bit } else { -bit };
            self.skip(u32::from(size > 0));
            while next < scan.band.end {
                let coefficient = &mut coefficients[natural_index(next)?];
                if *coefficient != 0 {
                    self.refine(coefficient, bit)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                next += 1;
            }
            if size > 0 {
                if next >= scan.band.end {
                    return Err(DAMAGED);
                }
                coefficients[natural_index(next)?] = fresh;
            }
            next += 1;
        }
        if ended > 0 && !block::is_flat(coefficients) {
            for next in next..scan.band.end {
                let coefficient = &mut coefficients[natural_index(next)?];
                if *coefficient != 0 {
                    self.refine(coefficient, bit)?;
                }
            }
        }
        Ok(ended)
    }

    /// Moves a coefficient away from zero by `bit` if the next bit is one.
    fn refine(&mut self, coefficient: &mut i16, bit: i16) -> Result<(), &'static str> {
        // If the bit is set already, which no encoder sends, libjpeg does not change the coefficient.
        if self.bit()? && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Ok(())
    }

    /// Reads the number of blocks, from this block on, whose bands end: 2^`exponent` plus the number in the next
    /// `exponent` bits (T.81 G.1.2.2).
    fn end_of_band(&mut self, exponent: u32, following: u64) -> u32 {
        self.skip(exponent);
        (1 << exponent) + (following >> 1 >> (63 - exponent)) as u32
    }
}

/// The index in a [`Block`] of the coefficient whose index in zigzag order is `zigzag_index`.
#[inline(always)]
fn natural_index(zigzag_index: usize) -> Result<usize, &'static str> {
    ZIGZAG.get(zigzag_index).map(|&place| usize::from(place)).ok_or(DAMAGED)
}

/// The number of a restart marker, and the data after the marker. The number is `None` at the start of a scan.
type Restart<'a> = (Option<u8>, &'a [u8]);

/// Splits data into the part before the first restart marker, and the marker's number with the part after the marker.
fn split_at_restart(data: &[u8]) -> (&[u8], Option<Restart<'_>>) {
    match position(data, |byte| byte & 0xF8 == 0xD0) {
        Some(at) => (&data[..at], Some((Some(data[at + 1] - 0xD0), &data[at + 2..]))),
        None => (data, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_split_at_restart_markers() {
        for (data, coded, next) in [
            (&b"ab\xff\0c\xff\xff\xd0d\xff\xd1"[..], &b"ab\xff\0c\xff"[..], Some((Some(0), &b"d\xff\xd1"[..]))),
            (b"d\xff\xd7", b"d", Some((Some(7), b""))),
            (b"d\xff\0\xff", b"d\xff\0\xff", None),
            (b"", b"", None),
        ] {
            assert_eq!(split_at_restart(data), (coded, next), "{data:?}");
        }
    }

    #[test]
    fn a_code_ends_the_band_of_several_blocks() {
        // The code 0 is the symbol for an end of band with exponent 2. The code 10 is the symbol for a coefficient of
        // one bit that follows no zeros.
        let mut lengths = [0; 16];
        (lengths[0], lengths[1]) = (1, 1);
        let table = HuffmanTable::new(&lengths, &[0x20, 0x01]).expect("a prefix code");
        let components = vec![ScanComponent { index: 0, dc: 0, ac: 0 }];
        let scan = Scan { components, band: 1..6, high: 0, low: 1 };
        // The bits 10 1 are a coefficient. The bits 0 11 end the band of 4 + 3 blocks.
        let (mut bits, mut coefficients) = (BitReader::default(), [0; 64]);
        bits.load(&[0b1010_1100]);
        assert_eq!(bits.first_pass(&table, &scan, &mut coefficients), Ok(7));
        assert_eq!(coefficients[..3], [0, 2, 0]);
        // The bits 0 01 end the band of 4 + 1 blocks. The next bit, 1, refines the coefficient.
        let scan = Scan { high: 1, low: 0, ..scan };
        bits.load(&[0b0011_0000]);
        assert_eq!(bits.refinement(&table, &scan, &mut coefficients, 0), Ok(5));
        assert_eq!(coefficients[..3], [0, 3, 0]);
    }
}
