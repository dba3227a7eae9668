//! Decodes JPEG files to RGB, with exactly the pixels of libjpeg-turbo and Pillow. It is memory-safe: its only unsafe code is
//! the call of a copy of the decoder that is compiled for AVX2.
//!
//! What is decoded: baseline, extended and progressive frames of 8 bits, Huffman-coded or arithmetic-coded; grey, YCbCr,
//! RGB, CMYK and YCCK, with any sampling factors that libjpeg accepts; a progressive file without its last refinements,
//! whose low coefficients are estimated like in libjpeg-turbo 3. Bytes between segments, and after the last block of a
//! scan, are skipped.
//!
//! What is refused with a reason: lossless and hierarchical frames, 12 bits, heights that only a DNL segment gives, and
//! each file whose coded data is missing or damaged, where libjpeg paints the missing part and only warns. The number of
//! scans, segments and bytes of tables is limited, so that no file takes more time than its pixels.
//!
//! Source: ITU-T T.81. The modules below name the sections.

mod arithmetic;
mod block;
mod colours;
mod component;
mod huffman;
mod huffman_blocks;
mod planes;
mod scan_header;
mod scans;
mod segments;
mod smoothing;
mod standard;

use arithmetic::Conditioning;
use block::ZIGZAG;
use colours::ColourSpace;
use component::ComponentSize;
use huffman::HuffmanTables;
use planes::Plane;
use scans::{FrameDecoder, QuantisationTables, Tables};
use segments::{FrameHeader, Segment, Segments};

/// Most scans of a file. A scan of a few bytes may cost a pass over all blocks. Encoders write about ten scans.
const MAX_SCANS: u64 = 100;

/// Most scans of an image with the largest permitted number of pixels. A smaller image may have more scans, up to
/// [`MAX_SCANS`].
const MAX_SCANS_OF_LARGEST: u64 = 20;

/// Most bytes of tables in a file. The standard's tables take 416 bytes, so each of [`MAX_SCANS`] scans may define its
/// own tables.
const MAX_TABLE_BYTES: usize = 1 << 17;

/// Bytes for tables, rows and unstuffed data, in addition to samples and coefficients.
const OTHER_BYTES: u64 = 1 << 20;

/// The reason why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header announces more pixels than permitted.
    #[error("the image has {width}x{height} pixels, which is over the limit")]
    TooManyPixels {
        /// The number of columns in the header.
        width: u16,
        /// The number of rows in the header.
        height: u16,
    },
    /// The file is truncated, corrupt or of an unsupported kind.
    #[error("{0}")]
    Corrupt(String),
}

/// The structure of a file, which is known from the file's markers without decoding: the frame header, the colour space
/// and the other segments.
pub struct JpegFile<'file> {
    frame: FrameHeader,
    colours: ColourSpace,
    exif: Option<&'file [u8]>,
    /// All segments except the frame header, in the order of the file.
    segments: Vec<Segment<'file>>,
}

impl<'file> JpegFile<'file> {
    /// Finds the segments of a file, and checks the numbers of pixels, scans and bytes of tables. Takes no memory for
    /// pixels.
    ///
    /// # Errors
    /// If the file has more than `max_pixels` pixels, has no end marker, is malformed or is of an unsupported kind.
    pub fn read(file: &'file [u8], max_pixels: u64) -> Result<Self, Error> {
        let (mut frame, mut jfif, mut adobe, mut exif, mut scans, mut table_bytes) = (None, false, None, None, 0, 0);
        let mut segments = Vec::new();
        for segment in Segments::of(file) {
            let segment = segment.map_err(Error::Corrupt)?;
            match segment {
                Segment::Jfif => jfif = true,
                Segment::Adobe(transform) => adobe = Some(transform),
                Segment::Exif(content) => exif = exif.or(Some(content)),
                Segment::Frame(_) if frame.is_some() => return Err(corrupt("the file has two frame headers")),
                Segment::Frame(header) => {
                    let (width, height) = (header.width, header.height);
                    if u64::from(width) * u64::from(height) > max_pixels {
                        return Err(Error::TooManyPixels { width, height });
                    }
                    frame = Some(header);
                    continue;
                }
                Segment::Quantisation(content) | Segment::Huffman(content) | Segment::Arithmetic(content) => {
                    table_bytes += content.len();
                }
                Segment::Scan { .. } => scans += 1,
                Segment::RestartInterval(_) | Segment::End => {}
            }
            check_counts(scans, table_bytes)?;
            segments.push(segment);
        }
        let frame =
            frame.filter(|_| scans > 0).ok_or_else(|| corrupt("the file has no image before its end marker"))?;
        check_work(scans, &frame, max_pixels)?;
        let colours = ColourSpace::of(&frame, jfif, adobe);
        Ok(Self { frame, colours, exif, segments })
    }

    /// The number of columns and rows of pixels.
    pub fn size(&self) -> (u16, u16) {
        (self.frame.width, self.frame.height)
    }

