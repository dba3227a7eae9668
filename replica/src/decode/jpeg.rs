//! Decodes JPEG files to RGB, with exactly the pixels of libjpeg-turbo and Pillow.
//!
//! Source: ITU-T T.81. The modules below name the sections.

mod block;
mod colours;
mod huffman;
mod planes;
mod scans;
mod segments;
mod standard;

use super::{Error, ImageLimits, Pixels, check_size};
use block::ZIGZAG;
use colours::ColourSpace;
use huffman::HuffmanTables;
use planes::{Plane, Scratch};
use scans::{FrameDecoder, QuantisationTables};
use segments::{FrameHeader, Segment, Segments};

/// Most scans of a file. A scan of a few bytes may cost a pass over all blocks. Encoders write about ten scans.
const MAX_SCANS: u64 = 100;

/// Most scans of an image with the largest permitted number of pixels. A smaller image may have more scans, up to
/// [`MAX_SCANS`].
const MAX_SCANS_OF_LARGEST: u64 = 20;

/// Most bytes of tables in a file. The standard's tables take 416 bytes, so each of [`MAX_SCANS`] scans may define its
/// own tables.
const MAX_TABLE_BYTES: usize = 1 << 17;

/// Decodes a JPEG file.
pub(super) fn decode(file: &[u8], limits: ImageLimits) -> Result<Pixels, Error> {
    let FileStructure { frame, colours, segments } = FileStructure::of(file, limits)?;
    let planes = decode_planes(&segments, &frame).map_err(corrupt)?;
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let read =
        |component: usize, y: usize, scratch: &mut Scratch, row: &mut [u8]| planes[component].row(y, scratch, row);
    let rgb = colours.to_rgb(width, height, read);
    Ok(Pixels { width: frame.width.into(), height: frame.height.into(), rgb })
}

/// The error for a JPEG file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "JPEG", reason: reason.into() }
}

/// The structure of a file, which is known from the file's markers without decoding: the frame header, the colour space
/// and the other segments.
struct FileStructure<'file> {
    frame: FrameHeader,
    colours: ColourSpace,
    /// All segments except the frame header, in the order of the file.
    segments: Vec<Segment<'file>>,
}

impl<'file> FileStructure<'file> {
    /// Finds the segments of a file, and checks the numbers of pixels, scans and bytes of tables.
    fn of(file: &'file [u8], limits: ImageLimits) -> Result<Self, Error> {
        let (mut frame, mut jfif, mut adobe, mut scans, mut table_bytes) = (None, false, None, 0, 0);
        let mut segments = Vec::new();
        for segment in Segments::of(file) {
            let segment = segment.map_err(corrupt)?;
            match segment {
                Segment::Jfif => jfif = true,
                Segment::Adobe(transform) => adobe = Some(transform),
                Segment::Frame(_) if frame.is_some() => return Err(corrupt("the file has two frame headers")),
                Segment::Frame(header) => {
                    check_size(limits, header.width.into(), header.height.into())?;
                    frame = Some(header);
                    continue;
                }
                Segment::Quantisation(content) | Segment::Huffman(content) => table_bytes += content.len(),
                Segment::Scan { .. } => scans += 1,
                Segment::RestartInterval(_) | Segment::End => {}
            }
            check_counts(scans, table_bytes)?;
            segments.push(segment);
        }
        let frame =
            frame.filter(|_| scans > 0).ok_or_else(|| corrupt("the file has no image before its end marker"))?;
        check_work(scans, &frame, limits)?;
        let colours = ColourSpace::of(&frame, jfif, adobe);
        Ok(Self { frame, colours, segments })
    }
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
fn check_work(scans: u64, frame: &FrameHeader, limits: ImageLimits) -> Result<(), Error> {
    let (width, height) = (frame.width, frame.height);
    let pixels = scans * u64::from(width) * u64::from(height);
    if pixels > MAX_SCANS_OF_LARGEST.saturating_mul(limits.max_pixels) {
        let reason = format!("{scans} scans of {width}x{height} pixels are too much; save it as a baseline JPEG");
        return Err(corrupt(reason));
    }
    Ok(())
}

/// Decodes all scans. Returns the plane of each component.
fn decode_planes(segments: &[Segment<'_>], frame: &FrameHeader) -> Result<Vec<Plane>, &'static str> {
    let mut decoder = FrameDecoder::new(frame)?;
    let (mut tables, mut quantisation, mut interval) = (HuffmanTables::standard(), QuantisationTables::default(), 0);
    for segment in segments {
        match *segment {
            Segment::Quantisation(content) => define_quantisation(&mut quantisation, content)?,
            Segment::Huffman(content) => tables.define(content)?,
            Segment::RestartInterval(mcus) => interval = mcus,
            Segment::Scan { header, data } => {
                decoder.decode_scan(header, data, &tables, &quantisation, interval)?;
            }
            Segment::Frame(_) | Segment::Jfif | Segment::Adobe(_) | Segment::End => {}
        }
    }
    decoder.into_planes()
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
