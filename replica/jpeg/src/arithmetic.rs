//! Reads arithmetic-coded coefficients of blocks. Knows nothing of the order of blocks.
//!
//! Source: ITU-T T.81 annex D (the decoder of decisions), and sections F.2.4 and G.1.3 (the statistics of
//! coefficients). Where files deviate from it, the source is libjpeg's `jdarith.c`.

use crate::block::{Block, natural_index};
use crate::huffman::{DAMAGED, SHORT};
use crate::scan_header::Scan;

/// Most bytes after the end of an interval that are read as zeros. Encoders drop zeros at the end of the data. Their
/// number is small, because a decision that is certain takes a fraction of a bit.
const DROPPED_ZEROS: usize = 64;

/// The state of a decision whose outcomes stay equally probable.
const EQUAL: u8 = 113;

/// The states of the probability estimation (T.81 table D.3): the probability of the less probable outcome (Qe), the
/// next state after the less probable and after the more probable outcome, and 1 if the former exchanges the outcomes.
/// The last state is [`EQUAL`].
#[rustfmt::skip]
const STATES: [(u32, u8, u8, u8); 114] = [
    (0x5a1d, 1, 1, 1), (0x2586, 14, 2, 0), (0x1114, 16, 3, 0), (0x080b, 18, 4, 0), (0x03d8, 20, 5, 0),
    (0x01da, 23, 6, 0), (0x00e5, 25, 7, 0), (0x006f, 28, 8, 0), (0x0036, 30, 9, 0), (0x001a, 33, 10, 0),
    (0x000d, 35, 11, 0), (0x0006, 9, 12, 0), (0x0003, 10, 13, 0), (0x0001, 12, 13, 0), (0x5a7f, 15, 15, 1),
    (0x3f25, 36, 16, 0), (0x2cf2, 38, 17, 0), (0x207c, 39, 18, 0), (0x17b9, 40, 19, 0), (0x1182, 42, 20, 0),
    (0x0cef, 43, 21, 0), (0x09a1, 45, 22, 0), (0x072f, 46, 23, 0), (0x055c, 48, 24, 0), (0x0406, 49, 25, 0),
    (0x0303, 51, 26, 0), (0x0240, 52, 27, 0), (0x01b1, 54, 28, 0), (0x0144, 56, 29, 0), (0x00f5, 57, 30, 0),
    (0x00b7, 59, 31, 0), (0x008a, 60, 32, 0), (0x0068, 62, 33, 0), (0x004e, 63, 34, 0), (0x003b, 32, 35, 0),
    (0x002c, 33, 9, 0), (0x5ae1, 37, 37, 1), (0x484c, 64, 38, 0), (0x3a0d, 65, 39, 0), (0x2ef1, 67, 40, 0),
    (0x261f, 68, 41, 0), (0x1f33, 69, 42, 0), (0x19a8, 70, 43, 0), (0x1518, 72, 44, 0), (0x1177, 73, 45, 0),
    (0x0e74, 74, 46, 0), (0x0bfb, 75, 47, 0), (0x09f8, 77, 48, 0), (0x0861, 78, 49, 0), (0x0706, 79, 50, 0),
    (0x05cd, 48, 51, 0), (0x04de, 50, 52, 0), (0x040f, 50, 53, 0), (0x0363, 51, 54, 0), (0x02d4, 52, 55, 0),
    (0x025c, 53, 56, 0), (0x01f8, 54, 57, 0), (0x01a4, 55, 58, 0), (0x0160, 56, 59, 0), (0x0125, 57, 60, 0),
    (0x00f6, 58, 61, 0), (0x00cb, 59, 62, 0), (0x00ab, 61, 63, 0), (0x008f, 61, 32, 0), (0x5b12, 65, 65, 1),
    (0x4d04, 80, 66, 0), (0x412c, 81, 67, 0), (0x37d8, 82, 68, 0), (0x2fe8, 83, 69, 0), (0x293c, 84, 70, 0),
    (0x2379, 86, 71, 0), (0x1edf, 87, 72, 0), (0x1aa9, 87, 73, 0), (0x174e, 72, 74, 0), (0x1424, 72, 75, 0),
    (0x119c, 74, 76, 0), (0x0f6b, 74, 77, 0), (0x0d51, 75, 78, 0), (0x0bb6, 77, 79, 0), (0x0a40, 77, 48, 0),
    (0x5832, 80, 81, 1), (0x4d1c, 88, 82, 0), (0x438e, 89, 83, 0), (0x3bdd, 90, 84, 0), (0x34ee, 91, 85, 0),
    (0x2eae, 92, 86, 0), (0x299a, 93, 87, 0), (0x2516, 86, 71, 0), (0x5570, 88, 89, 1), (0x4ca9, 95, 90, 0),
    (0x44d9, 96, 91, 0), (0x3e22, 97, 92, 0), (0x3824, 99, 93, 0), (0x32b4, 99, 94, 0), (0x2e17, 93, 86, 0),
    (0x56a8, 95, 96, 1), (0x4f46, 101, 97, 0), (0x47e5, 102, 98, 0), (0x41cf, 103, 99, 0), (0x3c3d, 104, 100, 0),
    (0x375e, 99, 93, 0), (0x5231, 105, 102, 0), (0x4c0f, 106, 103, 0), (0x4639, 107, 104, 0), (0x415e, 103, 99, 0),
    (0x5627, 105, 106, 1), (0x50e7, 108, 107, 0), (0x4b85, 109, 103, 0), (0x5597, 110, 109, 0), (0x504f, 111, 107, 0),
    (0x5a10, 110, 111, 1), (0x5522, 112, 109, 0), (0x59eb, 112, 111, 1), (0x5a1d, 113, 113, 0),
];

