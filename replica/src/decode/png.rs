//! PNG files → RGB, row by row. The crate `png` decodes; the conversion of other depths and colour types to 8-bit RGB
//! follows Pillow.

mod chunks;

use super::{Error, Limits, Pixels, within};
use chunks::Defect;
use png::{BitDepth, ColorType, DecodeOptions, Decoder, Transformations};
use std::io::Cursor;

/// Most bytes that the decoder may allocate for chunks other than pixels. Memory for rows comes on top.
const MAX_ANCILLARY_BYTES: usize = 16 << 20;

/// Decodes a PNG file; of an animation, the first frame.
pub(super) fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    let mut options = DecodeOptions::default();
    // Compressed text and colour profiles are not used, and could be decompression bombs.
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    // A file with a damaged chunk is damaged, even if the chunk is not needed.
    options.set_skip_ancillary_crc_failures(false);
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(file), options);
    decoder.set_limits(png::Limits { bytes: MAX_ANCILLARY_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(decoding_error)?;
    let (width, height) = within(limits, header.width.into(), header.height.into())?;
    // Checked before pixels are decoded, so that a cut or damaged file costs little time.
    chunks::check(file).map_err(|defect| corrupt(reason(defect)))?;
    let row = header.raw_row_length_from_width(width);
    decoder.set_limits(png::Limits { bytes: MAX_ANCILLARY_BYTES + 8 * row });
    let mut reader = decoder.read_info().map_err(decoding_error)?;
    let conversion = Conversion::of(reader.info().color_type, reader.output_color_type());
    let mut rgb = Vec::new();
    if reader.info().interlaced {
        // Each pass covers the whole image, so all samples are held in their own depth first: at most four bytes for
        // each pixel of the limit.
        let most_bytes = limits.max_pixels.saturating_mul(4);
        let size = reader.output_buffer_size().filter(|size| *size as u64 <= most_bytes);
        let limit = most_bytes / (conversion.samples * conversion.bytes) as u64;
        let too_deep = Error::TooManyPixels { width: width.into(), height: height.into(), limit };
        let mut samples = vec![0; size.ok_or(too_deep)?];
        reader.next_frame(&mut samples).map_err(decoding_error)?;
        rgb.reserve_exact(3 * width as usize * height as usize);
        conversion.append(&samples, &mut rgb);
    } else {
        rgb.reserve_exact(3 * width as usize * height as usize);
        while let Some(row) = reader.next_row().map_err(decoding_error)? {
            conversion.append(row.data(), &mut rgb);
            // The reader would go on with further frames of an animation.
            if rgb.len() == rgb.capacity() {
                break;
            }
        }
    }
    // Reads up to the end chunk, since the checksum of the pixels follows them.
    reader.finish().map_err(decoding_error)?;
    Ok(Pixels { width, height, rgb })
}

/// The error for a failure of the decoder.
fn decoding_error(error: png::DecodingError) -> Error {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt(reason(Defect::Cut))
        }
        png::DecodingError::LimitsExceeded => corrupt("its chunks take too much memory"),
        // The crate tells checksum errors from others only by its message.
        other => match other.to_string() {
            text if text.contains("CRC error") || text.contains("WrongChecksum") => corrupt(reason(Defect::Damaged)),
            text => corrupt(text),
        },
    }
}

/// The message for a defect.
fn reason(defect: Defect) -> &'static str {
    match defect {
        Defect::Cut => "it ends before its end chunk: it was cut short",
        Defect::Damaged => "a checksum differs from that of its data: it is damaged",
    }
}

/// The error of a file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "PNG", reason: reason.into() }
}

/// The conversion of the decoder's samples to RGB of 8 bits.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    /// Samples of a pixel, 1 to 4.
    samples: usize,
    /// Bytes of a sample, 1 or 2.
    bytes: usize,
    /// Whether samples are clipped at 255. Pillow does so for grey of 16 bits, and takes the high byte for every other
    /// kind.
    clipped: bool,
}

impl Conversion {
    /// The conversion from a colour type as stored, and the type and depth that the decoder makes of it.
    fn of(stored: ColorType, (decoded, depth): (ColorType, BitDepth)) -> Self {
        let bytes = if depth == BitDepth::Sixteen { 2 } else { 1 };
        Self { samples: decoded.samples(), bytes, clipped: bytes == 2 && stored == ColorType::Grayscale }
    }

    /// Converts samples and appends them to `rgb`.
    fn append(self, samples: &[u8], rgb: &mut Vec<u8>) {
        let pixels = samples.chunks_exact(self.samples * self.bytes);
        match (self.samples, self.bytes) {
            _ if self.clipped => rgb.extend(pixels.flat_map(|p| [if p[0] > 0 { 255 } else { p[1] }; 3])),
            (3, 1) => rgb.extend_from_slice(samples),
            (3.., bytes) => rgb.extend(pixels.flat_map(|p| [p[0], p[bytes], p[2 * bytes]])),
            _ => rgb.extend(pixels.flat_map(|p| [p[0]; 3])),
        }
    }
}
