//! Follows the preface and the frames of an HTTP/2 connection in the bytes of the client: where header blocks begin and
//! end (RFC 9113, sections 3.4, 4.1 and 4.3). Does no I/O.

/// The first bytes of an HTTP/2 connection. `PRI` is no method of HTTP/1.1.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of a frame before its payload.
pub(super) const FRAME_HEAD_BYTES: usize = 9;

/// The kinds of frames that matter here (RFC 9113, section 6).
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const SETTINGS: u8 = 4;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// The flag of a `SETTINGS` frame that acknowledges one of the other side.
pub(super) const ACK: u8 = 1;

/// The flag of the last frame of a header block.
const END_HEADERS: u8 = 4;

/// The frame that acknowledges a `SETTINGS` frame.
pub(super) const SETTINGS_ACK: [u8; FRAME_HEAD_BYTES] = [0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0];

/// A frame that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
}

/// The place in the frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// The bytes that follow of the preface.
    preface_left: usize,
    /// The head of the present frame, as far as it has arrived.
    head: [u8; FRAME_HEAD_BYTES],
    head_length: usize,
    /// The bytes that follow of the payload.
    payload_left: usize,
    is_in_block: bool,
}

/// The length of the payload of a frame.
pub(super) fn payload_length(head: &[u8; FRAME_HEAD_BYTES]) -> usize {
    u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize
}

impl Default for Frames {
    /// Before the preface.
    fn default() -> Self {
        let head = [0; FRAME_HEAD_BYTES];
        Self { preface_left: PREFACE.len(), head, head_length: 0, payload_left: 0, is_in_block: false }
    }
}

impl Frames {
    /// Whether a header block has begun and not ended.
    pub(super) fn is_in_block(&self) -> bool {
        self.is_in_block
    }

    /// Whether the preface has not ended, or a frame has begun and not ended.
    pub(super) fn is_in_frame(&self) -> bool {
        self.preface_left > 0 || self.head_length > 0
    }

    /// Follows the next `bytes` up to the end of the preface or of the present frame. Returns the number of bytes that were followed, and the
    /// frame if it has ended.
    pub(super) fn next(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        if self.preface_left > 0 {
            let followed = bytes.len().min(self.preface_left);
            self.preface_left -= followed;
            return (followed, None);
        }
        let mut followed = 0;
        if self.head_length < FRAME_HEAD_BYTES {
            followed = bytes.len().min(FRAME_HEAD_BYTES - self.head_length);
            self.head[self.head_length..][..followed].copy_from_slice(&bytes[..followed]);
            self.head_length += followed;
            if self.head_length < FRAME_HEAD_BYTES {
                return (followed, None);
            }
            self.payload_left = payload_length(&self.head);
            // Any other frame within a block is an error, which hyper reports.
            self.is_in_block = match self.head[3] {
                HEADERS => true,
                CONTINUATION => self.is_in_block,
                _ => false,
            };
        }
        let payload = self.payload_left.min(bytes.len() - followed);
        self.payload_left -= payload;
        followed += payload;
        if self.payload_left > 0 {
            return (followed, None);
        }
        self.head_length = 0;
        let frame = Frame { kind: self.head[3], flags: self.head[4] };
        self.is_in_block &= frame.flags & END_HEADERS == 0;
        (followed, Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_and_header_blocks_are_followed_in_pieces_of_any_size() {
        let data = 0;
        // Each frame, and whether a header block is open after it.
        let frames = [
            (frame(SETTINGS, 0, &[0; 6]), false),
            (frame(HEADERS, 0, b"abc"), true),
            (frame(CONTINUATION, 0, b""), true),
            (frame(CONTINUATION, END_HEADERS, b"defgh"), false),
            // END_STREAM has the same bit as ACK.
            (frame(data, 1, &[7; 300]), false),
            (frame(HEADERS, END_HEADERS | 1, b"abc"), false),
            (frame(HEADERS, 0, b""), true),
            (frame(data, 0, b"x"), false),
            (frame(CONTINUATION, 0, b"x"), false),
        ];
        let after: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let bytes = [&PREFACE[..], &after].concat();
        for size in 1..=bytes.len() {
            let (mut followed, mut ended) = (Frames::default(), Vec::new());
            for mut piece in bytes.chunks(size) {
                while !piece.is_empty() {
                    let (count, frame) = followed.next(piece);
                    piece = &piece[count..];
                    ended.extend(frame.map(|frame| (frame, followed.is_in_block())));
                }
            }
            assert!(!followed.is_in_frame());
            let expected = frames.iter().map(|(bytes, is_open)| (Frame { kind: bytes[3], flags: bytes[4] }, *is_open));
            assert_eq!(ended, expected.collect::<Vec<_>>(), "by {size}");
        }
    }

    #[test]
    fn a_block_is_open_from_the_head_of_its_first_frame_on() {
        let mut frames = Frames::default();
        assert_eq!(frames.next(PREFACE), (PREFACE.len(), None));
        let bytes = frame(HEADERS, END_HEADERS, b"abc");
        for (at, byte) in bytes.iter().enumerate() {
            let (_, ended) = frames.next(&[*byte]);
            let is_last = at + 1 == bytes.len();
            assert_eq!((ended.is_some(), frames.is_in_frame()), (is_last, !is_last));
            assert_eq!(frames.is_in_block(), at + 1 >= FRAME_HEAD_BYTES && !is_last, "after {} bytes", at + 1);
        }
    }
}
