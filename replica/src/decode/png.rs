//! Decodes PNG files to RGB, row by row. The crate `png` decodes the samples. Their conversion to RGB of 8 bits is the
//! same as Pillow's.

mod chunks;

use super::{Error, ImageLimits, Picture, Pixels, check_size};
use chunks::{Defect, Essential};
use png::{BitDepth, ColorType, DecodeOptions, Decoder, Reader, Transformations};
use std::io::Cursor;

/// Most bytes that the decoder may allocate, rows of pixels not included. The chunks that are decoded need few.
const MAX_OTHER_BYTES: usize = 1 << 20;

/// Most bytes that one byte of compressed data can become (RFC 1951: 258 bytes for two bits).
const MAX_INFLATION: u64 = 1032;

/// The passes of an interlaced image: the first column and row, and the distances of columns and rows.
const PASSES: [(usize, usize, usize, usize); 7] =
    [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];

/// A PNG file, or the first frame of an animation.
struct PngFile<'file> {
    /// The file without the chunks that pixels do not depend on.
    file: Vec<u8>,
    width: u32,
    height: u32,
    interlaced: bool,
    exif: Option<&'file [u8]>,
    /// The number of bytes of an uncompressed row.
    row_bytes: usize,
}

/// Reads the header of a PNG file, and checks its chunks. This check comes before the decoding of pixels. Otherwise a
/// damaged file would cost the time of decoding.
pub(super) fn read(file: &[u8], limits: ImageLimits) -> Result<Box<dyn Picture + '_>, Error> {
    let mut header = decoder(file);
    let header = header.read_header_info().map_err(decoding_error)?;
    let (width, height) = check_size(limits, header.width.into(), header.height.into())?;
    let (interlaced, row_bytes) = (header.interlaced, header.raw_row_length_from_width(width));
    let Essential { file, data_bytes, exif } = chunks::essential(file).map_err(|defect| corrupt(reason(defect)))?;
    // A row of an interlaced image is not longer than the part of the row in each pass together.
    if data_bytes.saturating_mul(MAX_INFLATION) < row_bytes as u64 * u64::from(height) {
        return Err(corrupt("it has less compressed data than its pixels need, so it was cut short"));
    }
    Ok(Box::new(PngFile { file, width, height, interlaced, exif, row_bytes }))
}

impl Picture for PngFile<'_> {
    /// Three bytes for each pixel, and three more while the passes of an interlaced image are put together.
    fn memory_bytes(&self) -> u64 {
        let rgb = 3 * u64::from(self.width) * u64::from(self.height);
        let images = if self.interlaced { 2 } else { 1 };
        images * rgb + (self.file.len() + self.most_row_bytes()) as u64
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn exif(&self) -> Option<&[u8]> {
        self.exif
    }

    fn decode(&self) -> Result<Pixels, Error> {
        let mut decoder = decoder(&self.file);
        decoder.set_limits(png::Limits { bytes: self.most_row_bytes() });
        let mut reader = decoder.read_info().map_err(decoding_error)?;
        let rgb = self.rows(&mut reader)?;
        // Reads up to the end chunk. Otherwise the checksum after the pixels would not be checked.
        reader.finish().map_err(decoding_error)?;
        let rgb = if self.interlaced { self.deinterlaced(&rgb) } else { rgb };
        Ok(Pixels { width: self.width, height: self.height, rgb })
    }
}

impl PngFile<'_> {
    /// Most bytes that the decoder allocates for rows.
    fn most_row_bytes(&self) -> usize {
        MAX_OTHER_BYTES + 8 * self.row_bytes
    }

    /// Decodes all rows, in the order of the file.
    fn rows(&self, reader: &mut Reader<Cursor<&[u8]>>) -> Result<Vec<u8>, Error> {
        let conversion = Conversion::of(reader.info().color_type, reader.output_color_type());
        let size = 3 * self.width as usize * self.height as usize;
        let mut rgb = Vec::new();
        // The operating system provides this memory only as far as rows arrive.
        rgb.reserve_exact(size);
        while rgb.len() < size {
            let row = reader.next_interlaced_row().map_err(decoding_error)?;
            conversion.append(row.ok_or_else(|| corrupt(reason(Defect::Cut)))?.data(), &mut rgb);
        }
        Ok(rgb)
    }

    /// Puts the pixels of the seven passes, which are one after another in `passes`, to their places.
    fn deinterlaced(&self, passes: &[u8]) -> Vec<u8> {
        let (width, height) = (self.width as usize, self.height as usize);
        let mut rgb = vec![0; 3 * width * height];
        let mut pixels = passes.as_chunks::<3>().0.iter();
        for (left, top, across, down) in PASSES {
            for row in rgb.as_chunks_mut::<3>().0.chunks_exact_mut(width).skip(top).step_by(down) {
                let places = row.iter_mut().skip(left).step_by(across);
                places.zip(&mut pixels).for_each(|(place, pixel)| *place = *pixel);
            }
        }
        rgb
    }
}

/// A decoder of `file` that expands palettes and small samples.
fn decoder(file: &[u8]) -> Decoder<Cursor<&[u8]>> {
    let mut options = DecodeOptions::default();
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    // By default, the crate accepts a wrong checksum of the pixels. Here a damaged file is refused.
    options.set_ignore_adler32(false);
    let mut decoder = Decoder::new_with_options(Cursor::new(file), options);
    decoder.set_limits(png::Limits { bytes: MAX_OTHER_BYTES });
    decoder.set_transformations(Transformations::EXPAND);
    decoder
}

/// The error for a failure of the decoder.
fn decoding_error(error: png::DecodingError) -> Error {
    match error {
        png::DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt(reason(Defect::Cut))
        }
        png::DecodingError::LimitsExceeded => {
            corrupt("its chunks take too much memory; save it again with another program")
        }
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
