//! Checks by the lengths and checksums of its chunks that a PNG file is complete and undamaged. This takes far less
//! time than decoding the pixels.
//!
//! Source: the PNG specification, third edition, section 5.3 (chunk layout).

/// The number of bytes of the signature, which is before the first chunk.
const SIGNATURE: usize = 8;

/// The name of the last chunk.
const END: &[u8] = b"IEND";

/// The number of bytes of a chunk's name. The checksum covers the name, but the chunk's length does not include it.
const NAME: usize = 4;

/// A defect of a file's chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Defect {
    /// The file ends before its end chunk.
    Cut,
    /// The checksum of a chunk differs from that of the chunk's name and data.
    Damaged,
}

/// Checks all chunks up to the end chunk. Bytes after the end chunk are ignored.
pub(super) fn check(file: &[u8]) -> Result<(), Defect> {
    let mut rest = file.get(SIGNATURE..).ok_or(Defect::Cut)?;
    loop {
        let (length, after) = number(rest)?;
        let covered = NAME.saturating_add(length as usize);
        let (chunk, after) = after.split_at_checked(covered).ok_or(Defect::Cut)?;
        let (checksum, after) = number(after)?;
        if crc32fast::hash(chunk) != checksum {
            return Err(Defect::Damaged);
        }
        if chunk.starts_with(END) {
            return Ok(());
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

    #[test]
    fn a_file_cut_anywhere_is_recognised_and_bytes_after_the_end_chunk_are_ignored() {
        let mut file = file();
        assert_eq!(check(&file), Ok(()));
        for length in 0..file.len() {
            assert_eq!(check(&file[..length]), Err(Defect::Cut), "{length} bytes");
        }
        file.extend(b"trailing");
        assert_eq!(check(&file), Ok(()));
    }

    #[test]
    fn damage_of_any_byte_is_recognised() {
        let file = file();
        for place in SIGNATURE..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 0x40;
            assert!(check(&damaged).is_err(), "byte {place}");
        }
    }

    #[test]
    fn a_file_is_cut_if_a_chunk_is_longer_than_the_file() {
        let mut file = file();
        file[SIGNATURE..SIGNATURE + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(check(&file), Err(Defect::Cut));
    }
}
