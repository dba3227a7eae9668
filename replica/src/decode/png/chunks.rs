//! Finds the chunks of a PNG file that its pixels depend on, and checks by their lengths and checksums that the file is
//! complete and undamaged. This takes far less time than decoding the pixels.
//!
//! All other chunks are left out: text, profiles, gamma, transparency and the further frames of an animation have no
//! effect on RGB pixels. As in libpng, a wrong checksum of such a chunk is no reason to refuse the file.
//!
//! Source: the PNG specification, third edition, section 5.3 (chunk layout).

/// The bytes at the start of a PNG file.
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The end chunk.
const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// The number of bytes of a chunk's length. It counts only the data of the chunk.
const LENGTH: usize = 4;

/// The number of bytes of a chunk's name. The checksum covers the name and the data.
const NAME: usize = 4;

/// The number of bytes of a chunk's checksum.
const CHECKSUM: usize = 4;

/// A defect of a file's chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// The file ends before its end chunk.
    Cut,
    /// The checksum of a chunk that decoding needs differs from that of the chunk's name and data.
    Damaged,
}

/// The parts of a PNG file that the picture depends on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Essential<'file> {
    /// The file without the chunks that RGB pixels do not depend on.
    pub(super) file: Vec<u8>,
    /// The number of bytes of compressed pixels.
    pub(super) data_bytes: u64,
    /// The EXIF metadata, if its checksum is right.
    pub(super) exif: Option<&'file [u8]>,
}

/// Finds the parts of a file that the picture depends on.
pub(super) fn essential(file: &[u8]) -> Result<Essential<'_>, Defect> {
    let mut rest = file.strip_prefix(SIGNATURE).ok_or(Defect::Cut)?;
    let mut kept = Vec::with_capacity(file.len());
    kept.extend_from_slice(SIGNATURE);
    let (mut data_bytes, mut exif, mut has_colours, mut data_has_ended) = (0, None, false, false);
    loop {
        let (length, _) = number(rest)?;
        let checked = NAME.saturating_add(length as usize);
        let (chunk, after) = rest.split_at_checked((LENGTH + CHECKSUM).saturating_add(checked)).ok_or(Defect::Cut)?;
        let covered = &chunk[LENGTH..LENGTH + checked];
        // A capital letter begins the name of each chunk that decoding needs.
        let is_critical = covered[0] & 0x20 == 0;
        let checksum = number(&chunk[LENGTH + checked..])?.0;
        let is_damaged = || crc32fast::hash(covered) != checksum;
        if is_critical && is_damaged() {
            return Err(Defect::Damaged);
        }
        let is_needed = match &covered[..NAME] {
            // The colour type is the tenth byte of the header. Only type 3 has a palette.
            b"IHDR" => {
                has_colours = covered.get(NAME + 9) == Some(&3);
                true
            }
            b"PLTE" => has_colours,
            // As in libpng, the pixels end at the first chunk of another name.
            b"IDAT" => {
                data_bytes += u64::from(length) * u64::from(!data_has_ended);
                !data_has_ended
            }
            b"eXIf" if exif.is_none() && !is_damaged() => {
                exif = Some(&covered[NAME..]);
                false
            }
            _ => is_critical,
        };
        data_has_ended |= data_bytes > 0 && &covered[..NAME] != b"IDAT";
        if &covered[..NAME] == b"IEND" {
            // As in libpng, the end chunk may have data, which has no meaning.
            kept.extend_from_slice(END);
            return Ok(Essential { file: kept, data_bytes, exif });
        }
        if is_needed {
            kept.extend_from_slice(chunk);
        }
        rest = after;
    }
}

/// The big-endian number of 32 bits at the start of `bytes`, and the rest of `bytes`.
fn number(bytes: &[u8]) -> Result<(u32, &[u8]), Defect> {
    let (number, rest) = bytes.split_first_chunk().ok_or(Defect::Cut)?;
    Ok((u32::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = png::Encoder::new(&mut file, 3, 2);
        writer.set_color(png::ColorType::Rgb);
        let mut writer = writer.write_header().expect("a PNG");
        writer.write_image_data(&[200, 10, 10].repeat(3 * 2)).expect("a PNG");
        writer.finish().expect("a PNG");
        file
    }

    /// A chunk with a wrong checksum.
    fn damaged_chunk(name: &[u8]) -> Vec<u8> {
        [&[0, 0, 0, 2][..], name, b"ab", &[0; 4]].concat()
    }

    #[test]
    fn a_file_cut_anywhere_is_recognised_and_bytes_after_the_end_chunk_are_ignored() {
        let mut file = file();
        assert_eq!(essential(&file).map(|found| found.file), Ok(file.clone()));
        for length in 0..file.len() {
            assert_eq!(essential(&file[..length]), Err(Defect::Cut), "{length} bytes");
        }
        let whole = file.clone();
        file.extend(b"trailing");
        assert_eq!(essential(&file).map(|found| found.file), Ok(whole));
    }

    #[test]
    fn damage_of_any_byte_is_recognised() {
        let file = file();
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 0x40;
            assert!(essential(&damaged).is_err(), "byte {place}");
        }
    }

    #[test]
    fn chunks_without_effect_on_pixels_are_left_out_even_if_they_are_damaged() {
        let file = file();
        let after_header = SIGNATURE.len() + LENGTH + NAME + 13 + CHECKSUM;
        let with = |name: &[u8]| [&file[..after_header], &damaged_chunk(name), &file[after_header..]].concat();
        assert_eq!(essential(&with(b"tEXt")).map(|found| found.file), Ok(file.clone()));
        assert_eq!(essential(&with(b"PLTE")), Err(Defect::Damaged));
    }

    #[test]
    fn a_file_is_cut_if_a_chunk_is_longer_than_the_file() {
        let mut file = file();
        file[SIGNATURE.len()..SIGNATURE.len() + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(essential(&file), Err(Defect::Cut));
    }
}
