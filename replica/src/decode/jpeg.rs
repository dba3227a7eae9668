//! Decodes JPEG files with the crate `jpeg`.

use super::{Error, ImageLimits, Picture, Pixels};
use jpeg::JpegFile;

/// Reads the segments of a JPEG file.
pub(super) fn read(file: &[u8], limits: ImageLimits) -> Result<Box<dyn Picture + '_>, Error> {
    let error = |error| refusal(error, limits.max_pixels);
    Ok(Box::new(JpegFile::read(file, limits.max_pixels).map_err(error)?))
}

impl Picture for JpegFile<'_> {
    fn memory_bytes(&self) -> u64 {
        self.memory_bytes()
    }

    fn dimensions(&self) -> (u32, u32) {
        let (width, height) = self.size();
        (width.into(), height.into())
    }

    fn exif(&self) -> Option<&[u8]> {
        self.exif()
    }

    fn decode(&self) -> Result<Pixels, Error> {
        let (width, height) = self.size();
        let rgb = self.decode().map_err(|error| refusal(error, u64::MAX))?;
        Ok(Pixels { width: width.into(), height: height.into(), rgb })
    }
}

/// The error for a failure of the decoder. `limit` is the limit of pixels.
fn refusal(error: jpeg::Error, limit: u64) -> Error {
    match error {
        jpeg::Error::TooManyPixels { width, height } => {
            Error::TooManyPixels { width: width.into(), height: height.into(), limit }
        }
        jpeg::Error::Corrupt(reason) => Error::Corrupt { format: "JPEG", reason },
    }
}
