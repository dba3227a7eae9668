//! Decodes the first image of TIFF files to RGB, strip by strip or tile by tile, with the same pixels as Pillow. The crate
//! `tiff` decodes the samples. As in Pillow, the orientation of the file is always applied.

mod directory;

use super::orientation::Orientation;
use super::{Error, ImageLimits, Picture, Pixels, check_size};
use directory::Directory;
use std::borrow::Cow;
use std::io::Cursor;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::{PhotometricInterpretation, PlanarConfiguration, Tag};
use tiff::{ColorType, TiffError, TiffFormatError};

/// Most bytes of one compressed strip or tile after decompression. The decoder allocates them before it has decompressed
/// anything.
const MAX_CHUNK_BYTES: u64 = 48 << 20;

/// Most bytes of all strips or tiles together after decompression: this number for each byte of the RGB image, and
/// [`OTHER_WORK`]. All tiles may lie at the same place of the file, and tiles may be wider than the image. So a small file
/// could ask for any number of bytes.
const MOST_WORK: u64 = 8;

/// See [`MOST_WORK`].
const OTHER_WORK: u64 = 16 << 20;

/// The number of bytes that decompress in the time that a strip or tile takes even if it is empty.
const CHUNK_WORK: u64 = 1 << 10;

/// Bytes for tags and other state.
const OTHER_BYTES: u64 = 1 << 20;

/// The reason in the error message for a file that ends too early.
const CUT: &str = "the file ends before its last strip or tile, so it was cut short";

/// The first image of a TIFF file.
struct TiffFile<'file> {
    file: Cow<'file, [u8]>,
    width: u32,
    height: u32,
    /// The number of bytes of a strip or tile after decompression.
    chunk_bytes: u64,
    conversion: Conversion,
    orientation: Option<Orientation>,
}

/// The conversion of the file's samples to RGB.
struct Conversion {
    colour: ColorType,
    /// The colours of the palette, red before green before blue, of 16 bits each; empty without a palette.
    palette: Vec<u16>,
    /// Whether the colours were multiplied by alpha.
    premultiplied: bool,
    /// Whether the decoder inverts samples that Pillow does not.
    inverted: bool,
    /// Whether each colour has strips or tiles of its own.
    planar: bool,
}

/// Reads the tags of a TIFF file.
pub(super) fn read(file: &[u8], limits: ImageLimits) -> Result<Box<dyn Picture + '_>, Error> {
    let directory = Directory::of(file).ok_or_else(|| corrupt(CUT))?;
    if !directory.is_bounded() {
        return Err(corrupt("a tag has too many values; save the file with larger strips"));
    }
    let copy = directory.as_grey();
    let has_palette = copy.is_some();
    let file = copy.map_or(Cow::Borrowed(file), Cow::Owned);
    let mut decoder = decoder(&file)?;
    let (width, height) = decoder.dimensions().map_err(decoding_error)?;
    let (width, height) = check_size(limits, width.into(), height.into())?;
    let conversion = Conversion::of(&mut decoder, has_palette)?;
    let (columns, rows) = decoder.chunk_dimensions();
    let samples = if conversion.planar { 1 } else { u64::from(conversion.colour.num_samples()) };
    let row_bytes = (u64::from(columns) * samples * u64::from(conversion.colour.bit_depth())).div_ceil(8);
    // The last strip has only the rows that the image has.
    let chunk_bytes = row_bytes.saturating_mul(rows.min(height.next_multiple_of(16)).into());
    let compression: Option<u16> = decoder.find_tag_unsigned(Tag::Compression).map_err(decoding_error)?;
    let is_compressed = compression.is_some_and(|compression| compression != 1);
    if is_compressed && chunk_bytes > MAX_CHUNK_BYTES || chunk_bytes > file.len() as u64 && !is_compressed {
        let reason = format!("a strip or tile of {chunk_bytes} bytes is too large; save the file with smaller strips");
        return Err(corrupt(if is_compressed { reason } else { CUT.into() }));
    }
    let planes = if conversion.planar { 3 } else { 1 };
    let chunks = u64::from(width.div_ceil(columns)) * u64::from(height.div_ceil(rows)) * planes;
    let work = chunks.saturating_mul(chunk_bytes.saturating_add(CHUNK_WORK));
    if work > MOST_WORK * 3 * u64::from(width) * u64::from(height) + OTHER_WORK {
        let reason = format!(
            "{chunks} strips or tiles of {chunk_bytes} bytes are too many for {width}x{height} pixels; save the file \
             with one strip"
        );
        return Err(corrupt(reason));
    }
    let orientation: Option<u16> = decoder.find_tag_unsigned(Tag::Orientation).map_err(decoding_error)?;
    let orientation = orientation.and_then(Orientation::new);
    Ok(Box::new(TiffFile { file, width, height, chunk_bytes, conversion, orientation }))
}

