//! Decodes scans to planes of samples. Knows the order in which a file stores blocks, and checks that no block is
//! missing.
//!
//! libjpeg and most other decoders paint the missing part of a cut or damaged scan grey, and report success. Here a
//! missing or damaged part is an error. Like libjpeg, this module skips bytes after the last block of a scan, because
//! cameras write padding there.
//!
//! Sources: ITU-T T.81 annexes F (sequential) and G (progressive). Where real files deviate from it, the source is
//! libjpeg's `jdhuff.c` and `jdphuff.c`.

use crate::arithmetic::{ArithmeticReader, Conditioning};
use crate::block;
use crate::component::{ComponentSize, DecodedComponent, NO_QUANTISATION};
use crate::huffman::{BitReader, HuffmanTable, HuffmanTables, SHORT};
use crate::planes::Plane;
use crate::scan_header::{Scan, ScanComponent};
use crate::segments::{FrameHeader, position};
use std::ops::Range;

/// The quantisation tables that scans use at present, by destination. `None` for a table that the file has not defined.
pub(crate) type QuantisationTables = [Option<[u16; 64]>; 4];

/// The tables that scans use at present.
pub(crate) struct Tables {
    pub(crate) huffman: HuffmanTables,
    pub(crate) conditioning: Conditioning,
    pub(crate) quantisation: QuantisationTables,
    /// The number of MCUs between restart markers, or 0 if there are none.
    pub(crate) restart_interval: u16,
}

/// Decodes the scans of one frame.
pub(crate) struct FrameDecoder<'file, 'frame> {
    frame: &'frame FrameHeader,
    /// The number of MCUs (minimum coded units) of an interleaved scan, across and down.
    mcus: (usize, usize),
    components: Vec<DecodedComponent>,
    bits: BitReader<'file>,
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

impl<'file, 'frame> FrameDecoder<'file, 'frame> {
    /// Allocates the memory for a frame. The caller must have compared its size with the limits.
    ///
    /// # Errors
    /// If the largest sampling factors are no multiples of the factors of each component.
    pub(crate) fn new(frame: &'frame FrameHeader) -> Result<Self, &'static str> {
        let (sizes, mcus) = ComponentSize::of(frame);
        let components = frame.components.iter().zip(sizes).map(|(component, size)| {
            DecodedComponent::new(*component, size, frame.largest_factors(), frame.progressive)
        });
        Ok(Self { frame, mcus, components: components.collect::<Result<_, _>>()?, bits: BitReader::default() })
    }

    /// Decodes one scan.
    ///
    /// # Errors
    /// If the header is malformed, or data is missing or damaged. The error is a part of the message for the client.
    #[inline(always)]
    pub(crate) fn decode_scan(
        &mut self,
        header: &[u8],
        data: &'file [u8],
        tables: &Tables,
    ) -> Result<(), &'static str> {
        let scan = Scan::parse(header, self.frame)?;
        for &ScanComponent { index, .. } in &scan.components {
            let decoded = &mut self.components[index];
            decoded.record_bits(&scan)?;
            let table = tables.quantisation.get(usize::from(decoded.component.quantisation)).copied().flatten();
            decoded.quantisation = decoded.quantisation.or(table);
        }
        let mcus = match scan.components[..] {
            [only] => self.components[only.index].blocks,
            _ => self.mcus,
        };
        let count = mcus.0 * mcus.1;
        let interval = if tables.restart_interval == 0 { count } else { usize::from(tables.restart_interval) };
        let mut expected = None;
        let mut next = Some((None, data));
        for first in (0..count).step_by(interval) {
            let (restart, data) = next.ok_or(SHORT)?;
            if restart != expected {
                return Err("restart markers are missing or out of order, so the file is damaged");
            }
            expected = Some(expected.map_or(0, |number: u8| (number + 1) % 8));
            let coded;
            (coded, next) = split_at_restart(data);
            self.decode_interval(&scan, first..count.min(first + interval), mcus.0, coded, tables)?;
        }
        Ok(())
    }

