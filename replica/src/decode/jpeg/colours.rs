//! How a JPEG file's channels become red, green and blue. Knows nothing of coding.
//!
//! Source: libjpeg's `default_decompress_parms` (which colours a file has) and `ycck_cmyk_convert`; Pillow's
//! `JpegImagePlugin` (four channels are always taken as inverted) and `cmyk2rgb`.

use super::segments::Frame;

/// What a file's channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colours {
    /// One channel.
    Grey,
    /// Luma and two of chroma.
    Ycc,
    /// Red, green and blue.
    Rgb,
    /// Inverted ink: cyan, magenta, yellow, black.
    Cmyk,
    /// Inverted ink, the first three as luma and chroma.
    Ycck,
}

impl Colours {
    /// From a frame, whether it follows a JFIF header, and the Adobe marker's transform if there is one.
    pub(super) fn of(frame: &Frame, jfif: bool, adobe: Option<u8>) -> Self {
        let ids: Vec<u8> = frame.components.iter().map(|component| component.id).collect();
        match (&ids[..], adobe) {
            ([_], _) => Self::Grey,
            ([_, _, _], _) if jfif => Self::Ycc,
            ([_, _, _], Some(0)) => Self::Rgb,
            ([_, _, _], Some(_)) => Self::Ycc,
            ([b'R', b'G', b'B'], None) => Self::Rgb,
            ([_, _, _], None) => Self::Ycc,
            (_, None | Some(0)) => Self::Cmyk,
            (_, Some(_)) => Self::Ycck,
        }
    }

    fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::Ycc | Self::Rgb => 3,
            Self::Cmyk | Self::Ycck => 4,
        }
    }

    /// A whole picture; `read` gives one row of one channel.
    pub(super) fn rgb<Scratch: Default>(
        self,
        width: usize,
        height: usize,
        read: impl Fn(usize, usize, &mut Scratch, &mut [u8]),
    ) -> Vec<u8> {
        let mut rgb = vec![0; 3 * width * height];
        let mut rows: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; width]);
        let mut scratch = Scratch::default();
        for (y, pixels) in rgb.chunks_exact_mut(3 * width).enumerate() {
            for (channel, row) in rows.iter_mut().enumerate().take(self.channels()) {
                read(channel, y, &mut scratch, row);
            }
            self.convert(&mut rows, pixels);
        }
        rgb
    }

    /// Red, green and blue take their sources' places first: rows of one colour each are converted several at once.
    fn convert(self, [a, b, c, d]: &mut [Vec<u8>; 4], rgb: &mut [u8]) {
        if matches!(self, Self::Ycc | Self::Ycck) {
            for ((a, b), c) in a.iter_mut().zip(&mut *b).zip(&mut *c) {
                [*a, *b, *c] = from_ycc(*a, *b, *c);
            }
        }
        let three = rgb.as_chunks_mut::<3>().0.iter_mut().zip(a.iter().zip(b).zip(c));
        match self {
            Self::Grey => three.for_each(|(pixel, ((a, _), _))| *pixel = [*a; 3]),
            Self::Ycc | Self::Rgb => three.for_each(|(pixel, ((a, b), c))| *pixel = [*a, *b, *c]),
            Self::Cmyk => three.zip(d).for_each(|((pixel, ((a, b), c)), d)| *pixel = from_ink([*a, *b, *c], *d)),
            // libjpeg takes what luma and chroma make for light, and ink for its opposite.
            Self::Ycck => {
                three.zip(d).for_each(|((pixel, ((a, b), c)), d)| *pixel = from_ink([255 - *a, 255 - *b, 255 - *c], *d))
            }
        }
    }
}

/// Inverted ink on inverted black, Pillow's way round: 255 less the ink's share of what black leaves.
fn from_ink(ink: [u8; 3], light: u8) -> [u8; 3] {
    ink.map(|channel| light - times(255 - channel, light))
}

/// `a * b / 255`, rounded, as Pillow's `MULDIV255`.
fn times(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// Source: libjpeg's `build_ycc_rgb_table`: 16 bits of fraction, each part rounded where libjpeg rounds it.
#[inline(always)]
fn from_ycc(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (luma, blue, red) = (i32::from(luma), i16::from(blue) - 128, i16::from(red) - 128);
    // Whole multiples of 65536 are taken out of the factors: processors multiply 16 bits by 16 bits best.
    let times = |number: i16, factor: i16| i32::from(number) * i32::from(factor);
    let (wide_blue, wide_red) = (i32::from(blue), i32::from(red));
    let level = |value: i32| value.clamp(0, 255) as u8;
    [
        level(luma + wide_red + ((times(red, 26_345) + HALF) >> 16)),
        level(luma - wide_red + ((times(red, 18_734) + times(blue, -22_554) + HALF) >> 16)),
        level(luma + 2 * wide_blue + ((times(blue, -14_942) + HALF) >> 16)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::segments::Component;
    use super::*;

    #[test]
    fn a_files_colours_are_what_libjpeg_says() {
        for (ids, jfif, adobe, expected) in [
            (&[1][..], true, Some(0), Colours::Grey),
            (&[1, 2, 3], false, None, Colours::Ycc),
            (b"RGB", false, None, Colours::Rgb),
            (b"RGB", true, None, Colours::Ycc),
            (b"RGB", false, Some(1), Colours::Ycc),
            (&[0, 1, 2], false, Some(0), Colours::Rgb),
            (&[1, 2, 3], true, Some(0), Colours::Ycc),
            (&[1, 2, 3], false, Some(2), Colours::Ycc),
            (&[1, 2, 3, 4], true, None, Colours::Cmyk),
            (&[1, 2, 3, 4], false, Some(0), Colours::Cmyk),
            (b"CMYK", true, Some(2), Colours::Ycck),
        ] {
            let component = |&id| Component { id, across: 1, down: 1, quantisation: 0 };
            let components = ids.iter().map(component).collect();
            let frame = Frame { progressive: false, width: 1, height: 1, components };
            assert_eq!(Colours::of(&frame, jfif, adobe), expected, "{ids:?} {jfif} {adobe:?}");
        }
    }

    #[test]
    fn ink_covers_light() {
        assert_eq!(from_ink([255; 3], 255), [255; 3]);
        assert_eq!(from_ink([255, 0, 128], 255), [255, 0, 128]);
        assert_eq!(from_ink([255, 100, 0], 0), [0; 3]);
    }

    #[test]
    fn luma_and_chroma_become_the_primaries() {
        for (ycc, rgb) in [([128, 128, 128], [128; 3]), ([76, 85, 255], [254, 0, 0]), ([29, 255, 107], [0, 0, 254])] {
            assert_eq!(from_ycc(ycc[0], ycc[1], ycc[2]), rgb);
        }
    }
}
