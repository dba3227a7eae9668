//! The orientation of a picture in its EXIF metadata, and turned and mirrored pixels.
//!
//! Source: EXIF 2.3 (CIPA DC-008) section 4.6.4, tag 274. As in Pillow's `ImageOps.exif_transpose`, other values than 2
//! to 8 change nothing. Malformed metadata has no orientation: it is no reason to refuse the picture.

use super::Pixels;

/// The tag of the orientation in an image file directory (IFD).
const TAG: u16 = 0x0112;

/// The number of bytes of an entry in an image file directory.
const ENTRY: usize = 12;

/// The orientation of a picture: how the picture is obtained from the stored pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Whether rows and columns are exchanged, before anything is mirrored.
    transposed: bool,
    /// Whether the result is mirrored left to right.
    mirrored: bool,
    /// Whether the result is mirrored top to bottom.
    flipped: bool,
}

impl Orientation {
    /// The orientation with the EXIF value `value`. `None` if it changes nothing.
    pub(super) fn new(value: u16) -> Option<Self> {
        let (transposed, mirrored, flipped) = match value {
            2 => (false, true, false),
            3 => (false, true, true),
            4 => (false, false, true),
            5 => (true, false, false),
            6 => (true, true, false),
            7 => (true, true, true),
            8 => (true, false, true),
            _ => return None,
        };
        Some(Self { transposed, mirrored, flipped })
    }

    /// The orientation in EXIF metadata: a TIFF file, which `Exif\0\0` may precede. `None` if it changes nothing, or if
    /// the metadata has none or is malformed.
    pub(super) fn of_exif(exif: &[u8]) -> Option<Self> {
        let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
        let (big, rest) = match tiff {
            [b'I', b'I', 42, 0, rest @ ..] => (false, rest),
            [b'M', b'M', 0, 42, rest @ ..] => (true, rest),
            _ => return None,
        };
        let short = |bytes: &[u8]| {
            let bytes = *bytes.first_chunk::<2>()?;
            Some(if big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
        };
        let long = |bytes: &[u8]| {
            let bytes = *bytes.first_chunk::<4>()?;
            Some(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
        };
        let directory = tiff.get(long(rest)? as usize..)?;
        let entries = directory.get(2..)?.chunks_exact(ENTRY).take(short(directory)?.into());
        let entry = entries.into_iter().find(|entry| short(entry) == Some(TAG))?;
        // Some programs write a number of 32 bits (type 4) instead of 16 (type 3).
        let value = match short(&entry[2..])? {
            3 => short(&entry[8..])?,
            4 => u16::try_from(long(&entry[8..])?).ok()?,
            _ => return None,
        };
        Self::new(value)
    }

    /// The picture that belongs to the stored pixels.
    pub(super) fn apply(self, stored: &Pixels) -> Pixels {
        let (columns, rows) = (stored.width as usize, stored.height as usize);
        let (width, height) = if self.transposed { (rows, columns) } else { (columns, rows) };
        let source = stored.rgb.as_chunks::<3>().0;
        let mut rgb = Vec::with_capacity(stored.rgb.len());
        for y in 0..height {
            let y = if self.flipped { height - 1 - y } else { y };
            let pixel = |x: usize| if self.transposed { source[x * columns + y] } else { source[y * columns + x] };
            match self.mirrored {
                true => rgb.extend((0..width).rev().flat_map(pixel)),
                false => rgb.extend((0..width).flat_map(pixel)),
            }
        }
        Pixels { width: width as u32, height: height as u32, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF metadata with one entry before the orientation.
    fn exif(big: bool, kind: u16, value: u32) -> Vec<u8> {
        let short = |number: u16| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let long = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let value = if kind == 3 { [short(value as u16), [0; 2]].concat() } else { long(value).to_vec() };
        let entry = |tag: u16, kind: u16, value: &[u8]| [&short(tag)[..], &short(kind), &long(1), value].concat();
        let head = if big { b"MM" } else { b"II" };
        [&head[..], &short(42), &long(8), &short(2), &entry(0x010f, 2, b"abc\0"), &entry(TAG, kind, &value)].concat()
    }

    #[test]
    fn the_orientation_is_found_in_either_byte_order() {
        for (big, kind, prefix) in
            [(false, 3, &b""[..]), (true, 3, b"Exif\0\0"), (false, 4, b"Exif\0\0"), (true, 4, b"")]
        {
            for value in 0..=9 {
                let exif = [prefix, &exif(big, kind, value)].concat();
                assert_eq!(Orientation::of_exif(&exif), Orientation::new(value as u16), "{big} {kind} {value}");
            }
        }
    }

    #[test]
    fn malformed_metadata_has_no_orientation() {
        let whole = exif(false, 3, 6);
        for length in 0..whole.len() - 4 {
            assert_eq!(Orientation::of_exif(&whole[..length]), None, "{length} bytes");
        }
        for place in 0..whole.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[place] = byte;
                let _orientation_or_none = Orientation::of_exif(&damaged);
            }
        }
        assert_eq!(Orientation::of_exif(&exif(false, 2, 6)), None, "a text");
        assert_eq!(Orientation::of_exif(&exif(false, 4, 0x10006)), None, "more than 16 bits");
    }

    #[test]
    fn pixels_are_turned_and_mirrored() {
        // The stored pixels are 1 2 3 above 4 5 6.
        let rgb = (1..=6).flat_map(|level| [level; 3]).collect();
        let stored = Pixels { width: 3, height: 2, rgb };
        for (value, width, expected) in [
            (2, 3, [3, 2, 1, 6, 5, 4]),
            (3, 3, [6, 5, 4, 3, 2, 1]),
            (4, 3, [4, 5, 6, 1, 2, 3]),
            (5, 2, [1, 4, 2, 5, 3, 6]),
            (6, 2, [4, 1, 5, 2, 6, 3]),
            (7, 2, [6, 3, 5, 2, 4, 1]),
            (8, 2, [3, 6, 2, 5, 1, 4]),
        ] {
            let found = Orientation::new(value).expect("a change").apply(&stored);
            assert_eq!(found.width, width);
            assert_eq!(found.rgb, expected.map(|level| [level; 3]).concat(), "{value}");
        }
    }
}
