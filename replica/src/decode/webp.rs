//! Decodes the first frame of WebP files to RGB, with the same pixels as Pillow. The sizes of all frames are read from
//! their headers before any frame is decoded.
//!
//! Sources: the WebP container specification (RIFF chunks), RFC 6386 section 9.1 (VP8 frame header), and the WebP
//! lossless bitstream specification section 3 (VP8L header).

use super::{Error, ImageLimits, Pixels, check_size};
use image_webp::{DecodingError, WebPDecoder};
use std::io::Cursor;

/// The number of bytes of an animation frame's header (ANMF), which is before the chunks of the frame.
const ANIMATION_FRAME_HEADER: usize = 16;

/// The reason in the error message for a file that ends too early.
const CUT: &str = "the file is shorter than its header says, so it was cut short";

/// Decodes a WebP file, or the first frame of an animation.
pub(super) fn decode(file: &[u8], limits: ImageLimits) -> Result<Pixels, Error> {
    let length = file.get(4..8).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes);
    if (file.len() as u64) < u64::from(length) + 8 {
        return Err(Error::Corrupt { format: "WebP", reason: CUT.into() });
    }
    // The crate compares the size of a frame with the canvas only after it has decoded the frame. So a frame larger
    // than its canvas could take memory beyond the limit.
    for (width, height) in frame_sizes(file) {
        check_size(limits, width.into(), height.into())?;
    }
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(decoding_error)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = check_size(limits, width.into(), height.into())?;
    let size = decoder.output_buffer_size().ok_or_else(|| decoding_error(DecodingError::ImageTooLarge))?;
    let mut rgb = vec![0; size];
    decoder.read_image(&mut rgb).map_err(decoding_error)?;
    if decoder.has_alpha() {
        let pixels = width as usize * height as usize;
        for pixel in 0..pixels {
            rgb.copy_within(4 * pixel..4 * pixel + 3, 3 * pixel);
        }
        rgb.truncate(3 * pixels);
    }
    Ok(Pixels { width, height, rgb })
}

/// The error for a failure of the decoder.
fn decoding_error(error: DecodingError) -> Error {
    let reason = match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => CUT.into(),
        other => other.to_string(),
    };
    Error::Corrupt { format: "WebP", reason }
}

/// The width and height of every frame whose header can be read, including the frames of an animation.
fn frame_sizes(file: &[u8]) -> Vec<(u32, u32)> {
    let mut sizes = Vec::new();
    for (name, chunk) in chunks(file.get(12..).unwrap_or_default()) {
        match name {
            b"ANMF" => {
                let inner = chunk.get(ANIMATION_FRAME_HEADER..).unwrap_or_default();
                sizes.extend(chunks(inner).filter_map(|(name, chunk)| frame_size(name, chunk)));
            }
            _ => sizes.extend(frame_size(name, chunk)),
        }
    }
    sizes
}

/// The width and height in the header of a VP8 or VP8L chunk; `None` for any other chunk.
fn frame_size(name: &[u8], chunk: &[u8]) -> Option<(u32, u32)> {
    match (name, chunk) {
        // The frame tag has three bytes, and so has the start code. Width and height follow. Each has 14 bits, below
        // two bits for scaling.
        (b"VP8 ", [_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..]) => {
            let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((side(*w0, *w1), side(*h0, *h1)))
        }
        // A byte of signature is followed by width - 1 and height - 1, of 14 bits each.
        (b"VP8L", [0x2f, a, b, c, d, ..]) => {
            let bits = u32::from_le_bytes([*a, *b, *c, *d]);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        _ => None,
    }
}

/// The names and contents of the chunks in `bytes`. If the last chunk is cut short, its content ends with `bytes`.
fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(8)?;
        let (name, length) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("a chunk's length has four bytes")) as usize;
        let (chunk, rest) = rest.split_at(length.min(rest.len()));
        // One byte of padding follows a chunk of odd length.
        bytes = rest.get(length % 2..).unwrap_or_default();
        Some((name, chunk))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
        let padding = vec![0; content.len() % 2];
        [name, &(content.len() as u32).to_le_bytes(), content, &padding].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [b"RIFF\0\0\0\0WEBP", &chunks.concat()[..]].concat()
    }

    #[test]
    fn the_sizes_of_all_frames_are_found_for_any_size_of_the_canvas() {
        let canvas = chunk(b"VP8X", &[0; 10]);
        let lossy = chunk(b"VP8 ", &[0, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0xff, 0x02, 0x40, 9]);
        // The header has 300 − 1 and 5 − 1, of 14 bits each.
        let lossless = chunk(b"VP8L", &[&[0x2f][..], &(299_u32 | 4 << 14).to_le_bytes()].concat());
        let animated = chunk(b"ANMF", &[&[0; 16], &lossless[..]].concat());
        let found = frame_sizes(&file(&[canvas, animated, lossy]));
        assert_eq!(found, [(300, 5), (16383, 2)]);
    }

    #[test]
    fn malformed_files_have_no_frames() {
        for bytes in [&b""[..], b"RIFF", b"RIFF\0\0\0\0WEBPVP8 \xff\xff\xff\xff", b"RIFF\0\0\0\0WEBPANMF\x04\0\0\0abcd"]
        {
            assert_eq!(frame_sizes(bytes), []);
        }
    }
}
