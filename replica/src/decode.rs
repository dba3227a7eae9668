//! Decodes image files to RGB pixels, within limits. Knows image formats; knows nothing of HTTP or of models.
//!
//! The header is read first, so that an image over the limit is refused before memory is allocated for it. The pixels
//! are the same as those of Pillow's `convert("RGB")`. But Pillow paints the missing part of a damaged or incomplete
//! file grey, and this module refuses the file.

mod jpeg;
mod panics;
mod png;
mod webp;

/// A decoded image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// The number of columns.
    pub width: u32,
    /// The number of rows.
    pub height: u32,
    /// The levels `[height, width, 3]`: for each pixel, row by row, one byte each of red, green and blue.
    pub rgb: Vec<u8>,
}

/// The limits of one image.
#[derive(Debug, Clone, Copy)]
pub struct ImageLimits {
    /// Most pixels, width × height. The decoded image takes three bytes for each pixel. Decoding takes several times
    /// as much memory, depending on the format.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// 50 megapixels, which is the size of images from the largest common phone cameras. The decoded image takes 150
    /// MB.
    fn default() -> Self {
        Self { max_pixels: 50_000_000 }
    }
}

/// The reason why an image was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first bytes belong to no supported format.
    #[error("the file is not a JPEG, PNG or WebP file; send one of these formats")]
    UnknownFormat,
    /// The header announces more pixels than [`ImageLimits::max_pixels`].
    #[error("the image has {width}x{height} pixels, over the limit of {limit} pixels; send a smaller image")]
    TooManyPixels {
        /// The number of columns in the header.
        width: u64,
        /// The number of rows in the header.
        height: u64,
        /// The limit: [`ImageLimits::max_pixels`], or less for a kind of image that needs more memory for each pixel.
        limit: u64,
    },
    /// The file is truncated, corrupt, or of a kind that is not supported.
    #[error("the {format} file cannot be decoded: {reason}")]
    Corrupt {
        /// The format of the file: `JPEG`, `PNG` or `WebP`.
        format: &'static str,
        /// The defect of the file, as a part of the message.
        reason: String,
    },
}

/// Decodes a JPEG, PNG or WebP file, or the first frame of an animation. As in Pillow's `convert("RGB")`, alpha is
/// dropped, grey becomes three equal channels, and colour profiles and EXIF rotation are not applied.
///
/// # Errors
/// If the format is unknown, the image is over the limits, the file is truncated, corrupt or of an unsupported kind, or
/// the decoder panics.
pub fn decode(file: &[u8], limits: ImageLimits) -> Result<Pixels, Error> {
    type Decoder = fn(&[u8], ImageLimits) -> Result<Pixels, Error>;
    let (format, decoder): (&'static str, Decoder) = match file {
        [0xFF, 0xD8, 0xFF, ..] => ("JPEG", jpeg::decode),
        [0x89, b'P', b'N', b'G', ..] => ("PNG", png::decode),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp::decode),
        _ => return Err(Error::UnknownFormat),
    };
    // A hostile file may make a decoder panic. The panic must not end the replica, which serves other requests.
    let reason = "the decoder panicked; save the image again with another program";
    panics::catch_silently(|| decoder(file, limits))
        .unwrap_or_else(|| Err(Error::Corrupt { format, reason: reason.into() }))
}

/// Checks that an image of `width` by `height` pixels is within the limits. Returns both sides.
fn check_size(limits: ImageLimits, width: u64, height: u64) -> Result<(u32, u32), Error> {
    if width.saturating_mul(height) > limits.max_pixels {
        return Err(Error::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok((width as u32, height as u32))
}
