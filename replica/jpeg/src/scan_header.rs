//! Parses scan headers and checks their values. Does not compare a header with earlier scans.
//!
//! Source: ITU-T T.81 section B.2.3.

use crate::segments::{Component, FrameHeader};
use std::ops::Range;

/// A scan header.
pub(crate) struct Scan {
    pub(crate) components: Vec<ScanComponent>,
    /// The indices, in zigzag order, of the coefficients that the scan codes (T.81 Ss and Se).
    pub(crate) band: Range<usize>,
    /// The number of low bits that were missing before this scan; 0 for the first scan of a band (T.81 Ah).
    pub(crate) high: u8,
    /// The number of low bits that are missing after this scan (T.81 Al).
    pub(crate) low: u8,
}

/// A component in a scan header.
#[derive(Clone, Copy)]
pub(crate) struct ScanComponent {
    /// The component's index in the frame.
    pub(crate) index: usize,
    /// The destination of the table or statistics for DC coefficients.
    pub(crate) dc: u8,
    /// The destination of the table or statistics for AC coefficients.
    pub(crate) ac: u8,
}

impl Scan {
    /// Parses the contents of a scan header.
    ///
    /// # Errors
    /// If the header is malformed. The error is a part of the message for the client.
    pub(crate) fn parse(header: &[u8], frame: &FrameHeader) -> Result<Self, &'static str> {
        const MALFORMED: &str = "a scan header is malformed";
        let [count, rest @ ..] = header else { return Err(MALFORMED) };
        let (named, rest) = rest.split_at_checked(2 * usize::from(*count)).ok_or(MALFORMED)?;
        let [first, last, approximation] = *rest else { return Err(MALFORMED) };
        let mut components: Vec<ScanComponent> = Vec::new();
        for name in named.chunks_exact(2) {
            // Two components may have the same identifier. As in libjpeg, each takes its turn.
            let is_next = |(index, component): &(usize, &Component)| {
                component.id == name[0] && components.iter().all(|other| other.index != *index)
            };
            let (index, _) = frame.components.iter().enumerate().find(is_next).ok_or(MALFORMED)?;
            components.push(ScanComponent { index, dc: name[1] >> 4, ac: name[1] & 15 });
        }
        let (first, last) = (usize::from(first), usize::from(last));
        let scan = if frame.progressive {
            Self { components, band: first..last + 1, high: approximation >> 4, low: approximation & 15 }
        } else {
            // A sequential scan has all coefficients, even if these fields have other values. libjpeg only warns of
            // them.
            Self { components, band: 0..64, high: 0, low: 0 }
        };
        let is_single = scan.components.len() == 1;
        // An interleaved MCU has at most ten blocks.
        if scan.components.is_empty() || !is_single && scan.blocks_in_mcu(frame) > 10 {
            return Err(MALFORMED);
        }
        let band = if first == 0 { last == 0 } else { is_single && first <= last && last < 64 };
        let refines = scan.high == 0 || scan.high == scan.low + 1;
        if frame.progressive && (!band || !refines || scan.low > 13) {
            return Err(MALFORMED);
        }
        Ok(scan)
    }

    /// The number of blocks of `component` in an MCU, across and down. In a scan of one component, an MCU is one block
    /// (T.81 A.2.2).
    pub(crate) fn in_mcu(&self, component: &Component) -> (usize, usize) {
        match self.components.len() {
            1 => (1, 1),
            _ => (component.across.into(), component.down.into()),
        }
    }

    /// The number of blocks of all components in an MCU.
    fn blocks_in_mcu(&self, frame: &FrameHeader) -> usize {
        let blocks = |component: &ScanComponent| {
            let (across, down) = self.in_mcu(&frame.components[component.index]);
            across * down
        };
        self.components.iter().map(blocks).sum()
    }
}
