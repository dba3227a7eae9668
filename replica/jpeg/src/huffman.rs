//! Huffman tables, and a reader of the bits of coded data. Knows nothing of blocks.
//!
//! Source: ITU-T T.81 annex C (tables) and section F.2.2 (decoding).

/// The number of zero bytes that are appended to the data. One block takes fewer bytes: 64 symbols of 16 bits, each
/// with at most 15 more bits. So a block is read without a check for the end of the data at each symbol.
const PADDING: usize = 64 * 4 + 8;

/// The number of bytes that are unstuffed at once. If a scan ends early at damaged data, no more bytes than these were
/// unstuffed in vain.
const CHUNK: usize = 1 << 15;

/// The error for coded data that ends too early.
pub(super) const SHORT: &str = "coded data is missing, so the file was cut short or is damaged";
/// The error for coded data that is invalid.
pub(super) const DAMAGED: &str = "the coded data is damaged";

/// The Huffman tables that scans use at present, by class (0 for DC, 1 for AC) and destination. `None` for a table that
/// the file has not defined.
pub(super) struct HuffmanTables([[Option<HuffmanTable>; 4]; 2]);

impl HuffmanTables {
    /// The tables of T.81 annex K.3. libjpeg uses them for files without tables, such as the frames of motion JPEG.
    pub(super) fn standard() -> Self {
        let mut tables = Self(Default::default());
        tables.define(&super::standard::HUFFMAN).expect("the tables of the standard are well formed");
        tables
    }

    /// Reads the tables of one DHT segment (T.81 B.2.4.2).
    ///
    /// # Errors
    /// If the segment is malformed. The error is a part of the message for the client.
    pub(super) fn define(&mut self, mut segment: &[u8]) -> Result<(), &'static str> {
        const MALFORMED: &str = "a Huffman table is malformed";
        while let [destination, rest @ ..] = segment {
            let (lengths, rest) = rest.split_first_chunk::<16>().ok_or(MALFORMED)?;
            let count: usize = lengths.iter().map(|&codes| usize::from(codes)).sum();
            let (symbols, rest) = rest.split_at_checked(count).ok_or(MALFORMED)?;
            let (class, index) = (usize::from(destination >> 4), usize::from(destination & 15));
            let slot = self.0.get_mut(class).and_then(|tables| tables.get_mut(index)).ok_or(MALFORMED)?;
            // A symbol of a DC table is the number of bits of a difference, which is at most 15.
            if class == 0 && symbols.iter().any(|&size| size > 15) {
                return Err(MALFORMED);
            }
            *slot = Some(HuffmanTable::new(lengths, symbols).ok_or(MALFORMED)?);
            segment = rest;
        }
        Ok(())
    }

    /// The table for DC coefficients with the destination `index`.
    pub(super) fn dc(&self, index: u8) -> Result<&HuffmanTable, &'static str> {
        self.get(0, index)
    }

    /// The table for AC coefficients with the destination `index`.
    pub(super) fn ac(&self, index: u8) -> Result<&HuffmanTable, &'static str> {
        self.get(1, index)
    }

    fn get(&self, class: usize, index: u8) -> Result<&HuffmanTable, &'static str> {
        let table = self.0[class].get(usize::from(index)).and_then(Option::as_ref);
        table.ok_or("a scan names a Huffman table that the file lacks")
    }
}

/// A Huffman table. Codes of up to [`HuffmanTable::DIRECT`] bits are looked up directly, longer ones by their length.
pub(super) struct HuffmanTable {
    /// Indexed by the next [`HuffmanTable::DIRECT`] bits. The upper byte of an entry is the length of the code, and the
    /// lower byte is its symbol. An entry is 0 if the code is longer.
    direct: Box<[u16; 1 << HuffmanTable::DIRECT]>,
    /// Indexed by the length of a code. If the next 16 bits are less than an entry, the code has that length or is
    /// shorter.
    beyond: [u32; 17],
    /// Indexed by the length of a code. An entry is the index of the code's symbol minus the code.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl HuffmanTable {
    /// The number of bits of the longest code that is looked up directly.
    const DIRECT: u32 = 9;

