//! Huffman tables, and the bits that they are read from. Knows nothing of blocks.
//!
//! Source: ITU-T T.81 annexes C and F.2.2.

/// Bytes that one block may take, so that it can be read without looking for the end: 64 symbols of 16 bits, each with
/// at most 15 more. Zeros stand there after the data.
const PADDING: usize = 64 * 4 + 8;

/// Bytes that are made ready at a time, so that data which makes no sense costs no more than this.
const READY: usize = 1 << 15;

/// What is wrong where data ends too soon.
pub(super) const SHORT: &str = "coded data is missing: it was cut short or is damaged";
/// What is wrong where data makes no sense.
pub(super) const DAMAGED: &str = "the coded data is damaged";

/// Tables in force, by class (0 DC, 1 AC) and destination.
pub(super) struct Tables([[Option<Table>; 4]; 2]);

impl Tables {
    /// The tables of annex K, which libjpeg assumes where a file has none, as motion JPEG does.
    pub(super) fn standard() -> Self {
        let mut tables = Self(Default::default());
        tables.define(&super::standard::HUFFMAN).expect("the standard's tables are well formed");
        tables
    }

    /// Reads one segment.
    ///
    /// # Errors
    /// When it is malformed, in words for people.
    pub(super) fn define(&mut self, mut segment: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "a Huffman table is malformed";
        while let [destination, rest @ ..] = segment {
            let (lengths, rest) = rest.split_first_chunk::<16>().ok_or(MALFORMED)?;
            let count: usize = lengths.iter().map(|&codes| usize::from(codes)).sum();
            let (symbols, rest) = rest.split_at_checked(count).ok_or(MALFORMED)?;
            let (class, index) = (usize::from(destination >> 4), usize::from(destination & 15));
            let slot = self.0.get_mut(class).and_then(|tables| tables.get_mut(index)).ok_or(MALFORMED)?;
            // A difference of DC coefficients has at most 15 bits.
            if class == 0 && symbols.iter().any(|&size| size > 15) {
                return Err(MALFORMED);
            }
            *slot = Some(Table::new(lengths, symbols).ok_or(MALFORMED)?);
            segment = rest;
        }
        Ok(())
    }

    pub(super) fn dc(&self, index: u8) -> Result<&Table, &'static str> {
        self.get(0, index)
    }

    pub(super) fn ac(&self, index: u8) -> Result<&Table, &'static str> {
        self.get(1, index)
    }

    fn get(&self, class: usize, index: u8) -> Result<&Table, &'static str> {
        let table = self.0[class].get(usize::from(index)).and_then(Option::as_ref);
        table.ok_or("a scan names a Huffman table that the file lacks")
    }
}

/// Codes of up to [`Table::DIRECT`] bits are looked up directly, longer ones by length.
pub(super) struct Table {
    /// By the next bits: length of the code above its symbol; 0 where the code is longer.
    direct: Box<[u16; 1 << Table::DIRECT]>,
    /// By length: the first code that is longer, aligned to 16 bits.
    beyond: [u32; 17],
    /// By length: what to add to a code to find its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Table {
    const DIRECT: u32 = 9;