/// The conditioning of the statistics (T.81 B.2.4.3), by destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conditioning {
    /// The bounds of small differences of DC coefficients (T.81 L and U).
    dc: [(u8, u8); 16],
    /// The last coefficient in zigzag order that counts as low (T.81 Kx).
    ac: [u8; 16],
}

impl Default for Conditioning {
    fn default() -> Self {
        Self { dc: [(0, 1); 16], ac: [5; 16] }
    }
}

impl Conditioning {
    /// Reads a DAC segment.
    ///
    /// # Errors
    /// If the segment is malformed. The error is a part of the message for the client.
    pub(crate) fn define(&mut self, segment: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "the conditioning of its arithmetic coding is malformed";
        let (pairs, rest) = segment.as_chunks::<2>();
        for &[destination, value] in pairs {
            match destination {
                0..16 if value & 15 <= value >> 4 => self.dc[usize::from(destination)] = (value & 15, value >> 4),
                16..32 => self.ac[usize::from(destination - 16)] = value,
                _ => return Err(MALFORMED),
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(MALFORMED) }
    }
}

/// Reads the blocks of one restart interval.
pub(crate) struct ArithmeticReader<'file> {
    coded: std::slice::Iter<'file, u8>,
    /// The number of zeros that were read after the end of the data.
    dropped_zeros: usize,
    /// The code register (T.81 C). Its lower [`Self::shift`] bits are not compared yet.
    code: u64,
    /// The size of the interval (T.81 A).
    interval: u32,
    /// The number of bits in `code` beyond those of `interval` (libjpeg's `ct`).
    shift: i32,
    statistics: Statistics,
}

/// The states of all decisions of a scan. A state has its index in [`STATES`] in the lower seven bits, and the more
/// probable outcome in the upper bit.
struct Statistics {
    dc: [[u8; 64]; 16],
    ac: [[u8; 256]; 16],
    equal: u8,
    /// The last DC coefficient of each component.
    predictors: [i32; 4],
    /// The class of the last difference of each component's DC coefficients (T.81 table F.4).
    contexts: [u8; 4],
}

impl<'file> ArithmeticReader<'file> {
    /// Starts to read an interval.
    pub(crate) fn load(coded: &'file [u8]) -> Self {
        let statistics =
            Statistics { dc: [[0; 64]; 16], ac: [[0; 256]; 16], equal: EQUAL, predictors: [0; 4], contexts: [0; 4] };
        Self { coded: coded.iter(), dropped_zeros: 0, code: 0, interval: 0, shift: -16, statistics }
    }

