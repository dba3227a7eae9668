//! Decodes the first frame of WebP files to RGB, with the same pixels as Pillow. The crate `image-webp` decodes the
//! bitstream of the frame, in a container without other chunks.

mod container;

use super::{Error, ImageLimits, Picture, Pixels, check_empty, check_size};
use container::{CUT, Coded, Frame, first_frame};
use image_webp::{DecodingError, WebPDecoder};
use std::io::Cursor;

/// Most bytes of the code tables of a lossless bitstream for each byte of the bitstream.
const TABLE_BYTES: usize = 64;

/// Most bytes of a bitstream that count for [`TABLE_BYTES`], because the number of tables is limited.
const MOST_BYTES_OF_TABLES: usize = 1 << 20;

/// Bytes for rows and other state.
const OTHER_BYTES: u64 = 1 << 20;

/// Reads the headers of a WebP file.
pub(super) fn read(file: &[u8], limits: ImageLimits) -> Result<Box<dyn Picture + '_>, Error> {
    let frame = first_frame(file).map_err(corrupt)?;
    let canvas = check_size(limits, frame.canvas.0.into(), frame.canvas.1.into())?;
    check_empty(canvas, u64::from(frame.size.0) * u64::from(frame.size.1))?;
    Ok(Box::new(frame))
}

impl Picture for Frame<'_> {
    /// Five bytes for each pixel of the frame: the decoder needs four, and up to one more for predictions or for the
    /// chroma. If the frame does not fill the image, three bytes for each pixel of the image in addition.
    fn memory_bytes(&self) -> u64 {
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        let canvas = if self.size == self.canvas { 0 } else { 3 * pixels(self.canvas) };
        // Alpha is a lossless bitstream, too.
        let (coded, lossless) = match self.coded {
            Coded::Lossy(coded, alpha) => (coded.len(), alpha.map_or(0, <[u8]>::len)),
            Coded::Lossless(coded) => (0, coded.len()),
        };
        5 * pixels(self.size)
            + canvas
            + (coded + lossless + TABLE_BYTES * lossless.min(MOST_BYTES_OF_TABLES)) as u64
            + OTHER_BYTES
    }

    fn dimensions(&self) -> (u32, u32) {
        self.canvas
    }

    fn exif(&self) -> Option<&[u8]> {
        self.exif
    }

    fn decode(&self) -> Result<Pixels, Error> {
        let (width, height) = self.canvas;
        let rgb = match self.coded {
            Coded::Lossy(coded, alpha) => {
                if let Some(alpha) = alpha {
                    check_alpha(alpha, self.size)?;
                }
                bitstream_pixels(b"VP8 ", coded, self.size)?
            }
            Coded::Lossless(coded) => lossless_rgb(coded, self.size)?,
        };
        if self.size == self.canvas {
            return Ok(Pixels { width, height, rgb });
        }
        // The rest of the image is transparent black, of which only black is left.
        let (row, frame_row) = (3 * width as usize, 3 * self.size.0 as usize);
        let mut canvas = vec![0; row * height as usize];
        let rows = canvas.chunks_exact_mut(row).skip(self.offset.1 as usize);
        for (place, pixels) in rows.zip(rgb.chunks_exact(frame_row)) {
            place[3 * self.offset.0 as usize..][..frame_row].copy_from_slice(pixels);
        }
        Ok(Pixels { width, height, rgb: canvas })
    }
}

/// Decodes a lossless bitstream.
fn lossless_rgb(coded: &[u8], size: (u32, u32)) -> Result<Vec<u8>, Error> {
    let mut coded = coded.to_vec();
    // The bit says whether there is alpha, and has no effect on the pixels. With it, the decoder writes four samples for
    // each pixel to our memory. Without it, the decoder would write them to memory of its own, and copy three.
    coded[4] |= 0x10;
    let mut rgb = bitstream_pixels(b"VP8L", &coded, size)?;
    let pixels = rgb.len() / 4;
    for pixel in 0..pixels {
        rgb.copy_within(4 * pixel..4 * pixel + 3, 3 * pixel);
    }
    rgb.truncate(3 * pixels);
    Ok(rgb)
}

/// Checks that the alpha of a lossy image can be decoded, although the image is returned without it. If it cannot be
/// decoded, the file is damaged.
fn check_alpha(alpha: &[u8], (width, height): (u32, u32)) -> Result<(), Error> {
    let damaged = || corrupt("its alpha is damaged");
    let (&head, data) = alpha.split_first().ok_or_else(damaged)?;
    match head & 3 {
        0 if data.len() as u64 >= u64::from(width) * u64::from(height) => Ok(()),
        1 => {
            // The alpha is a lossless bitstream without a header.
            let header = (width - 1) | (height - 1) << 14 | 1 << 28;
            let coded = [&[0x2f], &header.to_le_bytes()[..], data].concat();
            bitstream_pixels(b"VP8L", &coded, (width, height)).map(drop)
        }
        _ => Err(damaged()),
    }
}

/// Decodes a bitstream of the kind `name` to three samples for each pixel, or four if it has alpha.
fn bitstream_pixels(name: &[u8; 4], coded: &[u8], size: (u32, u32)) -> Result<Vec<u8>, Error> {
    let length = coded.len() as u32;
    let padding = &[0][..coded.len() % 2];
    let riff_length = 12 + length + length % 2;
    let head = [b"RIFF", &riff_length.to_le_bytes()[..], b"WEBP", name, &length.to_le_bytes()].concat();
    let mut decoder = WebPDecoder::new(Cursor::new([&head, coded, padding].concat())).map_err(decoding_error)?;
    if decoder.dimensions() != size {
        return Err(corrupt("the header of its pixels is malformed"));
    }
    let bytes = decoder.output_buffer_size().ok_or_else(|| decoding_error(DecodingError::ImageTooLarge))?;
    // The operating system provides this memory only as far as pixels are written.
    let mut pixels = vec![0; bytes];
    decoder.read_image(&mut pixels).map_err(decoding_error)?;
    Ok(pixels)
}

/// The error for a failure of the decoder.
fn decoding_error(error: DecodingError) -> Error {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => corrupt(CUT),
        other => corrupt(other.to_string()),
    }
}

/// The error for a WebP file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "WebP", reason: reason.into() }
}
