//! Encoded files → RGB pixels, within limits. Knows formats; knows nothing of HTTP or of models.
//!
//! The header is read first, so that an image over the limit is refused before memory is allocated for it. The pixels
//! are those of Pillow's `convert("RGB")`, including its peculiarities. But a damaged or incomplete file is refused,
//! where Pillow paints the missing part grey.

mod jpeg;
mod panics;
mod png;
mod webp;

/// A decoded image: `[height, width, 3]`, red, green and blue of 8 bits each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Columns of pixels.
    pub width: u32,
    /// Rows of pixels.
    pub height: u32,
    /// `3 * width * height` bytes.
    pub rgb: Vec<u8>,
}

/// The limits of one image.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most pixels, width × height. Decoding takes three bytes for each pixel, and four more for an interlaced PNG or a
    /// WebP file with alpha, six more for a progressive JPEG.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 50 megapixels, the size of the largest common phone cameras: 150 MB as RGB of 8 bits.
    fn default() -> Self {
        Self { max_pixels: 50_000_000 }
    }
}

/// Why an image was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first bytes are those of no supported format.
    #[error("not a JPEG, PNG or WebP file")]
    UnknownFormat,
    /// The header announces more pixels than [`Limits::max_pixels`].
    #[error("{width}x{height} pixels are over the limit of {limit} pixels; send a smaller image")]
    TooManyPixels {
        /// Columns in the header.
        width: u64,
        /// Rows in the header.
        height: u64,
        /// [`Limits::max_pixels`], or less for a kind of image that needs more memory for each pixel.
        limit: u64,
    },
    /// The file is truncated, corrupt, or of a kind that is not supported.
    #[error("the {format} file cannot be decoded: {reason}")]
    Corrupt {
        /// `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// What is wrong with the file.
        reason: String,
    },
}

/// Decodes a JPEG, PNG or WebP file; of an animation, the first frame. As with `PIL.Image.convert("RGB")`, alpha is
/// dropped, grey becomes three equal channels, and colour profiles and EXIF rotation are not applied.
///
/// # Errors
/// When the format is unknown, the image is over the limits, or the file is truncated, corrupt or of an unsupported
/// kind. A panic of a decoder is an error, too.
pub fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    type Decoder = fn(&[u8], Limits) -> Result<Pixels, Error>;
    let (format, decoder): (&'static str, Decoder) = match file {
        [0xFF, 0xD8, 0xFF, ..] => ("JPEG", jpeg::decode),
        [0x89, b'P', b'N', b'G', ..] => ("PNG", png::decode),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp::decode),
        _ => return Err(Error::UnknownFormat),
    };
    // Decoders parse hostile input, and two of them are third-party code. A panic must fail only this request.
    let gave_up = || Err(Error::Corrupt { format, reason: "the decoder gave up".into() });
    panics::catch_silently(|| decoder(file, limits)).unwrap_or_else(gave_up)
}

/// Checks the number of pixels.
fn within(limits: Limits, width: u64, height: u64) -> Result<(u32, u32), Error> {
    if width.saturating_mul(height) > limits.max_pixels {
        return Err(Error::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok((width as u32, height as u32))
}
