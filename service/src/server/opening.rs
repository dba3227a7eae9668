//! The beginning of an HTTP/2 connection, up to the end of the first header block, which the server follows in the place
//! of hyper. Does no I/O.

use super::frames::{
    ACK, FRAME_HEAD_BYTES, Frames, PREFACE, PRIORITY, SETTINGS, SETTINGS_ACK, WINDOW_UPDATE, payload_length,
};
use bytes::{Buf, Bytes};
use std::io::{Error, ErrorKind, Result};

/// A connection whose client has not yet sent a whole header block.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// The bytes of the client that were followed.
    pub(super) followed: usize,
    /// The place in the preface and the frames.
    pub(super) frames: Frames,
    /// The client's settings that were acknowledged.
    pub(super) acknowledgements: usize,
}

impl Opening {
    /// Follows `bytes`, which are all bytes of the client so far. Appends the acknowledgements of its settings to `unsent`.
    /// Returns whether hyper should continue: after a header block, and before any frame that only hyper can answer.
    pub(super) fn follow(&mut self, bytes: &[u8], unsent: &mut Vec<u8>) -> bool {
        let known = bytes.len().min(PREFACE.len());
        if self.followed < PREFACE.len() && bytes[..known] != PREFACE[..known] {
            return true;
        }
        while self.followed < bytes.len() {
            let (followed, frame) = self.frames.next(&bytes[self.followed..]);
            self.followed += followed;
            match frame {
                Some(frame) if frame.kind == SETTINGS => {
                    if frame.flags & ACK == 0 {
                        unsent.extend_from_slice(&SETTINGS_ACK);
                        self.acknowledgements += 1;
                    }
                }
                Some(frame) if matches!(frame.kind, WINDOW_UPDATE | PRIORITY) => {}
                Some(_) if !self.frames.is_in_block() => return true,
                Some(_) | None => {}
            }
        }
        false
    }

    /// Whether the preface, a frame or a header block has begun and not ended.
    pub(super) fn is_partial(&self) -> bool {
        self.frames.is_in_frame() || self.frames.is_in_block()
    }
}

/// The frames that hyper writes although they were sent in its place: its settings, and the acknowledgements of the
/// client's settings.
#[derive(Debug)]
pub(super) struct Repeated {
    /// The rest of the settings.
    settings: Bytes,
    acknowledgements: usize,
    /// The bytes that follow of a frame of another kind.
    other_left: usize,
}

/// What becomes of the next bytes that hyper writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// This many bytes are thrown away.
    Dropped(usize),
    /// At most this many bytes are sent.
    Sent(usize),
    /// All bytes are sent from now on.
    All,
}

impl Repeated {
    /// hyper writes `settings` first, and later `acknowledgements` frames that acknowledge settings.
    pub(super) fn new(settings: Bytes, acknowledgements: usize) -> Self {
        Self { settings, acknowledgements, other_left: 0 }
    }

