//! Splits a JPEG file into its marker segments, from the start marker to the end marker. Knows where segments begin and
//! end, and parses frame headers; knows nothing of the coded data.
//!
//! Like libjpeg, this module skips bytes between segments and after the end marker, because real files have padding,
//! previews and second images there.
//!
//! Source: ITU-T T.81 annex B.

/// Most segments of a file. Profiles and previews take segments of up to 64 KiB, of which a file of 16 MiB has 256. The
/// other segments are for the few small ones before each of a hundred scans.
const MAX_SEGMENTS: usize = 10_000;

/// The codes of markers (T.81 table B.1). A marker is a byte 0xFF followed by its code.
mod marker {
    pub(super) const TEM: u8 = 0x01;
    pub(super) const SOF0: u8 = 0xC0;
    pub(super) const SOF2: u8 = 0xC2;
    pub(super) const DHT: u8 = 0xC4;
    pub(super) const SOF9: u8 = 0xC9;
    pub(super) const SOF10: u8 = 0xCA;
    pub(super) const DAC: u8 = 0xCC;
    pub(super) const SOI: u8 = 0xD8;
    pub(super) const EOI: u8 = 0xD9;
    pub(super) const SOS: u8 = 0xDA;
    pub(super) const DQT: u8 = 0xDB;
    pub(super) const DRI: u8 = 0xDD;
    pub(super) const APP0: u8 = 0xE0;
    pub(super) const APP1: u8 = 0xE1;
    pub(super) const APP14: u8 = 0xEE;
}

/// One marker segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Segment<'file> {
    /// DQT: the contents of a segment with quantisation tables.
    Quantisation(&'file [u8]),
    /// DHT: the contents of a segment with Huffman tables.
    Huffman(&'file [u8]),
    /// DAC: the contents of a segment with the conditioning of arithmetic coding.
    Arithmetic(&'file [u8]),
    /// DRI: the number of MCUs between restart markers, or 0 if there are none.
    RestartInterval(u16),
    /// SOF0, SOF1, SOF2, SOF9 or SOF10: the frame header.
    Frame(FrameHeader),
    /// SOS: a scan header and the data of the scan.
    Scan {
        /// The contents of the scan header.
        header: &'file [u8],
        /// The entropy-coded data up to the next marker, restart markers included.
        data: &'file [u8],
    },
    /// APP0 of JFIF, which says that an image of three components is YCbCr.
    Jfif,
    /// APP1 of EXIF: the contents after the name.
    Exif(&'file [u8]),
    /// APP14 of Adobe: the colour transform that the segment contains.
    Adobe(u8),
    /// EOI: the end marker.
    End,
}

/// A frame header (T.81 B.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Whether the data is arithmetic-coded (SOF9, SOF10) instead of Huffman-coded.
    pub(super) arithmetic: bool,
    /// Whether the frame is progressive (SOF2, SOF10), so that several scans may code parts of the same block.
    pub(super) progressive: bool,
    /// The number of columns of pixels.
    pub(super) width: u16,
    /// The number of rows of pixels.
    pub(super) height: u16,
    /// The components, in the order of the file: one, three or four.
    pub(super) components: Vec<Component>,
}

impl FrameHeader {
    /// The largest sampling factors of any component, across and down.
    pub(super) fn largest_factors(&self) -> (usize, usize) {
        let most = |factor: fn(&Component) -> u8| self.components.iter().map(factor).max().map_or(1, usize::from);
        (most(|component| component.across), most(|component| component.down))
    }
}

/// A component of a frame: one colour channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    /// The identifier that scan headers use.
    pub(super) id: u8,
    /// The horizontal sampling factor: the number of blocks across in an MCU, 1 to 4.
    pub(super) across: u8,
    /// The vertical sampling factor: the number of blocks down in an MCU, 1 to 4.
    pub(super) down: u8,
    /// The destination of the quantisation table.
    pub(super) quantisation: u8,
}

/// Iterates over the segments of a file, up to [`Segment::End`] or the first error. An error is a part of the message
/// for the client.
pub(super) struct Segments<'file> {
    rest: &'file [u8],
    /// The number of segments that were read so far, including skipped ones.
    count: usize,
    ended: bool,
}

impl<'file> Segments<'file> {
    /// The segments of a file that begins with a start marker.
    pub(super) fn of(file: &'file [u8]) -> Self {
        Self { rest: file.get(2..).unwrap_or_default(), count: 0, ended: false }
    }

