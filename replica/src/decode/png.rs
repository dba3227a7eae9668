//! PNG files → RGB, row by row. The pixels are the decoder's; what 16 bits and few bits become is Pillow's.

mod chunks;

use super::{Error, Limits, Pixels, within};
use chunks::Defect;
use png::{BitDepth, ColorType, DecodeOptions, Decoder, Transformations};
use std::io::Cursor;

/// Most that chunks other than the pixels may take, bytes; a picture's own rows come on top.
const ANCILLARY: usize = 16 << 20;

pub(super) fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    let mut options = DecodeOptions::default();
    // Compressed text and colour profiles are bombs at worst and unused at best.
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    // A damaged chunk is a damaged file, whatever it holds.
    options.set_skip_ancillary_crc_failures(false);
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(file), options);
    decoder.set_limits(png::Limits { bytes: ANCILLARY });
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(defect)?;
    let (width, height) = within(limits, header.width.into(), header.height.into())?;
    // Before anything is decoded: what was cut or damaged costs next to nothing.
    chunks::check(file).map_err(|defect| corrupt(reason(defect)))?;
    let row = header.raw_row_length_from_width(width);
    decoder.set_limits(png::Limits { bytes: ANCILLARY + 8 * row });
    let mut reader = decoder.read_info().map_err(defect)?;
    let levels = Levels::of(reader.info().color_type, reader.output_color_type());
    let mut rgb = Vec::new();
    if reader.info().interlaced {
        // Passes are spread over the whole picture, so it is held in its own depth first.
        let most = limits.max_pixels.saturating_mul(4);
        let size = reader.output_buffer_size().filter(|size| *size as u64 <= most);
        let limit = most / (levels.samples * levels.bytes) as u64;
        let too_deep = Error::TooManyPixels { width: width.into(), height: height.into(), limit };
        let mut samples = vec![0; size.ok_or(too_deep)?];
        reader.next_frame(&mut samples).map_err(defect)?;
        rgb.reserve_exact(3 * width as usize * height as usize);
        levels.append(&samples, &mut rgb);
    } else {
        rgb.reserve_exact(3 * width as usize * height as usize);
        while let Some(row) = reader.next_row().map_err(defect)? {
            levels.append(row.data(), &mut rgb);
            // Further frames of an animation follow the first, if anything asks for them.
            if rgb.len() == rgb.capacity() {
                break;
            }
        }
    }
    // To the end chunk: the checksum of the pixels stands after them.
    reader.finish().map_err(defect)?;
    Ok(Pixels { width, height, rgb })
}

fn defect(error: png::DecodingError) -> Error {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt(reason(Defect::Cut))
        }
        png::DecodingError::LimitsExceeded => corrupt("its chunks take too much memory"),
        // The crate tells kinds apart in its words only, which here are numbers and names of its own.
        other => match other.to_string() {
            words if words.contains("CRC error") || words.contains("WrongChecksum") => corrupt(reason(Defect::Damaged)),
            words => corrupt(words),
        },
    }
}

fn reason(defect: Defect) -> &'static str {
    match defect {
        Defect::Cut => "it ends before its end chunk: it was cut short",
        Defect::Damaged => "a checksum differs from what it was made of: it is damaged",
    }
}

fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "PNG", reason: reason.into() }
}

/// How the decoder's samples become levels of 8 bits.
#[derive(Debug, Clone, Copy)]
struct Levels {
    /// Samples of a pixel.
    samples: usize,
    /// Bytes of a sample.
    bytes: usize,
    /// 16-bit grey, which Pillow clips at 255 where it takes the high byte of every other kind.
    clipped: bool,
}

impl Levels {
    fn of(stored: ColorType, (decoded, depth): (ColorType, BitDepth)) -> Self {
        let bytes = if depth == BitDepth::Sixteen { 2 } else { 1 };
        Self { samples: decoded.samples(), bytes, clipped: bytes == 2 && stored == ColorType::Grayscale }
    }

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