    pub(super) fn new(lengths: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        if symbols.len() > 256 {
            return None;
        }
        let mut table = Self {
            direct: Box::new([0; 1 << Self::DIRECT]),
            beyond: [0; 17],
            offset: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut next) = (0_u32, 0_usize);
        for (length, &count) in (1_u32..).zip(lengths) {
            table.offset[length as usize] = next as i32 - code as i32;
            for &symbol in &symbols[next..next + usize::from(count)] {
                // More codes than the length has room for.
                if code >> length != 0 {
                    return None;
                }
                if length <= Self::DIRECT {
                    let room = Self::DIRECT - length;
                    let first = (code << room) as usize;
                    table.direct[first..first + (1 << room)].fill((length as u16) << 8 | u16::from(symbol));
                }
                code += 1;
            }
            next += usize::from(count);
            table.beyond[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Length and symbol of the code that begins the 64 `bits`.
    #[inline(always)]
    fn find(&self, bits: u64) -> Result<(u32, u8), &'static str> {
        let entry = self.direct[(bits >> (64 - Self::DIRECT)) as usize];
        if entry != 0 { Ok((u32::from(entry >> 8), entry as u8)) } else { self.find_long((bits >> 48) as u32) }
    }

    #[cold]
    fn find_long(&self, bits: u32) -> Result<(u32, u8), &'static str> {
        let length = (Self::DIRECT + 1..=16).find(|&length| bits < self.beyond[length as usize]).ok_or(DAMAGED)?;
        let index = (bits >> (16 - length)) as i32 + self.offset[length as usize];
        let symbol = usize::try_from(index).ok().and_then(|index| self.symbols.get(index)).ok_or(DAMAGED)?;
        Ok((length, *symbol))
    }
}

/// The bits of one restart interval.
#[derive(Default)]
pub(super) struct Bits<'file> {
    /// Without stuffed zeros; begins less than [`READY`] bytes before the next bit.
    bytes: Vec<u8>,
    /// What is not among them yet, as the file has it.
    rest: &'file [u8],
    /// How many bits there are before the last [`PADDING`] bytes, which are zeros once nothing is left.
    length: usize,
    /// The next bit.
    at: usize,
}

impl<'file> Bits<'file> {
    /// Replaces what is left of the last interval.
    pub(super) fn load(&mut self, coded: &'file [u8]) {
        self.bytes.clear();
        self.rest = coded;
        self.at = 0;
        self.fill();
    }

    /// Drops what was read and makes the next bytes ready.
    fn fill(&mut self) {
        self.bytes.drain(..self.at / 8);
        self.at %= 8;
        while self.bytes.len() < READY && !self.rest.is_empty() {
            if self.rest[0] != 0xFF {
                let next = &self.rest[..self.rest.len().min(READY)];
                let plain = memchr::memchr(0xFF, next).unwrap_or(next.len());
                self.bytes.extend_from_slice(&next[..plain]);
                self.rest = &self.rest[plain..];
                continue;
            }
            // One zero is stuffed; bytes of 0xFF before it are fill, and so are those at the end.
            let zero = self.rest.iter().position(|&byte| byte != 0xFF);
            self.bytes.extend(zero.map(|_| 0xFF));
            self.rest = zero.map_or(&[], |zero| &self.rest[zero + 1..]);
        }
        if self.rest.is_empty() {
            self.bytes.resize(self.bytes.len() + PADDING, 0);
        }
        self.length = 8 * (self.bytes.len() - PADDING);
    }

    /// The next 57 bits at least, from the top; zeros past the end.
    #[inline(always)]
    fn peek(&self) -> Result<u64, &'static str> {
        let bytes = self.bytes.get(self.at >> 3..).and_then(<[u8]>::first_chunk::<8>).ok_or(SHORT)?;
        Ok(u64::from_be_bytes(*bytes) << (self.at & 7))
    }

    /// A symbol, and the bits that follow it, from the top: 41 at least.
    #[inline(always)]
    pub(super) fn symbol(&mut self, table: &Table) -> Result<(u8, u64), &'static str> {
        let bits = self.peek()?;
        let (length, symbol) = table.find(bits)?;
        self.at += length as usize;
        Ok((symbol, bits << length))
    }

    /// The next bit.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> Result<bool, &'static str> {
        let byte = self.bytes.get(self.at >> 3).ok_or(SHORT)?;
        let bit = byte << (self.at & 7) & 0x80 != 0;
        self.at += 1;
        Ok(bit)
    }

    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        self.at += bits as usize;
    }

    /// Whether all that was read was there. To be asked after each block.
    #[inline(always)]
    pub(super) fn check(&mut self) -> Result<(), &'static str> {
        if self.at > self.length { self.more() } else { Ok(()) }
    }

    #[cold]
    fn more(&mut self) -> Result<(), &'static str> {
        if self.rest.is_empty() {
            return Err(SHORT);
        }
        self.fill();
        Ok(())
    }

    /// Bytes that nothing was read of.
    pub(super) fn left_over(&self) -> usize {
        let padding = if self.rest.is_empty() { PADDING } else { 0 };
        self.rest.len() + self.bytes.len().saturating_sub(padding + self.at.div_ceil(8))
    }
}

