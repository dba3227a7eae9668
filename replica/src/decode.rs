//! Decodes image files to RGB pixels, within limits. Knows image formats; knows nothing of HTTP or of models.
//!
//! [`Image::read`] reads the headers first, so that an image over the limits is refused before memory is allocated for
//! it, and the caller can wait for the memory that decoding takes. The pixels are the same as those of Pillow's
//! `convert("RGB")`. But Pillow paints the missing part of a damaged or incomplete file grey, and this module refuses
//! the file.

mod bmp;
mod gif;
mod jpeg;
pub mod memory;
mod orientation;
mod panics;
mod png;
mod tiff;
mod webp;

use orientation::Orientation;

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

/// Most columns and most rows of an image in any format. JPEG has no more, and each row costs time of its own, even if it
/// has only one pixel.
pub const MAX_SIDE: u32 = 65_535;

/// Most pixels of an animation that its first frame does not cover. They have one colour, so they take memory and time
/// without any data.
const MAX_EMPTY_PIXELS: u64 = 1 << 24;

/// The limits of images, and what is done to them.
#[derive(Debug, Clone, Copy)]
pub struct ImageLimits {
    /// Most pixels of one image, width × height. The decoded image takes three bytes for each pixel. Decoding takes up
    /// to nine, depending on the format; see [`Image::memory_bytes`].
    pub max_pixels: u64,
    /// Most bytes of memory for all images that are decoded at the same time.
    pub memory_bytes: u64,
    /// Whether images are turned and mirrored as their EXIF metadata says.
    pub orient: bool,
}

impl Default for ImageLimits {
    /// 50 megapixels, which is the size of images from the largest common phone cameras, and 512 MiB, which suffice to
    /// decode one of that size in any format.
    fn default() -> Self {
        Self { max_pixels: 50_000_000, memory_bytes: 512 << 20, orient: false }
    }
}

/// The reason why an image was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The first bytes belong to no supported format.
    #[error("the file is not a JPEG, PNG, WebP, GIF, BMP or TIFF file; send one of these formats")]
    UnknownFormat,
    /// The header announces more pixels than [`ImageLimits::max_pixels`].
    #[error("the image has {width}x{height} pixels, over the limit of {limit} pixels; send a smaller image")]
    TooManyPixels {
        /// The number of columns in the header.
        width: u64,
        /// The number of rows in the header.
        height: u64,
        /// The limit: [`ImageLimits::max_pixels`].
        limit: u64,
    },
    /// The header announces more columns or rows than [`MAX_SIDE`].
    #[error(
        "the image has {width}x{height} pixels, over the limit of {MAX_SIDE} columns or rows; send a smaller image"
    )]
    TooLong {
        /// The number of columns in the header.
        width: u64,
        /// The number of rows in the header.
        height: u64,
    },
    /// Decoding takes more memory than [`ImageLimits::memory_bytes`].
    #[error(
        "decoding this image takes {bytes} bytes of memory, over the limit of {limit} bytes; send a smaller image, or \
         one that is neither progressive nor interlaced"
    )]
    TooMuchMemory {
        /// Most bytes that decoding takes.
        bytes: u64,
        /// The limit: [`ImageLimits::memory_bytes`].
        limit: u64,
    },
    /// The file is truncated, corrupt, or of a kind that is not supported.
    #[error("the {format} file cannot be decoded: {reason}")]
    Corrupt {
        /// The format of the file: such as `JPEG`.
        format: &'static str,
        /// The defect of the file, as a part of the message.
        reason: String,
    },
}

/// A file whose headers have been read.
trait Picture {
    /// See [`Image::memory_bytes`].
    fn memory_bytes(&self) -> u64;
    /// The number of columns and rows.
    fn dimensions(&self) -> (u32, u32);
    /// The EXIF metadata.
    fn exif(&self) -> Option<&[u8]>;
    /// Decodes the pixels as they are stored.
    fn decode(&self) -> Result<Pixels, Error>;
}

/// An image file whose headers have been read, but no pixels.
pub struct Image<'file> {
    format: &'static str,
    picture: Box<dyn Picture + 'file>,
    /// The orientation to apply, if it changes anything.
    orientation: Option<Orientation>,
    /// The number of bytes of the file.
    file_bytes: u64,
}

