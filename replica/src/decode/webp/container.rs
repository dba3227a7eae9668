//! Finds the first frame of a WebP file in its chunks. Knows nothing of the coded data but its header.
//!
//! A file is accepted or refused as by libwebp's demultiplexer. The flags in the header announce metadata and alpha, but
//! programs that remove metadata leave the flags, so a chunk that a flag announces may be missing.
//!
//! Sources: the WebP container specification (RIFF chunks), RFC 6386 section 9.1 (VP8 frame header), and the WebP
//! lossless bitstream specification section 3 (VP8L header).

/// The number of bytes of an animation frame's header (ANMF), which is before the chunks of the frame.
const ANIMATION_FRAME_HEADER: usize = 16;

/// The flag in the extended header for an animation.
const ANIMATION: u8 = 0x02;
/// The flag in the extended header for EXIF metadata. Without it, the metadata is ignored, as in Pillow.
const EXIF: u8 = 0x08;
/// The flag in the extended header for alpha. Without it, an alpha chunk is ignored.
const ALPHA: u8 = 0x10;
/// The bits in the extended header that belong to no flag.
const UNKNOWN_FLAGS: u8 = 0xc1;

/// Most chunks of a file. Each takes memory before any is reserved for the image. The animation frames of a file take two
/// or three chunks each, and only the first frame is decoded.
const MAX_CHUNKS: usize = 10_000;

/// The reason in the error message for a file with more than [`MAX_CHUNKS`] chunks.
const TOO_MANY_CHUNKS: &str = "it has more than 10000 chunks; save its first frame alone";
/// The reason in the error message for a file that ends too early.
pub(super) const CUT: &str = "the file is shorter than its header says, so it was cut short";
/// The reason in the error message for chunks that do not fit each other.
const MALFORMED: &str = "its chunks are malformed";

/// The first frame of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame<'file> {
    /// The number of columns and rows of the image.
    pub(super) canvas: (u32, u32),
    /// The column and the row of the frame's upper left pixel.
    pub(super) offset: (u32, u32),
    /// The number of columns and rows of the frame.
    pub(super) size: (u32, u32),
    /// The coded pixels.
    pub(super) coded: Coded<'file>,
    /// The EXIF metadata, if the header announces it.
    pub(super) exif: Option<&'file [u8]>,
}

/// The coded pixels of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coded<'file> {
    /// A lossy bitstream (VP8), and the contents of the alpha chunk if there is one.
    Lossy(&'file [u8], Option<&'file [u8]>),
    /// A lossless bitstream (VP8L).
    Lossless(&'file [u8]),
}

/// The number of columns and rows of a bitstream, and the bitstream.
type Still<'file> = ((u32, u32), Coded<'file>);

/// A chunk: its name and its contents.
type Chunk<'file> = (&'file [u8; 4], &'file [u8]);

/// Finds the first frame of a file.
///
/// # Errors
/// If the file is cut short or its chunks are malformed. The error is a part of the message for the client.
pub(super) fn first_frame(file: &[u8]) -> Result<Frame<'_>, &'static str> {
    let (head, rest) = file.split_at_checked(12).ok_or(CUT)?;
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    // The length counts the four bytes of the name WEBP. Bytes after the end are ignored.
    let content = rest.get(..(length as usize).checked_sub(4).ok_or(MALFORMED)?).ok_or(CUT)?;
    let chunks = chunks(content)?;
    match chunks.first() {
        Some((b"VP8 " | b"VP8L", _)) => {
            let (size, coded) = still(&chunks, true)?.ok_or(MALFORMED)?;
            Ok(Frame { canvas: size, offset: (0, 0), size, coded, exif: None })
        }
        Some((b"VP8X", [flags, _, _, _, w0, w1, w2, h0, h1, h2, ..])) if flags & UNKNOWN_FLAGS == 0 => {
            let side = |low: u8, middle: u8, high: u8| u32::from_le_bytes([low, middle, high, 0]) + 1;
            let canvas = (side(*w0, *w1, *w2), side(*h0, *h1, *h2));
            let frame = extended(&chunks[1..], canvas, flags & ANIMATION != 0, flags & ALPHA != 0)?;
            let exif = chunks.iter().find(|(name, _)| *name == b"EXIF").map(|(_, content)| *content);
            Ok(Frame { exif: exif.filter(|_| flags & EXIF != 0), ..frame })
        }
        _ => Err(MALFORMED),
    }
}