    /// The table with `lengths[i]` codes of `i + 1` bits (T.81 C.2). `None` if the codes do not fit their lengths.
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
                // The code does not fit its length, because there are too many codes.
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

    /// The length and the symbol of the code at the top of `bits`.
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

/// Reads the bits of one restart interval. Data is unstuffed when the zero after each byte 0xFF has been removed.
#[derive(Default)]
pub(super) struct BitReader<'file> {
    /// The unstuffed data.
    bytes: Vec<u8>,
    /// The data of the file that is not unstuffed yet.
    rest: &'file [u8],
    /// The number of bits in `bytes` before the last [`PADDING`] bytes, which are zeros if `rest` is empty.
    length: usize,
    /// The index of the next bit in `bytes`.
    at: usize,
}

impl<'file> BitReader<'file> {
    /// Starts to read another interval.
    pub(super) fn load(&mut self, coded: &'file [u8]) {
        self.bytes.clear();
        self.rest = coded;
        self.at = 0;
        self.fill();
    }

    /// Drops the bytes that have been read, and unstuffs the next ones.
    fn fill(&mut self) {
        self.bytes.drain(..self.at / 8);
        self.at %= 8;
        while self.bytes.len() < CHUNK && !self.rest.is_empty() {
            if self.rest[0] != 0xFF {
                let next = &self.rest[..self.rest.len().min(CHUNK)];
                let plain = memchr::memchr(0xFF, next).unwrap_or(next.len());
                self.bytes.extend_from_slice(&next[..plain]);
                self.rest = &self.rest[plain..];
                continue;
            }
            // A data byte 0xFF is followed by one stuffed zero. Further bytes 0xFF before the zero, and bytes 0xFF at
            // the end, are fill.
            let zero = self.rest.iter().position(|&byte| byte != 0xFF);
            self.bytes.extend(zero.map(|_| 0xFF));
            self.rest = zero.map_or(&[], |zero| &self.rest[zero + 1..]);
        }
        if self.rest.is_empty() {
            self.bytes.resize(self.bytes.len() + PADDING, 0);
        }
        self.length = 8 * (self.bytes.len() - PADDING);
    }

    /// At least the next 57 bits, in the upper bits of the result. After the end of the data, they are zeros.
    #[inline(always)]
    fn peek(&self) -> Result<u64, &'static str> {
        let bytes = self.bytes.get(self.at >> 3..).and_then(<[u8]>::first_chunk::<8>).ok_or(SHORT)?;
        Ok(u64::from_be_bytes(*bytes) << (self.at & 7))
    }

    /// Reads a symbol. Returns the symbol and at least 41 of the bits after its code, in the upper bits of the result.
    #[inline(always)]
    pub(super) fn symbol(&mut self, table: &HuffmanTable) -> Result<(u8, u64), &'static str> {
        let bits = self.peek()?;
        let (length, symbol) = table.find(bits)?;
        self.at += length as usize;
        Ok((symbol, bits << length))
    }

    /// Reads one bit.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> Result<bool, &'static str> {
        let byte = self.bytes.get(self.at >> 3).ok_or(SHORT)?;
        let bit = byte << (self.at & 7) & 0x80 != 0;
        self.at += 1;
        Ok(bit)
    }

    /// Skips `bits` bits.
    #[inline(always)]
    pub(super) fn skip(&mut self, bits: u32) {
        self.at += bits as usize;
    }

    /// Checks that no bit after the end of the data was read, and unstuffs more data if needed. Must be called after
    /// each block, because the data has room for only one block after its end.
    ///
    /// # Errors
    /// If a bit after the end of the data was read.
    #[inline(always)]
    pub(super) fn check(&mut self) -> Result<(), &'static str> {
        if self.at > self.length { self.refill() } else { Ok(()) }
    }

    #[cold]
    fn refill(&mut self) -> Result<(), &'static str> {
        if self.rest.is_empty() {
            return Err(SHORT);
        }
        self.fill();
        Ok(())
    }
}