    /// The next segment that decoding needs.
    fn read(&mut self) -> Result<Segment<'file>, String> {
        loop {
            let code = self.marker()?;
            self.count += 1;
            if self.count > MAX_SEGMENTS {
                return Err(format!("the file has more than {MAX_SEGMENTS} segments; save it without metadata"));
            }
            match code {
                marker::EOI => return Ok(Segment::End),
                marker::SOI => return Err("a second image starts inside the first".into()),
                // TEM has no contents, and decoders ignore it.
                marker::TEM => continue,
                0x02..=0xBF => return Err(format!("the marker 0xFF{code:02X} is reserved, so the file is damaged")),
                _ => {}
            }
            let content = self.content()?;
            match (code, content) {
                (marker::DQT, _) => return Ok(Segment::Quantisation(content)),
                (marker::DHT, _) => return Ok(Segment::Huffman(content)),
                (marker::DRI, [high, low]) => return Ok(Segment::RestartInterval(u16::from_be_bytes([*high, *low]))),
                (marker::DRI, _) => return Err("the restart interval is malformed".into()),
                (marker::DAC, _) => return Ok(Segment::Arithmetic(content)),
                (marker::SOF0..=marker::SOF2 | marker::SOF9 | marker::SOF10, _) => {
                    return frame(code, content).map(Segment::Frame);
                }
                // The other frame headers are not supported.
                (0xC3 | 0xC5..=0xC7 | 0xCB | 0xCD..=0xCF, _) => return Err(unsupported(code)),
                (marker::SOS, _) => {
                    let length = position(self.rest, is_marker).unwrap_or(self.rest.len());
                    let (data, rest) = self.rest.split_at(length);
                    self.rest = rest;
                    return Ok(Segment::Scan { header: content, data });
                }
                (marker::APP0, [b'J', b'F', b'I', b'F', 0, _, _, _, _, _, _, _, _, _, ..]) => return Ok(Segment::Jfif),
                (marker::APP1, [b'E', b'x', b'i', b'f', 0, 0, exif @ ..]) => return Ok(Segment::Exif(exif)),
                (marker::APP14, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => {
                    return Ok(Segment::Adobe(*transform));
                }
                _ => {}
            }
        }
    }

    /// The code of the next marker. Bytes before the marker are skipped.
    fn marker(&mut self) -> Result<u8, String> {
        let at = position(self.rest, is_marker).ok_or("the file ends before its end marker, so it was cut short")?;
        let marker = self.rest[at + 1];
        self.rest = &self.rest[at + 2..];
        Ok(marker)
    }

    /// The contents of the segment whose marker was read last. The length of the segment is before the contents.
    fn content(&mut self) -> Result<&'file [u8], String> {
        let cut = "the file ends inside a segment, so it was cut short";
        let (length, rest) = self.rest.split_first_chunk::<2>().ok_or(cut)?;
        let length = usize::from(u16::from_be_bytes(*length)).checked_sub(2).ok_or("a segment's length is below 2")?;
        let (content, rest) = rest.split_at_checked(length).ok_or(cut)?;
        self.rest = rest;
        Ok(content)
    }
}

impl<'file> Iterator for Segments<'file> {
    type Item = Result<Segment<'file>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let segment = self.read();
        self.ended = matches!(segment, Ok(Segment::End) | Err(_));
        Some(segment)
    }
}

/// The index of the first byte 0xFF whose next byte satisfies `predicate`.
#[inline(always)]
pub(super) fn position(bytes: &[u8], predicate: impl Fn(u8) -> bool) -> Option<usize> {
    let found = |(&byte, &next): (&u8, &u8)| (byte == 0xFF) & predicate(next);
    // Chunks of 64 bytes are tested without a branch for each byte. Otherwise a hostile file full of 0xFF would take
    // long.
    let next = bytes.get(1..)?;
    let chunks = bytes.as_chunks::<64>().0.iter().zip(next.as_chunks::<64>().0);
    let none =
        |(bytes, next): &(&[u8; 64], &[u8; 64])| !bytes.iter().zip(*next).fold(false, |any, pair| any | found(pair));
    let from = 64 * chunks.take_while(none).count();
    bytes[from..].iter().zip(&next[from..]).position(found).map(|at| from + at)
}

/// Whether 0xFF followed by `byte` is a marker that ends coded data. A stuffed zero, a fill byte and a restart marker
/// do not end coded data. Between segments, they are skipped, too.
fn is_marker(byte: u8) -> bool {
    (byte != 0) & (byte != 0xFF) & (byte & 0xF8 != 0xD0)
}

