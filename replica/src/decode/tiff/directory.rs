//! The first image file directory (IFD) of a TIFF file, before the crate `tiff` reads it: bounds the lengths of its values,
//! and makes the indices of palette images readable.
//!
//! Source: TIFF 6.0, section 2 (image file directory) and section 8 (PhotometricInterpretation).

/// The number of the tag for the meaning of samples.
const PHOTOMETRIC_INTERPRETATION: u16 = 262;

/// The first number of tags that decoding does not read, such as those of profiles.
const FIRST_UNREAD: u16 = 400;

/// Most values of a tag. The crate allocates 32 bytes for each value that a directory announces, before it reads any.
const MAX_VALUES: u32 = 1 << 18;

/// The number of bytes of an entry.
const ENTRY: usize = 12;

/// A directory in a file.
pub(super) struct Directory<'file> {
    file: &'file [u8],
    big_endian: bool,
    /// The places of the entries.
    entries: Vec<usize>,
}

impl<'file> Directory<'file> {
    /// The first directory of a file; `None` if the file ends before it.
    pub(super) fn of(file: &'file [u8]) -> Option<Self> {
        let mut directory = Self { file, big_endian: file.starts_with(b"MM"), entries: Vec::new() };
        let start = directory.long(4)? as usize;
        let count = usize::from(directory.short(start)?);
        directory.entries = (0..count).map(|index| start + 2 + ENTRY * index).collect();
        file.get(..start + 2 + ENTRY * count)?;
        Some(directory)
    }

    /// Whether all values that decoding reads are few enough.
    pub(super) fn is_bounded(&self) -> bool {
        let is_bounded = |&entry: &usize| {
            let unread = self.short(entry).is_some_and(|tag| tag >= FIRST_UNREAD);
            unread || self.long(entry + 4).is_some_and(|count| count <= MAX_VALUES)
        };
        self.entries.iter().all(is_bounded)
    }

    /// A copy of the file whose samples count as grey; `None` if they are no indices of a palette. The crate decodes no
    /// palettes.
    pub(super) fn as_grey(&self) -> Option<Vec<u8>> {
        let entry = self.entries.iter().find(|entry| self.short(**entry) == Some(PHOTOMETRIC_INTERPRETATION))?;
        // The value is at the ninth byte of the entry. 3 is a palette, and 1 is grey.
        let value = entry + 8;
        if self.short(value) != Some(3) {
            return None;
        }
        let mut copy = self.file.to_vec();
        let grey = if self.big_endian { 1_u16.to_be_bytes() } else { 1_u16.to_le_bytes() };
        copy[value..value + 2].copy_from_slice(&grey);
        Some(copy)
    }

    /// The number of 16 bits at the place `at`.
    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.file.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The number of 32 bits at the place `at`.
    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.file.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with one entry: a tag of 16 bits.
    fn file(big: bool, tag: u16, count: u32, value: u16) -> Vec<u8> {
        let short = |number: u16| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let long = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let head = if big { b"MM" } else { b"II" };
        [&head[..], &short(42), &long(8), &short(1), &short(tag), &short(3), &long(count), &short(value), &[0; 2]]
            .concat()
    }

    #[test]
    fn only_the_meaning_of_indices_changes() {
        for big in [false, true] {
            let (palette, grey) = (file(big, 262, 1, 3), file(big, 262, 1, 1));
            assert_eq!(Directory::of(&palette).and_then(|directory| directory.as_grey()), Some(grey.clone()));
            assert_eq!(Directory::of(&grey).and_then(|directory| directory.as_grey()), None);
            for length in 0..palette.len() {
                assert!(Directory::of(&palette[..length]).is_none(), "{length} bytes");
            }
        }
    }

    #[test]
    fn values_that_decoding_reads_are_few() {
        for (tag, count, expected) in
            [(273, MAX_VALUES, true), (273, MAX_VALUES + 1, false), (259, u32::MAX, false), (34_675, u32::MAX, true)]
        {
            let file = file(false, tag, count, 0);
            let directory = Directory::of(&file).expect("a directory");
            assert_eq!(directory.is_bounded(), expected, "{count} values of {tag}");
        }
    }
}
