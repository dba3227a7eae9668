//! JPEG files → RGB, as libjpeg-turbo and Pillow have it, to the last bit.

mod block;
mod colours;
mod huffman;
mod planes;
mod scans;
mod segments;
mod standard;

use super::{Error, Limits, Pixels, within};
use block::ZIGZAG;
use colours::Colours;
use huffman::Tables;
use planes::{Plane, Scratch};
use scans::{Decoding, Quantisation};
use segments::{Frame, Segment, Segments};

/// Most scans that a file may have. Each may cost a pass over all blocks for a few bytes; encoders write about ten.
const SCANS: u64 = 100;
/// Most scans of a picture of the most pixels; a smaller one may have more, up to [`SCANS`].
const FULL_SCANS: u64 = 20;
/// Most bytes of tables. All of the standard's take 416, so each of [`SCANS`] may bring a set of its own, and more.
const TABLE_BYTES: usize = 1 << 17;

pub(super) fn decode(file: &[u8], limits: Limits) -> Result<Pixels, Error> {
    let (frame, colours, segments) = outline(file, limits)?;
    let planes = planes(&segments, &frame).map_err(defect)?;
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let rgb = colours.rgb(width, height, |channel, y, scratch: &mut Scratch, row| planes[channel].row(y, scratch, row));
    Ok(Pixels { width: frame.width.into(), height: frame.height.into(), rgb })
}

fn defect(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "JPEG", reason: reason.into() }
}

/// The frame, its colours and the other segments, once the limits are known to be kept. Looks at markers only.
fn outline(file: &[u8], limits: Limits) -> Result<(Frame, Colours, Vec<Segment<'_>>), Error> {
    let (mut found, mut jfif, mut adobe, mut scans, mut table_bytes) = (None, false, None, 0, 0);
    let mut others = Vec::new();
    for segment in Segments::of(file) {
        let segment = segment.map_err(defect)?;
        match segment {
            Segment::Jfif => jfif = true,
            Segment::Adobe(transform) => adobe = Some(transform),
            Segment::Frame(_) if found.is_some() => return Err(defect("it has two frame headers")),
            Segment::Frame(frame) => {
                within(limits, frame.width.into(), frame.height.into())?;
                found = Some(frame);
                continue;
            }
            Segment::Quantisation(content) | Segment::Huffman(content) => {
                table_bytes += content.len();
                if table_bytes > TABLE_BYTES {
                    let reason = format!("it has more than {TABLE_BYTES} bytes of tables; save it as a plain JPEG");
                    return Err(defect(reason));
                }
            }
            Segment::Scan { .. } => {
                scans += 1;
                if scans > SCANS {
                    return Err(defect(format!("it has more than {SCANS} scans; save it as a plain JPEG")));
                }
            }
            Segment::RestartInterval(_) | Segment::End => {}
        }
        others.push(segment);
    }
    let frame = found.filter(|_| scans > 0).ok_or_else(|| defect("there is no picture before its end marker"))?;
    if scans * u64::from(frame.width) * u64::from(frame.height) > FULL_SCANS.saturating_mul(limits.max_pixels) {
        let (width, height) = (frame.width, frame.height);
        return Err(defect(format!("{scans} scans of {width}x{height} pixels are too much; save it as a plain JPEG")));
    }
    let colours = Colours::of(&frame, jfif, adobe);
    Ok((frame, colours, others))
}

fn planes(segments: &[Segment<'_>], frame: &Frame) -> Result<Vec<Plane>, &'static str> {
    let mut decoding = Decoding::of(frame)?;
    let (mut tables, mut quantisation, mut interval) = (Tables::standard(), Quantisation::default(), 0);
    for segment in segments {
        match *segment {
            Segment::Quantisation(content) => define(&mut quantisation, content)?,
            Segment::Huffman(content) => tables.define(content)?,
            Segment::RestartInterval(units) => interval = units,
            Segment::Scan { header, data } => decoding.scan(header, data, &tables, &quantisation, interval)?,
            Segment::Frame(_) | Segment::Jfif | Segment::Adobe(_) | Segment::End => {}
        }
    }
    decoding.planes()
}

/// Reads one segment of quantisation tables.
fn define(quantisation: &mut Quantisation, mut segment: &[u8]) -> Result<(), &'static str> {
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
