//! Scans → planes of samples. Owns the order in which a file brings blocks, and whether all of them came.
//!
//! Decoders make up what is missing: libjpeg and most others paint the rest of a cut or damaged scan grey and call it
//! a success. Here it is an error, which is half of why this is not theirs.
//!
//! Source: ITU-T T.81 annexes F and G; for what real files get wrong, libjpeg's `jdhuff.c` and `jdphuff.c`.

use super::block::{self, Block, ZIGZAG};
use super::huffman::{Bits, DAMAGED, SHORT, Table, Tables, signed};
use super::planes::{Plane, Scaling};
use super::segments::{Component, Frame, position};
use std::ops::Range;

/// Bytes that may be left over in a scan, whatever its size. Cameras pad, and libjpeg only warns.
const LEFT_OVER: usize = 4096;

/// Most bytes that one coefficient takes in a scan: a code of 16 bits and 15 more, and a zero stuffed after each byte.
const COEFFICIENT: usize = 8;

/// Most bytes that one coding unit takes beside its coefficients: a restart marker, and bits to fill a byte before it.
const RESTART: usize = 4;

/// By destination; none until the file defines it.
pub(super) type Quantisation = [Option<[u16; 64]>; 4];

/// A frame, and what is known of it so far.
pub(super) struct Decoding<'file> {
    progressive: bool,
    /// Coding units of an interleaved scan, across and down.
    units: (usize, usize),
    channels: Vec<Channel>,
    bits: Bits<'file>,
}

/// What is known of one component.
struct Channel {
    component: Component,
    /// Blocks of its own, across and down, as a scan of it alone has them.
    blocks: (usize, usize),
    plane: Plane,
    /// Of a progressive frame, block by block; sequential blocks become samples at once.
    coefficients: Vec<Block>,
    /// The table in force when its first scan began.
    quantisation: Option<[u16; 64]>,
    /// Bits that are still to come, by coefficient; none for one that no scan has named.
    pending: [Option<u8>; 64],
}

/// A scan's header.
struct Scan {
    /// Index of the channel, DC table, AC table.
    channels: Vec<(usize, u8, u8)>,
    /// The coefficients that it brings.
    band: Range<usize>,
    /// Bits that were still to come before it, 0 for a first pass, and after it.
    high: u8,
    low: u8,
}

