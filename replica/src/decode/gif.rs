//! Decodes the first frame of GIF files to RGB, with the same pixels as Pillow. The crate `gif` decodes the frame to
//! indices of colours.

use super::{Error, ImageLimits, Picture, Pixels, check_empty, check_size};
use gif::{ColorOutput, DecodeOptions, Decoder, DecodingError, MemoryLimit};

/// Bytes for the decoder's tables and its buffer.
const OTHER_BYTES: u64 = 1 << 20;

/// The first frame of a GIF file.
struct GifFile<'file> {
    file: &'file [u8],
    /// The number of columns and rows of the image.
    size: (u32, u32),
    /// The number of pixels of the frame.
    frame_pixels: u64,
}

/// Reads the headers of a GIF file, up to its first frame.
pub(super) fn read(file: &[u8], limits: ImageLimits) -> Result<Box<dyn Picture + '_>, Error> {
    let mut decoder = decoder(file, u64::MAX)?;
    let screen = (u32::from(decoder.width()), u32::from(decoder.height()));
    let frame = decoder.next_frame_info().map_err(decoding_error)?.ok_or_else(|| corrupt("it has no image"))?;
    // As in Pillow, the image grows if the frame does not fit.
    let width = screen.0.max(u32::from(frame.left) + u32::from(frame.width));
    let height = screen.1.max(u32::from(frame.top) + u32::from(frame.height));
    let size = check_size(limits, width.into(), height.into())?;
    let frame_pixels = u64::from(frame.width) * u64::from(frame.height);
    check_empty(size, frame_pixels)?;
    Ok(Box::new(GifFile { file, size, frame_pixels }))
}

impl Picture for GifFile<'_> {
    /// Three bytes for each pixel of the image, and one for each pixel of the frame.
    fn memory_bytes(&self) -> u64 {
        3 * u64::from(self.size.0) * u64::from(self.size.1) + self.frame_pixels + OTHER_BYTES
    }

    fn dimensions(&self) -> (u32, u32) {
        self.size
    }

    fn exif(&self) -> Option<&[u8]> {
        None
    }

    fn decode(&self) -> Result<Pixels, Error> {
        let mut decoder = decoder(self.file, self.frame_pixels)?;
        let shared = colours(decoder.global_palette().unwrap_or_default());
        let frame = decoder.read_next_frame().map_err(decoding_error)?.ok_or_else(|| corrupt("it has no image"))?;
        let colours = frame.palette.as_deref().map_or(shared, colours);
        let (width, height) = self.size;
        let mut rgb = Vec::new();
        rgb.reserve_exact(3 * width as usize * height as usize);
        // Outside the frame, Pillow has the colour that stands for transparency, or else the first one.
        let empty = colours[usize::from(frame.transparent.unwrap_or(0))];
        let columns = (usize::from(frame.left), usize::from(frame.width));
        let mut rows = frame.buffer.chunks_exact(columns.1.max(1));
        for y in 0..height {
            let is_inside = y >= u32::from(frame.top) && y < u32::from(frame.top) + u32::from(frame.height);
            let row = if is_inside { rows.next().unwrap_or_default() } else { &[] };
            let left = if row.is_empty() { width as usize } else { columns.0 };
            rgb.extend(std::iter::repeat_n(empty, left).flatten());
            rgb.extend(row.iter().flat_map(|&index| colours[usize::from(index)]));
            rgb.extend(std::iter::repeat_n(empty, width as usize - left - row.len()).flatten());
        }
        Ok(Pixels { width, height, rgb })
    }
}

/// The colours of a palette. As in Pillow, an index beyond the palette is black, or a grey level if the palette has only
/// grey levels in their order.
fn colours(palette: &[u8]) -> [[u8; 3]; 256] {
    let greys = std::array::from_fn(|index| [index as u8; 3]);
    let palette = palette.as_chunks::<3>().0;
    if greys.starts_with(palette) {
        return greys;
    }
    let mut colours = [[0; 3]; 256];
    colours[..palette.len()].copy_from_slice(palette);
    colours
}

/// A decoder of `file` to indices, which allocates at most `frame_bytes` for a frame.
fn decoder(file: &[u8], frame_bytes: u64) -> Result<Decoder<&[u8]>, Error> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(std::num::NonZeroU64::new(frame_bytes).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes));
    options.allow_unknown_blocks(true);
    options.read_info(file).map_err(decoding_error)
}

/// The error for a failure of the decoder.
fn decoding_error(error: DecodingError) -> Error {
    match error {
        DecodingError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt("the file ends inside its first frame, so it was cut short")
        }
        other => corrupt(other.to_string()),
    }
}

/// The error for a GIF file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "GIF", reason: reason.into() }
}