/// The number that the upper `size` bits of `following` encode. It is negative if the first bit is zero (T.81 F.2.2.1,
/// EXTEND).
#[inline(always)]
pub(super) fn extend(following: u64, size: u32) -> i32 {
    // For a size of 0, one shift by 64 would overflow. Two shifts do not.
    let value = (following >> 1 >> (63 - size)) as i32;
    let negative = following >> 63 == 0;
    if negative { value - (1 << size) + 1 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_zeros_and_fill_bytes_are_not_data() {
        let mut bits = BitReader::default();
        bits.load(b"\x01\xff\0\x02\xff\xff\0\xff\0\xff\xff");
        assert_eq!(bits.bytes[..bits.length / 8], *b"\x01\xff\x02\xff\xff");
    }

    #[test]
    fn data_of_any_length_is_read_to_its_last_bit_and_no_further() {
        for length in [0, 1, PADDING, CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + PADDING, 3 * CHUNK + 7] {
            // Every third byte has a stuffed zero, so that some stuffed zeros are at the border of two chunks.
            let bytes: Vec<u8> = (0..length).map(|at| if at % 3 == 0 { 0xFF } else { at as u8 | 1 }).collect();
            let stuffed = |&byte: &u8| [byte, 0].into_iter().take(if byte == 0xFF { 2 } else { 1 });
            let coded: Vec<u8> = bytes.iter().flat_map(stuffed).collect();
            let mut bits = BitReader::default();
            bits.load(&coded);
            assert!(bits.bytes.len() <= 2 * CHUNK + PADDING);
            for (at, &byte) in bytes.iter().enumerate() {
                assert_eq!(bits.peek().map(|bits| (bits >> 56) as u8), Ok(byte), "byte {at} of {length}");
                bits.skip(8);
                assert_eq!(bits.check(), Ok(()), "byte {at} of {length}");
            }
            bits.skip(1);
            assert_eq!(bits.check(), Err(SHORT), "after {length} bytes");
        }
    }

    #[test]
    fn codes_of_every_length_are_found() {
        // The table has one code of each length: 0, 10, 110 and so on. Their symbols are 1 to 16.
        let symbols: Vec<u8> = (1..=16).collect();
        let table = HuffmanTable::new(&[1; 16], &symbols).expect("a prefix code");
        for length in 1..=16_u32 {
            let code = (0xffff_u64 << (17 - length) & 0xffff) << 48;
            assert_eq!(table.find(code), Ok((length, length as u8)));
        }
        assert!(table.find(u64::MAX).is_err(), "no code is all ones");
        let mut lengths = [0; 16];
        lengths[0] = 3;
        assert!(HuffmanTable::new(&lengths, &[1, 2, 3]).is_none(), "one bit has no room for three codes");
    }

    #[test]
    fn malformed_tables_are_refused() {
        let table = |destination: u8, symbol: u8| [&[destination, 1][..], &[0; 15], &[symbol]].concat();
        let mut tables = HuffmanTables::standard();
        assert_eq!(tables.define(&table(0x13, 0xf0)), Ok(()));
        for malformed in [table(0x00, 16), table(0x20, 1), table(0x04, 1), table(0, 1)[..17].to_vec(), vec![0; 9]] {
            assert!(tables.define(&malformed).is_err(), "{malformed:?}");
        }
    }

    #[test]
    fn a_number_is_negative_if_its_first_bit_is_zero() {
        for (bits, size, number) in
            [(0b0, 0, 0), (0b0, 1, -1), (0b1, 1, 1), (0b00, 2, -3), (0b01, 2, -2), (0b111, 3, 7)]
        {
            assert_eq!(extend(u64::wrapping_shl(bits, 64 - size), size), number, "{bits:b} of {size} bits");
        }
    }

    #[test]
    fn reading_after_the_end_of_the_data_is_an_error() {
        let table = HuffmanTable::new(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[9]).expect("a prefix code");
        let mut bits = BitReader::default();
        bits.load(&[0]);
        for _ in 0..8 {
            assert_eq!(bits.symbol(&table).map(|(symbol, _)| symbol), Ok(9));
            assert_eq!(bits.check(), Ok(()));
        }
        assert_eq!(bits.symbol(&table).map(|(symbol, _)| symbol), Ok(9));
        assert_eq!(bits.check(), Err(SHORT));
    }
}