impl Picture for TiffFile<'_> {
    /// Three bytes for each pixel, three more while the image is turned, and those of two strips or tiles.
    fn memory_bytes(&self) -> u64 {
        let images = if self.orientation.is_some() { 2 } else { 1 };
        images * 3 * u64::from(self.width) * u64::from(self.height)
            + 2 * self.chunk_bytes
            + self.file.len() as u64
            + OTHER_BYTES
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn exif(&self) -> Option<&[u8]> {
        None
    }

    fn decode(&self) -> Result<Pixels, Error> {
        let mut decoder = decoder(&self.file)?;
        let (width, height) = (self.width as usize, self.height as usize);
        let (columns, rows) = decoder.chunk_dimensions();
        let (across, down) = (self.width.div_ceil(columns), self.height.div_ceil(rows));
        let planes = if self.conversion.planar { 3 } else { 1 };
        let mut rgb = vec![0; 3 * width * height];
        for plane in 0..planes {
            for chunk in 0..across * down {
                let index = plane * across * down + chunk;
                // The crate leaves out the padding of the last row of tiles in the first plane only.
                let (_, stored_height) = decoder.chunk_data_dimensions(index);
                let (chunk_width, chunk_height) = decoder.chunk_data_dimensions(chunk);
                let samples = match decoder.read_chunk(index).map_err(decoding_error)? {
                    DecodingResult::U8(samples) => samples,
                    // The high byte of each sample is used, and the low byte for grey.
                    DecodingResult::U16(samples) => samples.iter().flat_map(|sample| sample.to_be_bytes()).collect(),
                    _ => return Err(corrupt("samples that are no natural numbers of up to 16 bits are not supported")),
                };
                let row_bytes = samples.len() / (stored_height as usize).max(1);
                let (left, top) = ((chunk % across * columns) as usize, (chunk / across * rows) as usize);
                for y in 0..chunk_height as usize {
                    let place = &mut rgb[3 * ((top + y) * width + left)..][..3 * chunk_width as usize];
                    let row = &samples[y * row_bytes..][..row_bytes];
                    let (pixels, _) = place.as_chunks_mut::<3>();
                    if self.conversion.planar {
                        let bytes = usize::from(self.conversion.colour.bit_depth() / 8);
                        pixels.iter_mut().zip(row.chunks_exact(bytes)).for_each(|(p, s)| p[plane as usize] = s[0]);
                    } else {
                        self.conversion.convert(row, pixels);
                    }
                }
            }
        }
        let stored = Pixels { width: self.width, height: self.height, rgb };
        Ok(match self.orientation {
            Some(orientation) => orientation.apply(&stored),
            None => stored,
        })
    }
}

impl Conversion {
    fn of(decoder: &mut Decoder<Cursor<&[u8]>>, has_palette: bool) -> Result<Self, Error> {
        let colour = match decoder.colortype().map_err(decoding_error)? {
            ColorType::Gray(bits) if has_palette => ColorType::Palette(bits),
            // Grey with alpha.
            ColorType::Multiband { bit_depth, num_samples: 2 } => ColorType::GrayA(bit_depth),
            colour => colour,
        };
        let mut number = |tag: Tag| decoder.find_tag_unsigned::<u16>(tag).map_err(decoding_error);
        let planar = number(Tag::PlanarConfiguration)? == Some(PlanarConfiguration::Planar.to_u16());
        let white_is_zero =
            number(Tag::PhotometricInterpretation)? == Some(PhotometricInterpretation::WhiteIsZero.to_u16());
        let is_reversed = number(Tag::FillOrder)? == Some(2);
        let formats: Option<Vec<u16>> = decoder.find_tag_unsigned_vec(Tag::SampleFormat).map_err(decoding_error)?;
        let is_natural = formats.is_none_or(|formats| formats.iter().all(|format| *format == 1));
        let is_supported = match colour {
            ColorType::Gray(1 | 2 | 4 | 8 | 16) | ColorType::GrayA(8) | ColorType::CMYK(8) => !planar,
            ColorType::Palette(1 | 2 | 4 | 8) => !planar,
            ColorType::RGB(8) | ColorType::RGBA(8) => true,
            ColorType::RGB(16) | ColorType::RGBA(16) => !planar,
            _ => false,
        };
        let extra: Option<Vec<u16>> = decoder.find_tag_unsigned_vec(Tag::ExtraSamples).map_err(decoding_error)?;
        let premultiplied = extra.as_ref().is_some_and(|extra| extra.first() == Some(&1));
        // The crate reads neither colours of their own strips beside alpha that was multiplied, nor differences beside
        // samples without a meaning, as libtiff does.
        let predictor: Option<u16> = decoder.find_tag_unsigned(Tag::Predictor).map_err(decoding_error)?;
        let has_unknown = extra.as_ref().is_some_and(|extra| extra.first() == Some(&0));
        let is_odd = planar && premultiplied || has_unknown && (planar || predictor.is_some_and(|kind| kind != 1));
        if !is_supported || !is_natural || is_reversed || is_odd {
            return Err(corrupt(format!("its samples are not supported ({colour:?}); save it as RGB of 8 bits")));
        }
        let palette = match colour {
            ColorType::Palette(_) => decoder.get_tag_u16_vec(Tag::ColorMap).map_err(decoding_error)?,
            _ => Vec::new(),
        };
        if let ColorType::Palette(bits) = colour
            && palette.len() != 3 << bits
        {
            return Err(corrupt("the length of its palette does not fit the bits of its samples"));
        }
        let premultiplied = premultiplied && matches!(colour, ColorType::RGBA(_));
        let inverted = white_is_zero && colour == ColorType::Gray(16);
        Ok(Self { colour, palette, premultiplied, inverted, planar })
    }