/// Parses the contents of the frame header with the marker `code`.
fn frame(code: u8, content: &[u8]) -> Result<FrameHeader, String> {
    let [precision, h0, h1, w0, w1, count, components @ ..] = content else {
        return Err("the frame header is too short".into());
    };
    if *precision != 8 {
        return Err(format!("it has {precision} bits per sample; send a JPEG file with 8"));
    }
    let (height, width) = (u16::from_be_bytes([*h0, *h1]), u16::from_be_bytes([*w0, *w1]));
    if height == 0 || width == 0 {
        return Err(format!("its header says that it has {width}x{height} pixels"));
    }
    if !matches!(count, 1 | 3 | 4) {
        return Err(format!("it has {count} colour channels; send a JPEG file with 1, 3 or 4"));
    }
    if components.len() != 3 * usize::from(*count) {
        return Err("the length of the frame header does not fit its number of colour channels".into());
    }
    let mut components: Vec<Component> = components
        .chunks_exact(3)
        .map(|c| Component { id: c[0], across: c[1] >> 4, down: c[1] & 15, quantisation: c[2] })
        .collect();
    if components.iter().any(|c| !(1..=4).contains(&c.across) || !(1..=4).contains(&c.down)) {
        return Err("a sampling factor is not between 1 and 4".into());
    }
    // A single component is not subsampled, even if its factors are above 1.
    if let [only] = &mut components[..] {
        (only.across, only.down) = (1, 1);
    }
    let (arithmetic, progressive) = (code >= marker::SOF9, matches!(code, marker::SOF2 | marker::SOF10));
    Ok(FrameHeader { arithmetic, progressive, width, height, components })
}

/// The error for a frame whose kind is not supported. `marker` is the code of its header.
fn unsupported(marker: u8) -> String {
    let kind = match marker {
        0xC3 | 0xCB => "lossless",
        _ => "hierarchical",
    };
    format!("{kind} JPEG is not supported; send a baseline or progressive JPEG file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(file: &[u8]) -> Vec<Result<Segment<'_>, String>> {
        Segments::of(file).collect()
    }

    #[test]
    fn padding_between_segments_and_data_after_the_end_are_skipped() {
        let file = b"\xff\xd8junk\xff\xff\xff\xdd\0\x04\0\x07\0\xff\0\xff\xd9\xff\xdd\0";
        assert_eq!(all(file), [Ok(Segment::RestartInterval(7)), Ok(Segment::End)]);
    }

    #[test]
    fn the_data_of_a_scan_ends_at_the_next_marker_that_is_no_restart_marker() {
        let file = b"\xff\xd8\xff\xda\0\x03h12\xff\0\xff\xff\xd34\xff\xff\xd9";
        let scan = Segment::Scan { header: b"h", data: b"12\xff\0\xff\xff\xd34\xff" };
        assert_eq!(all(file), [Ok(scan), Ok(Segment::End)]);
    }

    #[test]
    fn a_marker_is_found_at_every_position() {
        for before in 0..200 {
            for filler in [&[7][..], &[0xFF, 0], &[0xFF], &[0xFF, 0xD5]] {
                let filled: Vec<u8> = filler.iter().copied().cycle().take(before).collect();
                let marked = [&filled[..], &[0xFF, 0xD9, 0xFF, 0xDA, 1]].concat();
                assert_eq!(position(&marked, is_marker), Some(before), "{before} bytes of {filler:?}");
                assert_eq!(position(&filled, is_marker), None, "{before} bytes of {filler:?}");
            }
        }
    }

    #[test]
    fn an_invalid_file_is_refused_with_a_reason() {
        for (file, reason) in [
            (&b"\xff\xd8"[..], "cut short"),
            (b"\xff\xd8\xff\xff", "cut short"),
            (b"\xff\xd8\xff\xdb\0", "cut short"),
            (b"\xff\xd8\xff\xdb\0\x09ab", "cut short"),
            (b"\xff\xd8\xff\xdb\0\x01", "below 2"),
            (b"\xff\xd8\xff\xd8", "second image"),
            (b"\xff\xd8\xff\x05", "reserved"),
            (b"\xff\xd8\xff\xc9\0\x02", "frame header is too short"),
            (b"\xff\xd8\xff\xcd\0\x02", "hierarchical"),
            (b"\xff\xd8\xff\xc3\0\x02", "lossless"),
            (b"\xff\xd8\xff\xc0\0\x0b\x0c\0\x01\0\x01\x01\x01\x11\0", "12 bits"),
            (b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\x01\x01\x01\x11\0", "1x0 pixels"),
            (b"\xff\xd8\xff\xc0\0\x0e\x08\0\x01\0\x01\x02\x01\x11\0\x02\x11\0", "2 colour channels"),
            (b"\xff\xd8\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x51\0", "sampling factor"),
        ] {
            match &all(file)[..] {
                [Err(found)] => assert!(found.contains(reason), "{found:?} instead of {reason:?}"),
                other => panic!("{other:?} instead of {reason:?}"),
            }
        }
    }
}