/// The number that `size` bits from the top of `following` stand for: half of them negative (T.81 F.2.2.1, EXTEND).
#[inline(always)]
pub(super) fn signed(following: u64, size: u32) -> i32 {
    // Two shifts, for none at all when the size is 0.
    let value = (following >> 1 >> (63 - size)) as i32;
    let negative = following >> 63 == 0;
    if negative { value - (1 << size) + 1 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_zeros_and_fill_are_not_data() {
        let mut bits = Bits::default();
        bits.load(b"\x01\xff\0\x02\xff\xff\0\xff\0\xff\xff");
        assert_eq!(bits.bytes[..bits.length / 8], *b"\x01\xff\x02\xff\xff");
    }

    #[test]
    fn any_length_is_read_to_its_last_bit_and_no_further() {
        for length in [0, 1, PADDING, READY - 1, READY, READY + 1, READY + PADDING, 3 * READY + 7] {
            // Every third byte has a zero stuffed after it, so that some of those are first of what is made ready.
            let bytes: Vec<u8> = (0..length).map(|at| if at % 3 == 0 { 0xFF } else { at as u8 | 1 }).collect();
            let stuffed = |&byte: &u8| [byte, 0].into_iter().take(if byte == 0xFF { 2 } else { 1 });
            let coded: Vec<u8> = bytes.iter().flat_map(stuffed).collect();
            let mut bits = Bits::default();
            bits.load(&coded);
            assert!(bits.bytes.len() <= 2 * READY + PADDING);
            for (at, &byte) in bytes.iter().enumerate() {
                assert_eq!(bits.peek().map(|bits| (bits >> 56) as u8), Ok(byte), "byte {at} of {length}");
                bits.skip(8);
                assert_eq!(bits.check(), Ok(()), "byte {at} of {length}");
            }
            assert_eq!(bits.left_over(), 0);
            bits.skip(1);
            assert_eq!(bits.check(), Err(SHORT), "after {length} bytes");
            bits.load(&coded);
            assert!(bits.left_over() >= length, "nothing was read of {length} bytes");
        }
    }

    #[test]
    fn codes_of_every_length_are_found() {
        // One code of each length: 0, 10, 110, ... and symbols 1 to 16.
        let symbols: Vec<u8> = (1..=16).collect();
        let table = Table::new(&[1; 16], &symbols).expect("a prefix code");
        for length in 1..=16_u32 {
            let code = (0xffff_u64 << (17 - length) & 0xffff) << 48;
            assert_eq!(table.find(code), Ok((length, length as u8)));
        }
        assert!(table.find(u64::MAX).is_err(), "no code is all ones");
        let mut lengths = [0; 16];
        lengths[0] = 3;
        assert!(Table::new(&lengths, &[1, 2, 3]).is_none(), "one bit has no room for three codes");
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let table = |destination: u8, symbol: u8| [&[destination, 1][..], &[0; 15], &[symbol]].concat();
        let mut tables = Tables::standard();
        assert_eq!(tables.define(&table(0x13, 0xf0)), Ok(()));
        for malformed in [table(0x00, 16), table(0x20, 1), table(0x04, 1), table(0, 1)[..17].to_vec(), vec![0; 9]] {
            assert!(tables.define(&malformed).is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn numbers_are_read_with_their_sign() {
        for (bits, size, number) in
            [(0b0, 0, 0), (0b0, 1, -1), (0b1, 1, 1), (0b00, 2, -3), (0b01, 2, -2), (0b111, 3, 7)]
        {
            assert_eq!(signed(u64::wrapping_shl(bits, 64 - size), size), number, "{bits:b} of {size} bits");
        }
    }

    #[test]
    fn reading_past_the_end_is_noticed() {
        let table = Table::new(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[9]).expect("a prefix code");
        let mut bits = Bits::default();
        bits.load(&[0]);
        for _ in 0..8 {
            assert_eq!(bits.symbol(&table).map(|(symbol, _)| symbol), Ok(9));
            assert_eq!(bits.check(), Ok(()));
        }
        assert_eq!(bits.symbol(&table).map(|(symbol, _)| symbol), Ok(9));
        assert_eq!(bits.check(), Err(SHORT));
    }
}
