//! Reads the Huffman-coded coefficients of one block. Knows nothing of the order of blocks.
//!
//! Source: ITU-T T.81 sections F.2.2 (sequential) and G.1.2 (progressive).

use crate::block::{self, Block, natural_index};
use crate::huffman::{BitReader, DAMAGED, HuffmanTable, extend};
use crate::scan_header::Scan;

impl BitReader<'_> {
    /// Reads the difference of a DC coefficient from its predictor (T.81 F.2.2.1).
    #[inline(always)]
    pub(crate) fn difference(&mut self, table: &HuffmanTable) -> Result<i32, &'static str> {
        let (size, following) = self.symbol(table)?;
        // The mask drops no bit, because a DC table has no symbol above 15.
        let size = u32::from(size & 15);
        self.skip(size);
        Ok(extend(following, size))
    }

    /// Reads all coefficients of one block (T.81 F.2.2). Returns the zigzag index of the last AC coefficient that is
    /// not zero, or 0 if there is none.
    #[inline(always)]
    pub(crate) fn block(
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
    #[inline(always)]
    pub(crate) fn first_pass(
        &mut self,
        table: &HuffmanTable,
        scan: &Scan,
        coefficients: &mut Block,
    ) -> Result<u32, &'static str> {
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
        Ok(0)
    }

    /// Reads one more bit of each coefficient in a band of one block. Coefficients that were zero so far may become one
    /// or minus one in that bit. `ended` is the number of blocks, from this block on, whose bands have ended before the
    /// call. Returns that number after the call.
    #[inline(always)]
    pub(crate) fn refinement(
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
    #[inline(always)]
    fn refine(&mut self, coefficient: &mut i16, bit: i16) -> Result<(), &'static str> {
        // If the bit is set already, which no encoder sends, libjpeg does not change the coefficient.
        if self.bit()? && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
        }
        Ok(())
    }

    /// Reads the number of blocks, from this block on, whose bands end: 2^`exponent` plus the number in the next
    /// `exponent` bits (T.81 G.1.2.2).
    #[inline(always)]
    fn end_of_band(&mut self, exponent: u32, following: u64) -> u32 {
        self.skip(exponent);
        (1 << exponent) + (following >> 1 >> (63 - exponent)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan_header::ScanComponent;

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