    /// The EXIF metadata, which is a TIFF file without pixels. Its orientation is not applied.
    pub fn exif(&self) -> Option<&'file [u8]> {
        self.exif
    }

    /// Most bytes of memory that [`JpegFile::decode`] takes, the result included: one byte for each stored sample, three
    /// for each pixel, and for a progressive file two for each coefficient while the first plane is made of them. The
    /// operating system provides the memory only as far as the data of the file reaches.
    pub fn memory_bytes(&self) -> u64 {
        let stored: Vec<u64> =
            ComponentSize::of(&self.frame).0.iter().map(|size| size.stored_samples() as u64).collect();
        let samples: u64 = stored.iter().sum();
        let rgb = 3 * u64::from(self.frame.width) * u64::from(self.frame.height);
        let coefficients = if self.frame.progressive { 2 * samples + stored[0] } else { 0 };
        coefficients.max(samples + rgb) + OTHER_BYTES
    }

    /// Decodes the file to the levels `[height, width, 3]`: for each pixel, row by row, one byte each of red, green and
    /// blue.
    ///
    /// # Errors
    /// If coded data is missing or damaged, or a table or header is malformed.
    pub fn decode(&self) -> Result<Vec<u8>, Error> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
        {
            // SAFETY: the processor has these instructions.
            return unsafe { self.decode_with_avx2() };
        }
        self.decode_portably()
    }

    /// [`JpegFile::decode_portably`], compiled for processors with AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
    fn decode_with_avx2(&self) -> Result<Vec<u8>, Error> {
        self.decode_portably()
    }

    /// [`JpegFile::decode`] for any processor. This function, and each one below it that takes time, must be inlined, so
    /// that [`JpegFile::decode_with_avx2`] has a copy with vector instructions of its own.
    #[inline(always)]
    fn decode_portably(&self) -> Result<Vec<u8>, Error> {
        let planes = self.planes().map_err(corrupt)?;
        Ok(self.colours.to_rgb(self.frame.width.into(), self.frame.height.into(), &planes))
    }

    /// Decodes all scans. Returns the plane of each component.
    #[inline(always)]
    fn planes(&self) -> Result<Vec<Plane>, &'static str> {
        let mut decoder = FrameDecoder::new(&self.frame)?;
        let mut tables = Tables {
            huffman: HuffmanTables::standard(),
            conditioning: Conditioning::default(),
            quantisation: QuantisationTables::default(),
            restart_interval: 0,
        };
        for segment in &self.segments {
            match *segment {
                Segment::Quantisation(content) => define_quantisation(&mut tables.quantisation, content)?,
                Segment::Huffman(content) => tables.huffman.define(content)?,
                Segment::Arithmetic(content) => tables.conditioning.define(content)?,
                Segment::RestartInterval(mcus) => tables.restart_interval = mcus,
                Segment::Scan { header, data } => decoder.decode_scan(header, data, &tables)?,
                Segment::Frame(_) | Segment::Jfif | Segment::Adobe(_) | Segment::Exif(_) | Segment::End => {}
            }
        }
        decoder.into_planes()
    }
}

/// The error for a JPEG file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt(reason.into())
}

/// Checks the number of scans and the number of bytes of tables in the segments so far.
fn check_counts(scans: u64, table_bytes: usize) -> Result<(), Error> {
    if table_bytes > MAX_TABLE_BYTES {
        let reason = format!("the file has more than {MAX_TABLE_BYTES} bytes of tables; save it as a baseline JPEG");
        return Err(corrupt(reason));
    }
    if scans > MAX_SCANS {
        return Err(corrupt(format!("the file has more than {MAX_SCANS} scans; save it as a baseline JPEG")));
    }
    Ok(())
}

/// Checks that scans times pixels is no more than [`MAX_SCANS_OF_LARGEST`] scans of the largest permitted image.
fn check_work(scans: u64, frame: &FrameHeader, max_pixels: u64) -> Result<(), Error> {
    let (width, height) = (frame.width, frame.height);
    let pixels = scans * u64::from(width) * u64::from(height);
    if pixels > MAX_SCANS_OF_LARGEST.saturating_mul(max_pixels) {
        let reason = format!("{scans} scans of {width}x{height} pixels are too much; save it as a baseline JPEG");
        return Err(corrupt(reason));
    }
    Ok(())
}

/// Reads the quantisation tables of one DQT segment (T.81 B.2.4.1).
fn define_quantisation(quantisation: &mut QuantisationTables, mut segment: &[u8]) -> Result<(), &'static str> {
    const MALFORMED: &str = "a quantisation table is malformed";
    while let [destination, rest @ ..] = segment {
        let slot = quantisation.get_mut(usize::from(destination & 15)).ok_or(MALFORMED)?;
        let bytes = if destination >> 4 == 0 { 1 } else { 2 };
        let (factors, rest) = rest.split_at_checked(64 * bytes).ok_or(MALFORMED)?;
        let mut table = [0; 64];
        for (factor, &place) in factors.chunks_exact(bytes).zip(&ZIGZAG) {
            table[usize::from(place)] = factor.iter().fold(0, |high, &low| high << 8 | u16::from(low));
        }
        *slot = Some(table);
        segment = rest;
    }
    Ok(())
}
