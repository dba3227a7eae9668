//! The conversion of a JPEG file's components to red, green and blue. Knows nothing of coding.
//!
//! Sources: libjpeg's `default_decompress_parms` (the colour space of a file) and `ycck_cmyk_convert`; Pillow's
//! `JpegImagePlugin` (four components always count as inverted) and `cmyk2rgb`.

use super::planes::{Plane, Scratch};
use super::segments::FrameHeader;

/// The colour space of a file's components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColourSpace {
    /// Grey, which is one component.
    Grey,
    /// YCbCr: luma, and the chroma of blue and of red.
    Ycc,
    /// Red, green and blue.
    Rgb,
    /// Inverted cyan, magenta, yellow and black.
    Cmyk,
    /// Inverted CMYK, whose first three components are coded as YCbCr.
    Ycck,
}

impl ColourSpace {
    /// The colour space of a frame. `jfif` is true if the file has a JFIF header. `adobe` is the colour transform of
    /// the Adobe marker, if the file has one.
    pub(super) fn of(frame: &FrameHeader, jfif: bool, adobe: Option<u8>) -> Self {
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

    /// Converts a whole image to `[height, width, 3]`. `planes` are the samples of the components.
    #[inline(always)]
    pub(super) fn to_rgb(self, width: usize, height: usize, planes: &[Plane]) -> Vec<u8> {
        let mut rgb = vec![0; 3 * width * height];
        let mut rows: [Vec<u8>; 4] = std::array::from_fn(|_| vec![0; width]);
        let mut scratch = Scratch::default();
        for (y, pixels) in rgb.chunks_exact_mut(3 * width).enumerate() {
            for (plane, row) in planes.iter().zip(&mut rows) {
                plane.row(y, &mut scratch, row);
            }
            self.convert(&mut rows, pixels);
        }
        rgb
    }

    /// Converts one row. Red, green and blue are first written over the components that they are computed from. The
    /// compiler uses vector instructions for rows of one colour, but not for interleaved pixels.
    #[inline(always)]
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
            Self::Cmyk => three.zip(d).for_each(|((pixel, ((a, b), c)), d)| *pixel = from_cmyk([*a, *b, *c], *d)),
            // libjpeg inverts the colours to which YCbCr is converted, so that they are ink.
            Self::Ycck => three
                .zip(d)
                .for_each(|((pixel, ((a, b), c)), d)| *pixel = from_cmyk([255 - *a, 255 - *b, 255 - *c], *d)),
        }
    }
}

/// Converts inverted cyan, magenta and yellow (`ink`) and inverted black (`light`) to red, green and blue, with the
/// roundings of Pillow's `cmyk2rgb`.
fn from_cmyk(ink: [u8; 3], light: u8) -> [u8; 3] {
    ink.map(|component| light - muldiv255(255 - component, light))
}

/// `a * b / 255`, rounded like Pillow's `MULDIV255`.
fn muldiv255(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

/// Converts YCbCr to red, green and blue, with the arithmetic of libjpeg's `build_ycc_rgb_table`: 16 fractional bits,
/// and the same rounding of each term.
#[inline(always)]
fn from_ycc(luma: u8, blue: u8, red: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (luma, blue, red) = (i32::from(luma), i16::from(blue) - 128, i16::from(red) - 128);
    // Multiples of 65536 are taken out of the factors, so that all factors have 16 bits. Vector instructions multiply
    // numbers of 16 bits fastest.
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
    fn each_file_gets_the_colour_space_that_libjpeg_chooses() {
        for (ids, jfif, adobe, expected) in [
            (&[1][..], true, Some(0), ColourSpace::Grey),
            (&[1, 2, 3], false, None, ColourSpace::Ycc),
            (b"RGB", false, None, ColourSpace::Rgb),
            (b"RGB", true, None, ColourSpace::Ycc),
            (b"RGB", false, Some(1), ColourSpace::Ycc),
            (&[0, 1, 2], false, Some(0), ColourSpace::Rgb),
            (&[1, 2, 3], true, Some(0), ColourSpace::Ycc),
            (&[1, 2, 3], false, Some(2), ColourSpace::Ycc),
            (&[1, 2, 3, 4], true, None, ColourSpace::Cmyk),
            (&[1, 2, 3, 4], false, Some(0), ColourSpace::Cmyk),
            (b"CMYK", true, Some(2), ColourSpace::Ycck),
        ] {
            let component = |&id| Component { id, across: 1, down: 1, quantisation: 0 };
            let components = ids.iter().map(component).collect();
            let frame = FrameHeader { arithmetic: false, progressive: false, width: 1, height: 1, components };
            assert_eq!(ColourSpace::of(&frame, jfif, adobe), expected, "{ids:?} {jfif} {adobe:?}");
        }
    }

    #[test]
    fn inverted_cmyk_becomes_rgb() {
        assert_eq!(from_cmyk([255; 3], 255), [255; 3]);
        assert_eq!(from_cmyk([255, 0, 128], 255), [255, 0, 128]);
        assert_eq!(from_cmyk([255, 100, 0], 0), [0; 3]);
    }

    #[test]
    fn ycbcr_becomes_rgb() {
        for (ycc, rgb) in [([128, 128, 128], [128; 3]), ([76, 85, 255], [254, 0, 0]), ([29, 255, 107], [0, 0, 254])] {
            assert_eq!(from_ycc(ycc[0], ycc[1], ycc[2]), rgb);
        }
    }
}