impl<'file> Image<'file> {
    /// Reads the headers of a file. Takes no memory for pixels.
    ///
    /// # Errors
    /// If the format is unknown, the image is over the limits, the file is truncated, corrupt or of an unsupported kind,
    /// or the decoder panics.
    pub fn read(file: &'file [u8], limits: ImageLimits) -> Result<Self, Error> {
        type Reader<'file> = fn(&'file [u8], ImageLimits) -> Result<Box<dyn Picture + 'file>, Error>;
        let (format, reader): (&'static str, Reader<'file>) = match file {
            [0xFF, 0xD8, 0xFF, ..] => ("JPEG", jpeg::read),
            [0x89, b'P', b'N', b'G', ..] => ("PNG", png::read),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => ("GIF", gif::read),
            [b'B', b'M', ..] => ("BMP", bmp::read),
            [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => ("TIFF", tiff::read),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => ("WebP", webp::read),
            _ => return Err(Error::UnknownFormat),
        };
        let picture = caught(format, || reader(file, limits))?;
        let orientation = picture.exif().filter(|_| limits.orient).and_then(Orientation::of_exif);
        let image = Self { format, picture, orientation, file_bytes: file.len() as u64 };
        let (bytes, limit) = (image.memory_bytes(), limits.memory_bytes);
        if bytes > limit {
            return Err(Error::TooMuchMemory { bytes, limit });
        }
        Ok(image)
    }

    /// Most bytes of memory that [`Image::decode`] takes, the result included. A file that ends early takes less, because
    /// memory is used only as far as pixels arrive.
    pub fn memory_bytes(&self) -> u64 {
        let decoding = self.picture.memory_bytes();
        if self.orientation.is_none() {
            return decoding;
        }
        // The rest of the memory for decoding is free again before the image is turned. Turning takes the three bytes of
        // each pixel twice. Some formats keep a copy of the file.
        let (width, height) = self.picture.dimensions();
        decoding.max(6 * u64::from(width) * u64::from(height) + self.file_bytes)
    }

    /// Decodes the image, or the first frame of an animation. As in Pillow's `convert("RGB")`, alpha is dropped, grey
    /// becomes three equal channels, and colour profiles are not applied. The EXIF orientation is applied if
    /// [`ImageLimits::orient`] is set.
    ///
    /// # Errors
    /// If the file is truncated, corrupt or of an unsupported kind, or the decoder panics.
    pub fn decode(&self) -> Result<Pixels, Error> {
        let stored = caught(self.format, || self.picture.decode())?;
        Ok(match self.orientation {
            Some(orientation) => orientation.apply(&stored),
            None => stored,
        })
    }
}

/// Reads and decodes an image file; see [`Image`].
///
/// # Errors
/// See [`Image::read`] and [`Image::decode`].
pub fn decode(file: &[u8], limits: ImageLimits) -> Result<Pixels, Error> {
    Image::read(file, limits)?.decode()
}

/// Calls `body`, and turns a panic into an error. A hostile file may make a decoder panic, which must not end the
/// replica, because it serves other requests.
fn caught<T>(format: &'static str, body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let reason = "the decoder panicked; save the image again with another program";
    panics::catch_silently(body).unwrap_or_else(|| Err(Error::Corrupt { format, reason: reason.into() }))
}

/// Checks that an image of `width` by `height` pixels is within the limits. Returns both sides.
fn check_size(limits: ImageLimits, width: u64, height: u64) -> Result<(u32, u32), Error> {
    if width.saturating_mul(height) > limits.max_pixels {
        return Err(Error::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    if width.max(height) > MAX_SIDE.into() {
        return Err(Error::TooLong { width, height });
    }
    Ok((width as u32, height as u32))
}

/// Checks that the first frame of an animation, which has `frame_pixels`, leaves at most [`MAX_EMPTY_PIXELS`] of the image
/// empty.
fn check_empty((width, height): (u32, u32), frame_pixels: u64) -> Result<(), Error> {
    let limit = frame_pixels + MAX_EMPTY_PIXELS;
    if u64::from(width) * u64::from(height) > limit {
        return Err(Error::TooManyPixels { width: width.into(), height: height.into(), limit });
    }
    Ok(())
}
