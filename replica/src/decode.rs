//! Encoded bytes → RGB pixels, within limits. Knows formats; knows nothing of HTTP or of models.
//!
//! The header is read first, so that a picture over the limit is refused before anything is allocated for it.

mod webp;

use image::{DynamicImage, ImageDecoder, Limits as ImageLimits, codecs::png::PngDecoder, codecs::webp::WebPDecoder};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

/// Decoded picture: `height` rows of `width` pixels of red, green and blue, 8 bits each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

/// What one picture may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Width × height at most; decoded, in whatever depth, four bytes for each of them at most.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 50 megapixels: the largest common phone camera, 150 MB as 8-bit RGB.
    fn default() -> Self {
        Self { max_pixels: 50_000_000 }
    }
}

/// Why a picture was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first bytes belong to no format that is decoded here.
    #[error("not a JPEG, PNG or WebP file")]
    UnknownFormat,
    /// The header promises more than [`Limits::max_pixels`].
    #[error("{width}x{height} pixels are over the limit of {limit} pixels; send a smaller picture")]
    TooManyPixels {
        /// Columns that the header names.
        width: u64,
        /// Rows that the header names.
        height: u64,
        /// [`Limits::max_pixels`].
        limit: u64,
    },
    /// Truncated, corrupt, or of a kind that the decoder lacks.
    #[error("the {format} file cannot be decoded: {reason}")]
    Corrupt {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
}

/// Decodes a JPEG, PNG or WebP file. Alpha is dropped, grey becomes three equal channels, EXIF rotation is not
/// applied: as `PIL.Image.convert("RGB")` does.
///
/// # Errors
/// See [`Error`]. A truncated file is an error, and so is a decoder's panic.
pub fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    type Decoder = fn(&[u8], Limits) -> Result<Pixels, Error>;
    let (format, decoder): (&'static str, Decoder) = match file {
        [0xFF, 0xD8, 0xFF, ..] => ("JPEG", jpeg),
        [0x89, b'P', b'N', b'G', ..] => ("PNG", png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp),
        _ => return Err(Error::UnknownFormat),
    };
    // The decoders are third-party parsers of hostile input: a panic costs this request, never the process.
    catch_unwind(AssertUnwindSafe(|| decoder(file, limits)))
        .unwrap_or_else(|_| Err(Error::Corrupt { format, reason: "the decoder gave up".into() }))
}

fn jpeg(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    let corrupt = |reason: &dyn std::fmt::Debug| Error::Corrupt { format: "JPEG", reason: format!("{reason:?}") };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(|error| corrupt(&error))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| corrupt(&"no frame header"))?;
    let (width, height) = within(limits, width as u64, height as u64)?;
    let rgb = decoder.decode().map_err(|error| corrupt(&error))?;
    if rgb.len() as u64 != 3 * u64::from(width) * u64::from(height) {
        return Err(corrupt(&"the picture is not three channels of 8 bits"));
    }
    Ok(Pixels { width, height, rgb })
}

fn png(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    // The library's own allocation limit covers what precedes the pixels, such as compressed text.
    let mut allocation = ImageLimits::default();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(8));
    with_image("PNG", PngDecoder::with_limits(Cursor::new(file), allocation), limits)
}

fn webp(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    // The decoder compares a frame with the canvas only after it has decoded the frame.
    for (width, height) in webp::frame_sizes(file) {
        within(limits, width.into(), height.into())?;
    }
    with_image("WebP", WebPDecoder::new(Cursor::new(file)), limits)
}

fn with_image<D: ImageDecoder>(
    format: &'static str,
    decoder: image::ImageResult<D>,
    limits: Limits,
) -> Result<Pixels, Error> {
    let corrupt = |error: image::ImageError| Error::Corrupt { format, reason: error.to_string() };
    let decoder = decoder.map_err(corrupt)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = within(limits, width.into(), height.into())?;
    // Four channels of 16 bits take twice as much as any common picture of the same size.
    if decoder.total_bytes() > limits.max_pixels.saturating_mul(4) {
        return Err(Error::TooManyPixels { width: width.into(), height: height.into(), limit: limits.max_pixels / 2 });
    }
    let rgb = DynamicImage::from_decoder(decoder).map_err(corrupt)?.into_rgb8().into_raw();
    Ok(Pixels { width, height, rgb })
}

fn within(limits: Limits, width: u64, height: u64) -> Result<(u32, u32), Error> {
    if width.saturating_mul(height) > limits.max_pixels {
        return Err(Error::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok((width as u32, height as u32))
}