/// The chunks in `bytes`. The chunks of an animation frame follow the frame's chunk, which has only the frame's header.
fn chunks(mut bytes: &[u8]) -> Result<Vec<Chunk<'_>>, &'static str> {
    let mut chunks = Vec::new();
    while !bytes.is_empty() {
        if chunks.len() == MAX_CHUNKS {
            return Err(TOO_MANY_CHUNKS);
        }
        let (name, rest) = bytes.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let length = u32::from_le_bytes(*length) as usize;
        // One byte of padding follows a chunk of odd length.
        let padded = rest.get(..length.saturating_add(length % 2)).ok_or(MALFORMED)?;
        let content = if name == b"ANMF" { ANIMATION_FRAME_HEADER } else { length };
        chunks.push((name, padded.get(..content).ok_or(MALFORMED)?));
        bytes = &rest[if name == b"ANMF" { ANIMATION_FRAME_HEADER } else { padded.len() }..];
    }
    Ok(chunks)
}

/// The first frame of a file with an extended header. `chunks` are those after that header.
fn extended<'file>(
    chunks: &[Chunk<'file>],
    canvas: (u32, u32),
    is_animation: bool,
    has_alpha: bool,
) -> Result<Frame<'file>, &'static str> {
    if chunks.iter().any(|(name, _)| *name == b"VP8X") {
        return Err(MALFORMED);
    }
    // Whether the chunk belongs to an animation frame, whose chunks follow each other.
    let mut in_frame = false;
    for (index, (name, content)) in chunks.iter().enumerate() {
        in_frame = match *name {
            b"ANMF" => true,
            b"ALPH" | b"VP8 " | b"VP8L" => in_frame,
            _ => false,
        };
        let (offset, found) = match (*name, *content) {
            (b"ANMF", [x0, x1, x2, y0, y1, y2, ..]) => {
                let even = |low: u8, middle: u8, high: u8| 2 * u32::from_le_bytes([low, middle, high, 0]);
                let frame = still(&chunks[index + 1..], true)?;
                // Without the flag, a frame of an animation is ignored.
                ((even(*x0, *x1, *x2), even(*y0, *y1, *y2)), frame.filter(|_| is_animation))
            }
            (b"ALPH" | b"VP8 " | b"VP8L", _) if !in_frame => ((0, 0), still(&chunks[index..], has_alpha)?),
            _ => continue,
        };
        let Some((size, coded)) = found else { continue };
        let fits = |offset: u32, side: u32, canvas: u32| match is_animation {
            true => offset.checked_add(side).is_some_and(|end| end <= canvas),
            false => side == canvas,
        };
        if !fits(offset.0, size.0, canvas.0) || !fits(offset.1, size.1, canvas.1) {
            return Err("a frame does not fit its canvas");
        }
        return Ok(Frame { canvas, offset, size, coded, exif: None });
    }
    Err("it has no image")
}

/// The size and the coded pixels of an image whose chunks are the first of `chunks`: at most one of alpha, before at most
/// one of pixels. `None` if there are no pixels.
fn still<'file>(chunks: &[Chunk<'file>], has_alpha: bool) -> Result<Option<Still<'file>>, &'static str> {
    let (alpha, chunks) = match chunks {
        [(b"ALPH", alpha), rest @ ..] => (Some(*alpha), rest),
        _ => (None, chunks),
    };
    match chunks.first() {
        Some((b"VP8 ", coded)) => {
            let size = lossy_size(coded).ok_or("the header of its pixels is malformed")?;
            Ok(Some((size, Coded::Lossy(coded, alpha.filter(|_| has_alpha)))))
        }
        Some((b"VP8L", coded)) => {
            let size = lossless_size(coded).ok_or("the header of its pixels is malformed")?;
            Ok(Some((size, Coded::Lossless(coded))))
        }
        _ => Ok(None),
    }
}

/// The width and height in the header of a lossy bitstream. The frame tag has three bytes, and so has the start code. Width
/// and height follow. Each has 14 bits, below two bits for scaling.
fn lossy_size(coded: &[u8]) -> Option<(u32, u32)> {
    let [_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] = coded else { return None };
    let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Some((side(*w0, *w1), side(*h0, *h1))).filter(|(width, height)| width * height > 0)
}

