//! Encoded bytes → RGB pixels, within limits. Knows formats; knows nothing of HTTP or of models.
//!
//! The header is read first, so that a picture over the limit is refused before anything is allocated for it. What
//! Pillow's `convert("RGB")` makes of a file is the measure, down to its oddities; but a file that is damaged or
//! incomplete is refused even where Pillow paints over the hole.

mod jpeg;
mod png;
mod quiet;
mod webp;

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
    /// Width × height at most. Decoding takes three bytes for each of them, an interlaced PNG or a WebP file with
    /// alpha four more, a progressive JPEG six more.
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
        /// [`Limits::max_pixels`], or less for a kind that takes more for each pixel.
        limit: u64,
    },
    /// Truncated, corrupt, or of a kind that the decoder lacks.
    #[error("the {format} file cannot be decoded: {reason}")]
    Corrupt {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Decodes a JPEG, PNG or WebP file; of an animation, the first frame. Alpha is dropped, grey becomes three equal
/// channels, colour profiles and EXIF rotation are not applied: as `PIL.Image.convert("RGB")` does.
///
/// # Errors
/// See [`Error`]. A truncated file is an error, and so is a decoder's panic.
pub fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    type Decoder = fn(&[u8], Limits) -> Result<Pixels, Error>;
    let (format, decoder): (&'static str, Decoder) = match file {
        [0xFF, 0xD8, 0xFF, ..] => ("JPEG", jpeg::decode),
        [0x89, b'P', b'N', b'G', ..] => ("PNG", png::decode),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp::decode),
        _ => return Err(Error::UnknownFormat),
    };
    // The decoders are third-party parsers of hostile input: a panic costs this request, never the process.
    let gave_up = || Err(Error::Corrupt { format, reason: "the decoder gave up".into() });
    quiet::catch(|| decoder(file, limits)).unwrap_or_else(gave_up)
}

fn within(limits: Limits, width: u64, height: u64) -> Result<(u32, u32), Error> {
    if width.saturating_mul(height) > limits.max_pixels {
        return Err(Error::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok((width as u32, height as u32))
}