    /// Reads all coefficients of a sequential block of the component `index` (T.81 F.2.4).
    pub(crate) fn block(
        &mut self,
        (index, dc, ac): (usize, u8, u8),
        conditioning: &Conditioning,
        block: &mut Block,
    ) -> Result<(), &'static str> {
        block[0] = self.dc(index, dc, conditioning)? as i16;
        self.band(ac, 1..64, 0, conditioning, block)
    }

    /// Reads the first bits of a progressive DC coefficient.
    pub(crate) fn first_dc(
        &mut self,
        index: usize,
        dc: u8,
        conditioning: &Conditioning,
        low: u8,
    ) -> Result<i16, &'static str> {
        Ok((self.dc(index, dc, conditioning)? << low) as i16)
    }

    /// Reads one more bit of a progressive DC coefficient.
    pub(crate) fn bit(&mut self) -> Result<bool, &'static str> {
        let mut state = self.statistics.equal;
        self.decide(&mut state)
    }

    /// Reads a band of a progressive block for the first time.
    pub(crate) fn first_pass(
        &mut self,
        ac: u8,
        scan: &Scan,
        conditioning: &Conditioning,
        block: &mut Block,
    ) -> Result<(), &'static str> {
        self.band(ac, scan.band.clone(), scan.low, conditioning, block)
    }

    /// Reads one more bit of each coefficient in a band of a progressive block (T.81 G.1.3.3).
    pub(crate) fn refinement(&mut self, ac: u8, scan: &Scan, block: &mut Block) -> Result<(), &'static str> {
        let bit = 1 << scan.low;
        let is_set = |block: &Block, at: usize| Ok::<_, &'static str>(block[natural_index(at)?] != 0);
        let mut ended_before = 0;
        for at in 1..scan.band.end {
            if is_set(block, at)? {
                ended_before = at;
            }
        }
        let mut at = scan.band.start;
        while at < scan.band.end {
            if at > ended_before && self.ac(ac, 3 * (at - 1))? {
                break;
            }
            loop {
                if at >= scan.band.end {
                    return Err(DAMAGED);
                }
                let place = natural_index(at)?;
                let state = 3 * (at - 1);
                if block[place] != 0 {
                    if self.ac(ac, state + 2)? {
                        block[place] = block[place].wrapping_add(if block[place] < 0 { -bit } else { bit });
                    }
                    break;
                }
                if self.ac(ac, state + 1)? {
                    block[place] = if self.bit()? { -bit } else { bit };
                    break;
                }
                at += 1;
            }
            at += 1;
        }
        Ok(())
    }

    /// Reads a DC coefficient as the sum of its predictor and a difference (T.81 F.1.4.4.1).
    fn dc(&mut self, index: usize, table: u8, conditioning: &Conditioning) -> Result<i32, &'static str> {
        let table = usize::from(table);
        let context = self.statistics.contexts[index];
        if !self.dc_decision(table, context)? {
            self.statistics.contexts[index] = 0;
            return Ok(self.statistics.predictors[index]);
        }
        let negative = self.dc_decision(table, context + 1)?;
        let mut state = context + 2 + u8::from(negative);
        let mut category = i32::from(self.dc_decision(table, state)?);
        if category != 0 {
            state = 20;
            while self.dc_decision(table, state)? {
                category <<= 1;
                if category == 0x8000 {
                    return Err(DAMAGED);
                }
                state += 1;
            }
        }
        let (lower, upper) = conditioning.dc[table];
        let sign = 4 * u8::from(negative);
        self.statistics.contexts[index] = match category {
            _ if category < (1 << lower) >> 1 => 0,
            _ if category > (1 << upper) >> 1 => 12 + sign,
            _ => 4 + sign,
        };
        let mut magnitude = category;
        while category > 1 {
            category >>= 1;
            magnitude |= if self.dc_decision(table, state + 14)? { category } else { 0 };
        }
        let difference = if negative { -magnitude - 1 } else { magnitude + 1 };
        let predictor = &mut self.statistics.predictors[index];
        *predictor = (*predictor + difference) & 0xffff;
        Ok(*predictor)
    }

    /// Reads AC coefficients up to the end of the block (T.81 F.1.4.4.2), and shifts them by `low` bits.
    fn band(
        &mut self,
        table: u8,
        band: std::ops::Range<usize>,
        low: u8,
        conditioning: &Conditioning,
        block: &mut Block,
    ) -> Result<(), &'static str> {
        let mut at = band.start;
        while at < band.end {
            if self.ac(table, 3 * (at - 1))? {
                break;
            }
            while !self.ac(table, 3 * (at - 1) + 1)? {
                at += 1;
                if at >= band.end {
                    return Err(DAMAGED);
                }
            }
            let negative = self.bit()?;
            let mut state = 3 * (at - 1) + 2;
            let mut category = i32::from(self.ac(table, state)?);
            if category != 0 && self.ac(table, state)? {
                category = 2;
                state = if at <= usize::from(conditioning.ac[usize::from(table)]) { 189 } else { 217 };
                while self.ac(table, state)? {
                    category <<= 1;
                    if category == 0x8000 {
                        return Err(DAMAGED);
                    }
                    state += 1;
                }
            }
            let mut magnitude = category;
            while category > 1 {
                category >>= 1;
                magnitude |= if self.ac(table, state + 14)? { category } else { 0 };
            }
            let value = if negative { -magnitude - 1 } else { magnitude + 1 };
            block[natural_index(at)?] = (value << low) as i16;
            at += 1;
        }
        Ok(())
    }

    fn dc_decision(&mut self, table: usize, state: u8) -> Result<bool, &'static str> {
        let mut now = self.statistics.dc[table][usize::from(state)];
        let outcome = self.decide(&mut now);
        self.statistics.dc[table][usize::from(state)] = now;
        outcome
    }

    fn ac(&mut self, table: u8, state: usize) -> Result<bool, &'static str> {
        let mut now = self.statistics.ac[usize::from(table)][state];
        let outcome = self.decide(&mut now);
        self.statistics.ac[usize::from(table)][state] = now;
        outcome
    }

    /// Decodes one decision and adapts its state (T.81 D.2).
    fn decide(&mut self, state: &mut u8) -> Result<bool, &'static str> {
        while self.interval < 0x8000 {
            self.shift -= 1;
            if self.shift < 0 {
                self.code = self.code << 8 | u64::from(self.byte()?);
                self.shift += 8;
                if self.shift < 0 {
                    // The first two bytes fill the register.
                    self.shift += 1;
                    if self.shift == 0 {
                        self.interval = 0x8000;
                    }
                }
            }
            self.interval <<= 1;
        }
        let (probability, after_less, after_more, exchange) = STATES[usize::from(*state & 0x7f)];
        let likely = *state & 0x80;
        self.interval -= probability;
        let bound = u64::from(self.interval) << self.shift;
        let in_upper = self.code >= bound;
        // The larger part of the interval belongs to the more probable outcome, whichever part that is.
        let is_likely = in_upper == (self.interval < probability);
        if in_upper {
            self.code -= bound;
            self.interval = probability;
        } else if self.interval >= 0x8000 {
            // No adaptation without renormalisation.
            return Ok(likely != 0);
        }
        if is_likely {
            *state = likely | after_more;
            Ok(likely != 0)
        } else {
            *state = (likely ^ exchange << 7) | after_less;
            Ok(likely == 0)
        }
    }

    /// The next byte of the data, without stuffed zeros and fill bytes; zero after the end of the data.
    fn byte(&mut self) -> Result<u8, &'static str> {
        let Some(&byte) = self.coded.next() else {
            self.dropped_zeros += 1;
            return if self.dropped_zeros > DROPPED_ZEROS { Err(SHORT) } else { Ok(0) };
        };
        if byte == 0xFF && self.coded.find(|&&byte| byte != 0xFF).is_none() {
            return Ok(0);
        }
        Ok(byte)
    }
}