/// The width and height in the header of a lossless bitstream: a byte of signature is followed by width − 1 and height − 1,
/// of 14 bits each.
fn lossless_size(coded: &[u8]) -> Option<(u32, u32)> {
    let [0x2f, a, b, c, d, ..] = coded else { return None };
    let bits = u32::from_le_bytes([*a, *b, *c, *d]);
    Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lossy bitstream of 16383×2 pixels. The upper two bits of each side are for scaling.
    const LOSSY: [u8; 11] = [0, 0, 0, 0x9d, 0x01, 0x2a, 0xff, 0xff, 0x02, 0x40, 9];

    fn chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
        let padding = vec![0; content.len() % 2];
        [name, &(content.len() as u32).to_le_bytes(), content, &padding].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        let chunks = chunks.concat();
        [b"RIFF", &(chunks.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunks].concat()
    }

    fn extended_header(flags: u8, width: u32, height: u32) -> Vec<u8> {
        let side = |side: u32| (side - 1).to_le_bytes();
        chunk(b"VP8X", &[&[flags, 0, 0, 0][..], &side(width)[..3], &side(height)[..3]].concat())
    }

    #[test]
    fn the_first_frame_is_found_whatever_the_flags_announce() {
        let lossless = [&[0x2f][..], &(299_u32 | 4 << 14).to_le_bytes()].concat();
        let (alpha, pixels) = (chunk(b"ALPH", &[0, 1]), chunk(b"VP8 ", &LOSSY));
        let still = |flags: u8, chunks: &[Vec<u8>]| file(&[&[extended_header(flags, 16383, 2)][..], chunks].concat());
        let animation_frame = [&[1, 0, 0, 2, 0, 0][..], &[0; 10], &chunk(b"VP8L", &lossless)].concat();
        let animation =
            file(&[extended_header(ANIMATION, 310, 20), chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &animation_frame)]);
        for (file, canvas, offset, coded) in [
            (file(&[chunk(b"VP8L", &lossless)]), (300, 5), (0, 0), Coded::Lossless(&lossless)),
            (still(0, std::slice::from_ref(&pixels)), (16383, 2), (0, 0), Coded::Lossy(&LOSSY, None)),
            (still(0x3e, std::slice::from_ref(&pixels)), (16383, 2), (0, 0), Coded::Lossy(&LOSSY, None)),
            (still(0, &[alpha.clone(), pixels.clone()]), (16383, 2), (0, 0), Coded::Lossy(&LOSSY, None)),
            (still(ALPHA, &[alpha, pixels]), (16383, 2), (0, 0), Coded::Lossy(&LOSSY, Some(&[0, 1]))),
            (animation, (310, 20), (2, 4), Coded::Lossless(&lossless)),
        ] {
            let frame = first_frame(&file).expect("a frame");
            assert_eq!((frame.canvas, frame.offset, frame.coded), (canvas, offset, coded));
        }
    }

    #[test]
    fn a_file_may_have_as_many_chunks_as_the_limit_says() {
        let file = |count: usize| {
            let others = vec![chunk(b"abcd", b""); count - 2];
            file(&[&[extended_header(0, 16383, 2)][..], &others, &[chunk(b"VP8 ", &LOSSY)]].concat())
        };
        assert!(first_frame(&file(MAX_CHUNKS)).is_ok());
        assert_eq!(first_frame(&file(MAX_CHUNKS + 1)), Err(TOO_MANY_CHUNKS));
        assert!(TOO_MANY_CHUNKS.contains(&MAX_CHUNKS.to_string()));
    }

    #[test]
    fn the_chunks_of_an_animation_frame_are_no_image_of_their_own() {
        let (frame, pixels) = (chunk(b"ANMF", &[0; 16]), chunk(b"VP8 ", &LOSSY));
        let (alpha, other) = (chunk(b"ALPH", &[0, 1]), chunk(b"abcd", b""));
        for (chunks, expected) in [
            (&[&frame, &alpha, &alpha, &pixels][..], false),
            (&[&frame, &other, &pixels], true),
            (&[&frame, &other, &alpha, &pixels], true),
        ] {
            let chunks: Vec<Vec<u8>> = chunks.iter().map(|chunk| (*chunk).clone()).collect();
            let file = file(&[&[extended_header(0, 16383, 2)][..], &chunks].concat());
            assert_eq!(first_frame(&file).is_ok(), expected, "{chunks:?}");
        }
    }

    #[test]
    fn malformed_files_are_refused() {
        let pixels = chunk(b"VP8 ", &LOSSY);
        for bytes in [
            b"RIFF".to_vec(),
            b"RIFF\0\0\0\0WEBP".to_vec(),
            b"RIFF\x0c\0\0\0WEBPVP8 \xff\xff\xff\xff".to_vec(),
            file(&[chunk(b"VP8 ", &LOSSY[..9])]),
            file(&[chunk(b"VP8 ", &[0, 0, 0, 0x9d, 0x01, 0x2a, 0, 0, 2, 0])]),
            file(&[extended_header(0x80, 16383, 2), pixels.clone()]),
            file(&[extended_header(0, 16383, 3), pixels.clone()]),
            file(&[extended_header(ANIMATION, 16383, 1), pixels.clone()]),
            file(&[extended_header(0, 16383, 2), chunk(b"EXIF", &[0; 4])]),
            file(&[chunk(b"VP8X", &[0; 9]), pixels]),
        ] {
            assert!(first_frame(&bytes).is_err(), "{bytes:?}");
        }
    }
}