impl<'file> Decoding<'file> {
    /// Of a frame whose size has been found acceptable: this is where memory is taken.
    ///
    /// # Errors
    /// When the channels' factors do not divide.
    pub(super) fn of(frame: &Frame) -> Result<Self, &'static str> {
        let most = |side: fn(&Component) -> u8| frame.components.iter().map(side).max().map_or(1, usize::from);
        // One channel alone is not sampled against any other.
        let alone = frame.components.len() == 1;
        let most = if alone { (1, 1) } else { (most(|c| c.across), most(|c| c.down)) };
        let (width, height) = (usize::from(frame.width), usize::from(frame.height));
        let units = (width.div_ceil(8 * most.0), height.div_ceil(8 * most.1));
        let channel = |&component: &Component| {
            let component = if alone { Component { across: 1, down: 1, ..component } } else { component };
            let own = (usize::from(component.across), usize::from(component.down));
            let (width, height) = ((width * own.0).div_ceil(most.0), (height * own.1).div_ceil(most.1));
            let scaling = Scaling::of(own, most, width).ok_or("its sampling factors do not divide")?;
            let stored = (units.0 * own.0, units.1 * own.1);
            let (samples, coefficients) = match frame.progressive {
                true => (Vec::new(), vec![[0; 64]; stored.0 * stored.1]),
                false => (vec![0; stored.0 * stored.1 * 64], Vec::new()),
            };
            let plane = Plane { samples, stride: stored.0 * 8, width, height, scaling };
            let blocks = (width.div_ceil(8), height.div_ceil(8));
            Ok(Channel { component, blocks, plane, coefficients, quantisation: None, pending: [None; 64] })
        };
        let channels = frame.components.iter().map(channel).collect::<Result<_, &'static str>>()?;
        Ok(Self { progressive: frame.progressive, units, channels, bits: Bits::default() })
    }

    /// Reads one scan to its end.
    ///
    /// # Errors
    /// When data is missing or damaged, in words for people.
    pub(super) fn scan(
        &mut self,
        header: &[u8],
        data: &'file [u8],
        tables: &Tables,
        quantisation: &Quantisation,
        interval: u16,
    ) -> Result<(), &'static str> {
        let scan = self.header(header)?;
        for &(index, ..) in &scan.channels {
            let channel = &mut self.channels[index];
            let table = quantisation.get(usize::from(channel.component.quantisation)).copied().flatten();
            channel.quantisation = channel.quantisation.or(table);
        }
        let units = match scan.channels[..] {
            [(only, ..)] => self.channels[only].blocks,
            _ => self.units,
        };
        let count = units.0 * units.1;
        let blocks = |&(index, ..): &(usize, u8, u8)| {
            let (across, down) = self.channels[index].in_unit(&scan);
            across * down
        };
        let coefficients = scan.channels.iter().map(blocks).sum::<usize>() * scan.band.len();
        if data.len() > count * (COEFFICIENT * coefficients + RESTART) + LEFT_OVER {
            return Err("a scan has more coded data than its pixels can take: it is damaged");
        }
        let interval = if interval == 0 { count } else { usize::from(interval) };
        let (mut left_over, mut expected) = (0, None);
        let mut next = Some((None, data));
        for first in (0..count).step_by(interval) {
            let (restart, data) = next.ok_or(SHORT)?;
            if restart != expected {
                return Err("restart markers are missing or out of order: it is damaged");
            }
            expected = Some(expected.map_or(0, |number: u8| (number + 1) % 8));
            let coded;
            (coded, next) = split_at_restart(data);
            self.bits.load(coded);
            let range = first..count.min(first + interval);
            if !self.progressive {
                self.sequential(&scan, range, units.0, tables)?;
            } else if scan.band.start == 0 {
                self.first_coefficients(&scan, range, units.0, tables)?;
            } else {
                self.band(&scan, range, units.0, tables)?;
            }
            left_over += self.bits.left_over();
        }
        left_over += next.map_or(0, |(_, data)| data.len());
        if left_over > LEFT_OVER.max(data.len() / 16) {
            return Err(DAMAGED);
        }
        Ok(())
    }

    /// The planes, once all scans have been read.
    ///
    /// # Errors
    /// When a channel, or a refinement that others promised, never came.
    pub(super) fn planes(self) -> Result<Vec<Plane>, &'static str> {
        let plane = |channel: Channel| {
            if channel.pending[0].is_none() || channel.pending.iter().flatten().any(|&bits| bits > 0) {
                return Err("scans are missing: it was cut short");
            }
            let mut plane = channel.plane;
            if self.progressive {
                let quantisation = channel.quantisation.ok_or(NO_QUANTISATION)?;
                plane.samples = vec![0; channel.coefficients.len() * 64];
                for (index, coefficients) in channel.coefficients.iter().enumerate() {
                    let across = plane.stride / 8;
                    let samples = match block::is_flat(coefficients) {
                        true => [block::flat(coefficients[0], quantisation[0]); 64],
                        false => block::samples(coefficients, &quantisation),
                    };
                    plane.put(index % across, index / across, &samples);
                }
            }
            Ok(plane)
        };
        self.channels.into_iter().map(plane).collect()
    }

    fn header(&mut self, header: &[u8]) -> Result<Scan, &'static str> {
        const MALFORMED: &str = "a scan header is malformed";
        let [count, rest @ ..] = header else { return Err(MALFORMED) };
        let (named, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or(MALFORMED)?;
        let [first, last, approximation] = *rest else { return Err(MALFORMED) };
        let mut channels: Vec<(usize, u8, u8)> = Vec::new();
        for name in named.chunks_exact(2) {
            let index = self.channels.iter().position(|channel| channel.component.id == name[0]);
            let index = index.filter(|index| channels.iter().all(|(other, ..)| other != index)).ok_or(MALFORMED)?;
            channels.push((index, name[1] >> 4, name[1] & 15));
        }
        // At most ten blocks in a coding unit (T.81 B.2.3).
        let blocks = |&(index, ..): &(usize, u8, u8)| {
            let component = self.channels[index].component;
            usize::from(component.across) * usize::from(component.down)
        };
        if channels.is_empty() || channels.len() > 1 && channels.iter().map(blocks).sum::<usize>() > 10 {
            return Err(MALFORMED);
        }
        let (first, last) = (usize::from(first), usize::from(last));
        let scan = if self.progressive {
            Scan { channels, band: first..last + 1, high: approximation >> 4, low: approximation & 15 }
        } else {
            // All coefficients, whatever these numbers say: libjpeg only warns.
            Scan { channels, band: 0..64, high: 0, low: 0 }
        };
        let alone = scan.channels.len() == 1;
        let band = if first == 0 { last == 0 } else { alone && first <= last && last < 64 };
        let refines = scan.high == 0 || scan.high == scan.low + 1;
        if self.progressive && (!band || !refines || scan.low > 13) {
            return Err(MALFORMED);
        }
        for &(index, ..) in &scan.channels {
            for pending in &mut self.channels[index].pending[scan.band.clone()] {
                let known = pending.replace(scan.low);
                if known.unwrap_or(0) != scan.high || known.is_some() && scan.high == 0 {
                    return Err("its scans repeat each other or are out of order");
                }
            }
        }
        Ok(scan)
    }

    /// All coefficients of the given coding units, `across` of which stand in a row.
    fn sequential(
        &mut self,
        scan: &Scan,
        units: Range<usize>,
        across: usize,
        tables: &Tables,
    ) -> Result<(), &'static str> {
        let mut parts = Vec::new();
        for &(index, dc, ac) in &scan.channels {
            let channel = &self.channels[index];
            let quantisation = channel.quantisation.ok_or(NO_QUANTISATION)?;
            parts.push((index, channel.in_unit(scan), tables.dc(dc)?, tables.ac(ac)?, quantisation, 0_i32));
        }
        for unit in units {
            let (row, column) = (unit / across, unit % across);
            for (index, (wide, high), dc, ac, quantisation, before) in &mut parts {
                let plane = &mut self.channels[*index].plane;
                for y in row * *high..(row + 1) * *high {
                    for x in column * *wide..(column + 1) * *wide {
                        let mut coefficients = [0; 64];
                        let last = self.bits.block(dc, ac, before, &mut coefficients)?;
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

    /// The first coefficient of each block of the given coding units, or one more bit of it.
    fn first_coefficients(
        &mut self,
        scan: &Scan,
        units: Range<usize>,
        across: usize,
        tables: &Tables,
    ) -> Result<(), &'static str> {
        let mut before = [0_i32; 4];
        for unit in units {
            let (row, column) = (unit / across, unit % across);
            for &(index, dc, _) in &scan.channels {
                let channel = &mut self.channels[index];
                let ((wide, high), stride) = (channel.in_unit(scan), channel.plane.stride / 8);
                for y in row * high..(row + 1) * high {
                    for x in column * wide..(column + 1) * wide {
                        let coefficient = &mut channel.coefficients[y * stride + x][0];
                        if scan.high == 0 {
                            let before = &mut before[index];
                            *before = before.wrapping_add(self.bits.difference(tables.dc(dc)?)?);
                            *coefficient = (*before << scan.low) as i16;
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

    /// A band of other coefficients of one channel, or one more bit of them.
    fn band(&mut self, scan: &Scan, units: Range<usize>, across: usize, tables: &Tables) -> Result<(), &'static str> {
        let (index, _, ac) = scan.channels[0];
        let table = tables.ac(ac)?;
        let channel = &mut self.channels[index];
        let stride = channel.plane.stride / 8;
        // Blocks, the present one included, that have nothing more in their band.
        let mut run = 0_u32;
        for unit in units {
            if scan.high == 0 && run > 0 {
                run -= 1;
                continue;
            }
            let coefficients = &mut channel.coefficients[unit / across * stride + unit % across];
            if scan.high == 0 {
                run = self.bits.first_pass(table, scan, coefficients)?.saturating_sub(1);
            } else {
                run = self.bits.refinement(table, scan, coefficients, run)?.saturating_sub(1);
            }
            self.bits.check()?;
        }
        Ok(())
    }
}

const NO_QUANTISATION: &str = "a scan names a quantisation table that the file lacks";

impl Channel {
    /// Blocks of one coding unit, across and down.
    fn in_unit(&self, scan: &Scan) -> (usize, usize) {
        match scan.channels.len() {
            1 => (1, 1),
            _ => (self.component.across.into(), self.component.down.into()),
        }
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

impl Bits<'_> {
    #[inline(always)]
    fn difference(&mut self, table: &Table) -> Result<i32, &'static str> {
        let (size, following) = self.symbol(table)?;
        // Tables of DC codes have no larger ones.
        let size = u32::from(size & 15);
        self.skip(size);
        Ok(signed(following, size))
    }

    /// All of one block; returns the position of the last coefficient that is not zero.
    #[inline(always)]
    fn block(
        &mut self,
        dc: &Table,
        ac: &Table,
        before: &mut i32,
        coefficients: &mut Block,
    ) -> Result<usize, &'static str> {
        *before = before.wrapping_add(self.difference(dc)?);
        coefficients[0] = *before as i16;
        let (mut next, mut last) = (1, 0);
        while next < 64 {
            let (symbol, following) = self.symbol(ac)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            next += run;
            if size > 0 {
                *coefficients.get_mut(place(next)?).ok_or(DAMAGED)? = signed(following, size) as i16;
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

    /// A band of one block, none of which is known yet; returns for how many blocks the band has ended.
    fn first_pass(&mut self, table: &Table, scan: &Scan, coefficients: &mut Block) -> Result<u32, &'static str> {
        let mut next = scan.band.start;
        while next < scan.band.end {
            let (symbol, following) = self.symbol(table)?;
            let (run, size) = (symbol >> 4, u32::from(symbol & 15));
            if size == 0 && run < 15 {
                return Ok(self.end_of_band(run.into(), following));
            }
            next += usize::from(run);
            if size > 0 {
                coefficients[place(next)?] = (signed(following, size) << scan.low) as i16;
                self.skip(size);
            }
            next += 1;
        }
        if next > scan.band.end { Err(DAMAGED) } else { Ok(0) }
    }

    /// One more bit of a band of one block: of each coefficient that is not zero, and of some that now cease to be.
    /// The band has ended for `ended` blocks, this one included; returns for how many it has afterwards.
    fn refinement(
        &mut self,
        table: &Table,
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
                let coefficient = &mut coefficients[place(next)?];
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
                coefficients[place(next)?] = fresh;
            }
            next += 1;
        }
        if ended > 0 && !block::is_flat(coefficients) {
            for next in next..scan.band.end {
                let coefficient = &mut coefficients[place(next)?];
                if *coefficient != 0 {
                    self.refine(coefficient, bit)?;
                }
            }
        }
        Ok(ended)
    }

    /// Away from zero if the next bit says so.
    fn refine(&mut self, coefficient: &mut i16, bit: i16) -> Result<(), &'static str> {
        // A bit that is there already was meant by no encoder; libjpeg leaves it.
        if self.bit()? && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Ok(())
    }

    /// How many blocks have nothing more in their band: 2^`exponent`, and as many more as that many bits say.
    fn end_of_band(&mut self, exponent: u32, following: u64) -> u32 {
        self.skip(exponent);
        (1 << exponent) + (following >> 1 >> (63 - exponent)) as u32
    }
}

#[inline(always)]
fn place(position: usize) -> Result<usize, &'static str> {
    ZIGZAG.get(position).map(|&place| usize::from(place)).ok_or(DAMAGED)
}

/// The number of a restart marker, where it has one, and what follows it.
type Restart<'a> = (Option<u8>, &'a [u8]);

/// The data before the first restart marker, then the marker's number and what follows it.
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
    fn a_band_ends_for_as_many_blocks_as_it_says() {
        // 0: end of band with exponent 2; 10: a coefficient of one bit after no zeros.
        let mut lengths = [0; 16];
        (lengths[0], lengths[1]) = (1, 1);
        let table = Table::new(&lengths, &[0x20, 0x01]).expect("a prefix code");
        let scan = Scan { channels: vec![(0, 0, 0)], band: 1..6, high: 0, low: 1 };
        // A coefficient (10 1), then 4 + 3 blocks (0 11).
        let (mut bits, mut coefficients) = (Bits::default(), [0; 64]);
        bits.load(&[0b1010_1100]);
        assert_eq!(bits.first_pass(&table, &scan, &mut coefficients), Ok(7));
        assert_eq!(coefficients[..3], [0, 2, 0]);
        // A refinement of that coefficient only: 0 01, then its bit.
        let scan = Scan { high: 1, low: 0, ..scan };
        bits.load(&[0b0011_0000]);
        assert_eq!(bits.refinement(&table, &scan, &mut coefficients, 0), Ok(5));
        assert_eq!(coefficients[..3], [0, 3, 0]);
    }
}