    /// Converts a row of samples; those of 16 bits have the high byte first.
    fn convert(&self, row: &[u8], pixels: &mut [[u8; 3]]) {
        match self.colour {
            ColorType::Gray(8) => pixels.iter_mut().zip(row).for_each(|(pixel, level)| *pixel = [*level; 3]),
            // As in Pillow, grey of 16 bits is clipped.
            ColorType::Gray(16) => pixels.iter_mut().zip(row.as_chunks::<2>().0).for_each(|(pixel, sample)| {
                let level = u16::from_be_bytes(*sample) ^ if self.inverted { u16::MAX } else { 0 };
                *pixel = [level.min(255) as u8; 3];
            }),
            ColorType::Gray(bits) => {
                let most = (1 << bits) - 1;
                pixels.iter_mut().enumerate().for_each(|(x, pixel)| *pixel = [packed(row, x, bits) * (255 / most); 3]);
            }
            ColorType::Palette(bits) => pixels.iter_mut().enumerate().for_each(|(x, pixel)| {
                let index = usize::from(packed(row, x, bits));
                *pixel = std::array::from_fn(|channel| (self.palette[(channel << bits) + index] >> 8) as u8);
            }),
            ColorType::GrayA(_) => {
                pixels.iter_mut().zip(row.as_chunks::<2>().0).for_each(|(pixel, [level, _])| *pixel = [*level; 3]);
            }
            ColorType::CMYK(_) => pixels.iter_mut().zip(row.as_chunks::<4>().0).for_each(|(pixel, [c, m, y, k])| {
                let light = 255 - k;
                *pixel = [*c, *m, *y].map(|ink| light - muldiv255(ink, light));
            }),
            colour => {
                let (samples, bytes) = (usize::from(colour.num_samples()), usize::from(colour.bit_depth() / 8));
                for (pixel, stored) in pixels.iter_mut().zip(row.chunks_exact(samples * bytes)) {
                    *pixel = std::array::from_fn(|channel| stored[channel * bytes]);
                    if self.premultiplied {
                        let alpha = u32::from(stored[3 * bytes]);
                        // Where alpha is zero, the colours are lost.
                        let divided =
                            |level: u8| (u32::from(level) * 255).checked_div(alpha).unwrap_or(0).min(255) as u8;
                        *pixel = pixel.map(divided);
                    }
                }
            }
        }
    }
}

/// The sample at `x` of a row of samples of `bits` bits.
fn packed(row: &[u8], x: usize, bits: u8) -> u8 {
    let in_byte = usize::from(8 / bits);
    let shift = 8 - bits - bits * (x % in_byte) as u8;
    row[x / in_byte] >> shift & (u8::MAX >> (8 - bits))
}

/// `a * b / 255`, rounded like Pillow's `MULDIV255`.
fn muldiv255(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// A decoder of `file`, which allocates no more than a strip or tile may take.
fn decoder(file: &[u8]) -> Result<Decoder<Cursor<&[u8]>>, Error> {
    let mut limits = Limits::default();
    limits.ifd_value_size = 1 << 20;
    limits.intermediate_buffer_size = file.len().max(MAX_CHUNK_BYTES as usize);
    limits.decoding_buffer_size = file.len().max(MAX_CHUNK_BYTES as usize);
    Ok(Decoder::new(Cursor::new(file)).map_err(decoding_error)?.with_limits(limits))
}

/// The error for a failure of the decoder.
fn decoding_error(error: TiffError) -> Error {
    match error {
        TiffError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => corrupt(CUT),
        TiffError::FormatError(TiffFormatError::InvalidDimensions(width, height)) => {
            corrupt(format!("its header says that it has {width}x{height} pixels"))
        }
        other => corrupt(other.to_string()),
    }
}

/// The error for a TIFF file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "TIFF", reason: reason.into() }
}