    /// What becomes of `bytes`, the next ones that hyper writes.
    ///
    /// # Errors
    /// If hyper writes other settings, or a part of a frame's head.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Written> {
        let count = bytes.len().min(self.settings.len());
        if count > 0 {
            if bytes[..count] != self.settings[..count] {
                return Err(Error::new(
                    ErrorKind::InvalidData,
                    "hyper has other settings for HTTP/2 than at the start",
                ));
            }
            self.settings.advance(count);
            return Ok(Written::Dropped(count));
        }
        if self.acknowledgements == 0 {
            return Ok(Written::All);
        }
        if self.other_left == 0 && !bytes.is_empty() {
            let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() else {
                return Err(Error::new(ErrorKind::InvalidData, "hyper writes a part of the head of a frame"));
            };
            if *head == SETTINGS_ACK {
                self.acknowledgements -= 1;
                return Ok(Written::Dropped(head.len()));
            }
            self.other_left = head.len() + payload_length(head);
        }
        Ok(Written::Sent(bytes.len().min(self.other_left)))
    }

    /// Records that the first `count` of the bytes were sent.
    pub(super) fn sent(&mut self, count: usize) {
        self.other_left -= count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    /// Follows `bytes` as they arrive in pieces of `size`. Returns the number of bytes with which hyper continues, the
    /// number of acknowledgements, and whether something is incomplete at the end.
    fn follow(bytes: &[u8], size: usize) -> (Option<usize>, usize, bool) {
        let (mut opening, mut unsent, mut arrived) = (Opening::default(), Vec::new(), 0);
        let mut continued = None;
        while arrived < bytes.len() && continued.is_none() {
            arrived = (arrived + size).min(bytes.len());
            continued = opening.follow(&bytes[..arrived], &mut unsent).then_some(opening.followed);
        }
        assert_eq!(unsent, SETTINGS_ACK.repeat(opening.acknowledgements));
        (continued, opening.acknowledgements, opening.is_partial())
    }

    #[test]
    fn hyper_continues_after_a_header_block_and_before_frames_that_it_answers() {
        const END_HEADERS: u8 = 4;
        let (headers, continuation, ping) = (1, 9, 6);
        let opened = [&PREFACE[..], &frame(SETTINGS, 0, &[0; 6])].concat();
        let more = [frame(SETTINGS, ACK, &[]), frame(WINDOW_UPDATE, 0, &[1; 4]), frame(PRIORITY, 0, &[0; 5])].concat();
        let open_block = [&opened[..], &more, &frame(headers, 0, b"abc"), &frame(continuation, 0, b"d")].concat();
        let block = [&open_block[..], &frame(continuation, END_HEADERS, b"e")].concat();
        for (name, bytes, expected) in [
            ("a part of the preface", PREFACE[..9].to_vec(), (None, 0, true)),
            ("the preface", PREFACE.to_vec(), (None, 0, false)),
            ("settings", opened.clone(), (None, 1, false)),
            ("a part of a frame", [&opened[..], &[0, 0]].concat(), (None, 1, true)),
            ("settings again", [&opened[..], &more, &frame(SETTINGS, 0, &[])].concat(), (None, 2, false)),
            ("a part of a block", open_block, (None, 1, true)),
            ("a block", block.clone(), (Some(block.len()), 1, false)),
            ("a ping", [&opened[..], &frame(ping, 0, &[0; 8])].concat(), (Some(opened.len() + 17), 1, false)),
        ] {
            for size in 1..=bytes.len() {
                assert_eq!(follow(&bytes, size), expected, "{name} by {size}");
            }
        }
        assert!(Opening::default().follow(b"PRI * HTTP/3", &mut Vec::new()), "hyper reports another preface");
    }

    #[test]
    fn frames_that_were_sent_before_are_not_sent_again() {
        let settings = frame(SETTINGS, 0, &[7; 12]);
        let (update, answer) = (frame(WINDOW_UPDATE, 0, &[1; 4]), frame(1, 4, b"answer"));
        let bytes = [&settings[..], &update, &SETTINGS_ACK, &answer, &SETTINGS_ACK, &answer, &SETTINGS_ACK].concat();
        let expected = [&update[..], &answer, &answer, &SETTINGS_ACK].concat();
        for most in [1, 9, 20, 1000] {
            let (mut repeated, mut sent, mut rest) =
                (Repeated::new(settings.clone().into(), 2), Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                let count = match repeated.next(rest).expect("hyper writes what was sent") {
                    Written::Dropped(count) => {
                        rest = &rest[count..];
                        continue;
                    }
                    Written::Sent(count) => {
                        let count = count.min(most);
                        repeated.sent(count);
                        count
                    }
                    Written::All => rest.len(),
                };
                sent.extend_from_slice(&rest[..count]);
                rest = &rest[count..];
            }
            assert_eq!(sent, expected, "{most} bytes at once");
        }
        assert!(Repeated::new(settings.into(), 0).next(&update).is_err());
    }
}