    /// The planes of all components. Must be called after all scans were decoded.
    ///
    /// # Errors
    /// If the first coefficients of a component are missing.
    #[inline(always)]
    pub(crate) fn into_planes(self) -> Result<Vec<Plane>, &'static str> {
        let knows_first = self.components.iter().all(DecodedComponent::has_first_coefficients);
        let incomplete = self.components.iter().map(DecodedComponent::incomplete);
        let (any_incomplete, all_divisible) =
            incomplete.fold((false, true), |(any, all), (incomplete, divisible)| (any | incomplete, all & divisible));
        let smooth = self.frame.progressive && knows_first && any_incomplete && all_divisible;
        let mut planes = Vec::new();
        for decoded in self.components {
            let down = decoded.component.down.into();
            planes.push(decoded.into_plane(smooth, down)?);
        }
        Ok(planes)
    }

    /// Decodes the MCUs between two restart markers. A row has `across` MCUs.
    #[inline(always)]
    fn decode_interval(
        &mut self,
        scan: &Scan,
        mcus: Range<usize>,
        across: usize,
        coded: &'file [u8],
        tables: &Tables,
    ) -> Result<(), &'static str> {
        if self.frame.arithmetic {
            return self.arithmetic(scan, mcus, across, coded, &tables.conditioning);
        }
        self.bits.load(coded);
        if !self.frame.progressive {
            self.sequential(scan, mcus, across, &tables.huffman)
        } else if scan.band.start == 0 {
            self.progressive_dc(scan, mcus, across, &tables.huffman)
        } else {
            self.progressive_ac(scan, mcus, across, &tables.huffman)
        }
    }

    /// Decodes all coefficients of sequential MCUs, and transforms them to samples (T.81 F.2).
    #[inline(always)]
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
                in_mcu: scan.in_mcu(&decoded.component),
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
    #[inline(always)]
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
                let (wide, high) = scan.in_mcu(&decoded.component);
                for y in row * high..(row + 1) * high {
                    for x in column * wide..(column + 1) * wide {
                        let coefficient = &mut decoded.block(x, y)[0];
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
    #[inline(always)]
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
        // The number of blocks from the present one on whose bands have ended (T.81 EOBRUN).
        let mut end_of_band_run = 0_u32;
        for mcu in mcus {
            if scan.high == 0 && end_of_band_run > 0 {
                end_of_band_run -= 1;
                continue;
            }
            let coefficients = decoded.block(mcu % across, mcu / across);
            let run = match scan.high {
                0 => self.bits.first_pass(table, scan, coefficients)?,
                _ => self.bits.refinement(table, scan, coefficients, end_of_band_run)?,
            };
            end_of_band_run = run.saturating_sub(1);
            self.bits.check()?;
        }
        Ok(())
    }

    /// Decodes arithmetic-coded MCUs, both sequential and progressive ones.
    fn arithmetic(
        &mut self,
        scan: &Scan,
        mcus: Range<usize>,
        across: usize,
        coded: &'file [u8],
        conditioning: &Conditioning,
    ) -> Result<(), &'static str> {
        let mut reader = ArithmeticReader::load(coded);
        for mcu in mcus {
            let (row, column) = (mcu / across, mcu % across);
            for &ScanComponent { index, dc, ac } in &scan.components {
                let decoded = &mut self.components[index];
                let (wide, high) = scan.in_mcu(&decoded.component);
                for y in row * high..(row + 1) * high {
                    for x in column * wide..(column + 1) * wide {
                        if !self.frame.progressive {
                            let quantisation = decoded.quantisation.ok_or(NO_QUANTISATION)?;
                            let mut coefficients = [0; 64];
                            reader.block((index, dc, ac), conditioning, &mut coefficients)?;
                            decoded.plane.put(x, y, &block::samples(&coefficients, &quantisation));
                            continue;
                        }
                        let coefficients = decoded.block(x, y);
                        match (scan.band.start, scan.high) {
                            (0, 0) => coefficients[0] = reader.first_dc(index, dc, conditioning, scan.low)?,
                            (0, _) => coefficients[0] |= i16::from(reader.bit()?) << scan.low,
                            (_, 0) => reader.first_pass(ac, scan, conditioning, coefficients)?,
                            (_, _) => reader.refinement(ac, scan, coefficients)?,
                        }
                    }
                }
            }
        }
        Ok(())
    }
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
}
