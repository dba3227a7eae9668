//! JPEG files → RGB, with the same pixels as libjpeg-turbo and Pillow, to the last bit.
//!
//! Source: ITU-T T.81. The modules below name its sections.

mod block;
mod colours;
mod huffman;
mod planes;
mod scans;
mod segments;
mod standard;

use super::{Error, Limits, Pixels, within};
use block::ZIGZAG;
use colours::ColourSpace;
use huffman::Tables;
use planes::{Plane, Scratch};
use scans::{FrameDecoder, QuantisationTables};
use segments::{Frame, Segment, Segments};

/// Most scans of a file. A scan of a few bytes may cost a pass over all blocks; encoders write about ten scans.
const MAX_SCANS: u64 = 100;

/// Most scans of an image with as many pixels as the limit allows. A smaller image may have more, up to [`MAX_SCANS`].
const MAX_SCANS_OF_LARGEST: u64 = 20;

/// Most bytes of tables. The standard's tables take 416 bytes, so each of [`MAX_SCANS`] scans may have tables of its
/// own.
const MAX_TABLE_BYTES: usize = 1 << 17;

/// Decodes a JPEG file.
pub(super) fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    let Outline { frame, colours, segments } = Outline::of(file, limits)?;
    let planes = decode_planes(&segments, &frame).map_err(corrupt)?;
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let read =
        |component: usize, y: usize, scratch: &mut Scratch, row: &mut [u8]| planes[component].row(y, scratch, row);
    let rgb = colours.to_rgb(width, height, read);
    Ok(Pixels { width: frame.width.into(), height: frame.height.into(), rgb })
}

/// The error of a file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "JPEG", reason: reason.into() }
}

/// A file after a look at its markers only: the frame header, the colour space and the other segments.
struct Outline<'file> {
    frame: Frame,
    colours: ColourSpace,
    /// All segments but the frame header, in the order of the file.
    segments: Vec<Segment<'file>>,
}

impl<'file> Outline<'file> {
    /// Finds the segments of a file, and checks that it keeps the limits of pixels, scans and tables.
    fn of(file: &'file [u8], limits: Limits) -> Result<Self, Error> {
        let (mut frame, mut jfif, mut adobe, mut scans, mut table_bytes) = (None, false, None, 0, 0);
        let mut segments = Vec::new();
        for segment in Segments::of(file) {
            let segment = segment.map_err(corrupt)?;
            match segment {
                Segment::Jfif => jfif = true,
                Segment::Adobe(transform) => adobe = Some(transform),
                Segment::Frame(_) if frame.is_some() => return Err(corrupt("it has two frame headers")),
                Segment::Frame(header) => {
                    within(limits, header.width.into(), header.height.into())?;
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
        let frame = frame.filter(|_| scans > 0).ok_or_else(|| corrupt("there is no image before its end marker"))?;
        check_work(scans, &frame, limits)?;
        let colours = ColourSpace::of(&frame, jfif, adobe);
        Ok(Self { frame, colours, segments })
    }
}

/// Checks the numbers of scans and of bytes of tables so far.
fn check_counts(scans: u64, table_bytes: usize) -> Result<(), Error> {
    if table_bytes > MAX_TABLE_BYTES {
        let reason = format!("it has more than {MAX_TABLE_BYTES} bytes of tables; save it as a plain JPEG");
        return Err(corrupt(reason));
    }
    if scans > MAX_SCANS {
        return Err(corrupt(format!("it has more than {MAX_SCANS} scans; save it as a plain JPEG")));
    }
    Ok(())
}

/// Checks that the scans of all pixels are no more work than a file of the most pixels may cause.
fn check_work(scans: u64, frame: &Frame, limits: Limits) -> Result<(), Error> {
    let (width, height) = (frame.width, frame.height);
    let pixels = scans * u64::from(width) * u64::from(height);
    if pixels > MAX_SCANS_OF_LARGEST.saturating_mul(limits.max_pixels) {
        let reason = format!("{scans} scans of {width}x{height} pixels are too much; save it as a plain JPEG");
        return Err(corrupt(reason));
    }
    Ok(())
}

/// Decodes all scans to the planes of the components.
fn decode_planes(segments: &[Segment<'_>], frame: &Frame) -> Result<Vec<Plane>, &'static str> {
    let mut decoder = FrameDecoder::new(frame)?;
    let (mut tables, mut quantisation, mut interval) = (Tables::standard(), QuantisationTables::default(), 0);
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

/// Reads the tables of one DQT segment (T.81 B.2.4.1).
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
