//! Decodes PNG files to RGB, row by row. The crate `png` decodes the samples. Their conversion to RGB of 8 bits is the
//! same as Pillow's.

mod chunks;

use super::{Error, ImageLimits, Pixels, check_size};
use chunks::Defect;
use png::{BitDepth, ColorType, DecodeOptions, Decoder, Transformations};
use std::io::Cursor;

/// Most bytes that the decoder may allocate for chunks without pixels. Memory for rows of pixels comes in addition.
const MAX_ANCILLARY_BYTES: usize = 16 << 20;

/// Decodes a PNG file, or the first frame of an animation.
pub(super) fn decode(file: &[u8], limits: ImageLimits) -> Result<Pixels, Error> {
    let mut options = DecodeOptions::default();
    // Compressed text and colour profiles are not needed. If they were read, they could be decompression bombs.
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    // By default, the crate accepts some wrong checksums. Here a damaged file is refused, even if its pixels are
    // intact.
    options.set_skip_ancillary_crc_failures(false);
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(file), options);
    decoder.set_limits(png::Limits { bytes: MAX_ANCILLARY_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(decoding_error)?;
    let (width, height) = check_size(limits, header.width.into(), header.height.into())?;
    // This check comes before the decoding of pixels. Otherwise a damaged file would cost the time of decoding.
    chunks::check(file).map_err(|defect| corrupt(reason(defect)))?;
    let row = header.raw_row_length_from_width(width);
    decoder.set_limits(png::Limits { bytes: MAX_ANCILLARY_BYTES + 8 * row });
    let mut reader = decoder.read_info().map_err(decoding_error)?;
    let conversion = Conversion::of(reader.info().color_type, reader.output_color_type());
    let mut rgb = Vec::new();
    if reader.info().interlaced {
        // The passes of an interlaced image spread over the whole image, so all samples are in memory, in their own
        // depth, before they are converted. They may take four bytes for each pixel of the limit.
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
            // Without this end, the reader would continue with the further frames of an animation.
            if rgb.len() == rgb.capacity() {
                break;
            }
        }
    }
    // Reads up to the end chunk. Otherwise the checksum after the pixels would not be checked.
    reader.finish().map_err(decoding_error)?;
    Ok(Pixels { width, height, rgb })
}

/// The error for a failure of the decoder.
fn decoding_error(error: png::DecodingError) -> Error {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt(reason(Defect::Cut))
        }
        png::DecodingError::LimitsExceeded => corrupt("its chunks take too much memory; save it without metadata"),
        // Only the text of the crate's error distinguishes checksum errors from other errors.
        other => match other.to_string() {
            text if text.contains("CRC error") || text.contains("WrongChecksum") => corrupt(reason(Defect::Damaged)),
            text => corrupt(text),
        },
    }
}

/// The reason in the error message for a defect.
fn reason(defect: Defect) -> &'static str {
    match defect {
        Defect::Cut => "the file ends before its end chunk, so it was cut short",
        Defect::Damaged => "a checksum differs from that of its data, so the file is damaged",
    }
}

/// The error for a PNG file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "PNG", reason: reason.into() }
}

/// The conversion of the decoder's samples to RGB of 8 bits for each channel.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    /// The number of samples of a pixel, 1 to 4.
    samples: usize,
    /// The number of bytes of a sample, 1 or 2.
    bytes: usize,
    /// Whether samples of 16 bits are clipped at 255. Pillow clips them only in grey images. In all others, it takes
    /// the high byte.
    clipped: bool,
}

impl Conversion {
    /// The conversion for a file with the colour type `stored`, which the decoder expands to the type `decoded` and to
    /// `depth`.
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
