//! Decodes BMP files to RGB, with the same pixels as Pillow. The pixels of most BMP files are not coded, so this module
//! only finds and converts them.
//!
//! Sources: the documentation of `BITMAPINFOHEADER` and its successors, and Pillow's `BmpImagePlugin` for what is
//! accepted. Crates that read BMP files round samples of five bits differently.

mod run_length;

use super::{Error, ImageLimits, Picture, Pixels, check_size};

/// The number of bytes of the file header, which is before the bitmap header.
const FILE_HEADER: usize = 14;

/// The reason in the error message for a file that ends too early.
const CUT: &str = "the file ends before its last row, so it was cut short";

/// A BMP file.
struct BmpFile<'file> {
    width: u32,
    height: u32,
    /// Whether the first row of the file is the upper one.
    top_down: bool,
    layout: Layout,
    /// The colours of the palette; empty without a palette.
    colours: Vec<[u8; 3]>,
    /// The bytes from the first row on.
    data: &'file [u8],
}

/// How pixels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Indices of the palette, of 1, 4 or 8 bits.
    Indices(u32),
    /// Indices of the palette of 4 or 8 bits, coded as runs.
    Runs(u32),
    /// 16 bits, of which green has 5 or 6, and blue and red have 5 each.
    Short(u32),
    /// Several bytes for each pixel, and the places of red, green and blue among them.
    Bytes(u32, [usize; 3]),
}

/// The numbers of a bitmap header that decoding needs.
struct Header {
    size: u32,
    width: u32,
    height: u32,
    top_down: bool,
    bits: u16,
    compression: u32,
    colours: u32,
}

/// Reads the headers and the palette of a BMP file.
pub(super) fn read(file: &[u8], limits: ImageLimits) -> Result<Box<dyn Picture + '_>, Error> {
    let header = Header::of(file)?;
    let (width, height) = check_size(limits, header.width.into(), header.height.into())?;
    if width == 0 || height == 0 {
        return Err(corrupt(format!("its header says that it has {width}x{height} pixels")));
    }
    let mut at = FILE_HEADER + header.size as usize;
    let mut masks = [0; 4];
    if header.compression == 3 {
        // A header of 40 bytes is followed by the masks, and has none for alpha.
        let (place, count) = match header.size {
            40 => (at, 3),
            52 => (FILE_HEADER + 40, 3),
            _ => (FILE_HEADER + 40, 4),
        };
        for (index, mask) in masks.iter_mut().enumerate().take(count) {
            *mask = long(file, place + 4 * index)?;
        }
        at += if header.size == 40 { 12 } else { 0 };
    }
    let layout = Layout::of(&header, masks)?;
    let is_palette = header.bits <= 8;
    let colour_bytes = if header.size == 12 { 3 } else { 4 };
    let mut colours = Vec::new();
    if is_palette {
        let count = if header.colours == 0 { 1 << header.bits } else { header.colours };
        let count = usize::try_from(count).ok().filter(|count| (1..=65_536).contains(count));
        let count = count.ok_or_else(|| corrupt(format!("its palette has {} colours", header.colours)))?;
        let palette = file.get(at..at + colour_bytes * count).ok_or_else(|| corrupt(CUT))?;
        // An index beyond the palette is black, as in Pillow.
        colours = vec![[0; 3]; 256];
        for (colour, stored) in colours.iter_mut().zip(palette.chunks_exact(colour_bytes)) {
            *colour = [stored[2], stored[1], stored[0]];
        }
        at += palette.len();
    }
    let offset = long(file, 10)? as usize;
    // Some programs write the end of the headers as the offset, although the palette follows.
    let is_before_palette = is_palette && offset == FILE_HEADER + header.size as usize;
    let start = if offset == 0 || is_before_palette { at } else { offset };
    let data = file.get(start..).ok_or_else(|| corrupt(CUT))?;
    let file = BmpFile { width, height, top_down: header.top_down, layout, colours, data };
    if (data.len() as u64) < file.fewest_bytes() {
        return Err(corrupt(CUT));
    }
    Ok(Box::new(file))
}

impl Header {
    fn of(file: &[u8]) -> Result<Self, Error> {
        let size = long(file, FILE_HEADER)?;
        match size {
            12 => Ok(Self {
                size,
                width: short(file, 18)?.into(),
                height: short(file, 20)?.into(),
                top_down: false,
                bits: short(file, 24)?,
                compression: 0,
                colours: 0,
            }),
            40 | 52 | 56 | 64 | 108 | 124 => {
                let height = long(file, 22)?;
                // A negative height means that the first row is the upper one.
                let top_down = height >> 24 == 0xff;
                Ok(Self {
                    size,
                    width: long(file, 18)?,
                    height: if top_down { height.wrapping_neg() } else { height },
                    top_down,
                    bits: short(file, 28)?,
                    compression: long(file, 30)?,
                    colours: long(file, 46)?,
                })
            }
            other => Err(corrupt(format!("a header of {other} bytes is not supported"))),
        }
    }
}

impl Layout {
    fn of(header: &Header, masks: [u32; 4]) -> Result<Self, Error> {
        Ok(match (header.compression, header.bits, masks) {
            (0, bits @ (1 | 4 | 8), _) => Self::Indices(bits.into()),
            (1, 8, _) => Self::Runs(8),
            (2, 4, _) => Self::Runs(4),
            (0, 16, _) | (3, 16, [0x7c00, 0x3e0, 0x1f, _]) => Self::Short(5),
            (3, 16, [0xf800, 0x7e0, 0x1f, _]) => Self::Short(6),
            (0, 24, _) | (3, 24, [0xff_0000, 0xff00, 0xff, _]) => Self::Bytes(3, [2, 1, 0]),
            (0, 32, _) | (3, 32, [0xff_0000, 0xff00, 0xff, 0 | 0xff00_0000] | [0, 0, 0, 0]) => {
                Self::Bytes(4, [2, 1, 0])
            }
            (3, 32, [0xff00_0000, 0xff_0000, 0xff00, 0 | 0xff]) => Self::Bytes(4, [3, 2, 1]),
            (3, 32, [0xff00_0000, 0xff00, 0xff, 0 | 0xff_0000]) => Self::Bytes(4, [3, 1, 0]),
            (3, 32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => Self::Bytes(4, [0, 1, 2]),
            (compression, bits, _) => {
                return Err(corrupt(format!(
                    "{bits} bits for each pixel with compression {compression} are not supported"
                )));
            }
        })
    }
}

impl BmpFile<'_> {
    /// The number of bytes of a stored row, which fills whole words of four bytes.
    fn row_bytes(&self) -> usize {
        let bits = match self.layout {
            Layout::Indices(bits) | Layout::Runs(bits) => bits,
            Layout::Short(_) => 16,
            Layout::Bytes(bytes, _) => 8 * bytes,
        };
        (self.width as usize * bits as usize).div_ceil(32) * 4
    }

    /// Fewest bytes of data of a whole file. A run of up to 255 pixels takes two bytes.
    fn fewest_bytes(&self) -> u64 {
        match self.layout {
            Layout::Runs(_) => u64::from(self.width) * u64::from(self.height) / 255 * 2,
            // Programs leave out the padding of the last row.
            _ => self.row_bytes() as u64 * u64::from(self.height) - 3,
        }
    }

    /// Appends the pixels of one stored row to `rgb`.
    fn append(&self, row: &[u8], rgb: &mut Vec<u8>) {
        let width = self.width as usize;
        match self.layout {
            Layout::Indices(8) | Layout::Runs(_) => {
                rgb.extend(row.iter().take(width).flat_map(|&index| self.colours[usize::from(index)]));
            }
            Layout::Indices(bits) => {
                let in_byte = 8 / bits as usize;
                let index = |x: usize| row[x / in_byte] >> (8 - bits as usize * (x % in_byte + 1)) & ((1 << bits) - 1);
                rgb.extend((0..width).flat_map(|x| self.colours[usize::from(index(x))]));
            }
            Layout::Short(green) => {
                let level = |number: u16, bits: u32| (u32::from(number) % (1 << bits) * 255 / ((1 << bits) - 1)) as u8;
                rgb.extend(row.as_chunks::<2>().0.iter().take(width).flat_map(|&pixel| {
                    let pixel = u16::from_le_bytes(pixel);
                    [level(pixel >> (5 + green), 5), level(pixel >> 5, green), level(pixel, 5)]
                }));
            }
            Layout::Bytes(bytes, places) => {
                let pixels = row.chunks_exact(bytes as usize).take(width);
                rgb.extend(pixels.flat_map(|pixel| places.map(|place| pixel[place])));
            }
        }
    }
}

impl Picture for BmpFile<'_> {
    /// Three bytes for each pixel, and one more for the indices of runs.
    fn memory_bytes(&self) -> u64 {
        let bytes = if matches!(self.layout, Layout::Runs(_)) { 4 } else { 3 };
        bytes * u64::from(self.width) * u64::from(self.height) + (1 << 20)
    }

    fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn exif(&self) -> Option<&[u8]> {
        None
    }

    fn decode(&self) -> Result<Pixels, Error> {
        let (width, height) = (self.width as usize, self.height as usize);
        let indices;
        let (data, row_bytes) = match self.layout {
            Layout::Runs(bits) => {
                indices = run_length::indices(self.data, bits == 4, width, height).ok_or_else(|| corrupt(CUT))?;
                (&indices[..], width)
            }
            _ => (self.data, self.row_bytes()),
        };
        let mut rgb = Vec::new();
        rgb.reserve_exact(3 * width * height);
        for y in 0..height {
            let y = if self.top_down { y } else { height - 1 - y };
            let start = y * row_bytes;
            let row = &data[start..data.len().min(start + row_bytes)];
            self.append(row, &mut rgb);
        }
        if rgb.len() != 3 * width * height {
            return Err(corrupt(CUT));
        }
        Ok(Pixels { width: self.width, height: self.height, rgb })
    }
}

/// The number of 16 bits at the place `at`.
fn short(file: &[u8], at: usize) -> Result<u16, Error> {
    let bytes = file.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| corrupt(CUT))?;
    Ok(u16::from_le_bytes(*bytes))
}

/// The number of 32 bits at the place `at`.
fn long(file: &[u8], at: usize) -> Result<u32, Error> {
    let bytes = file.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| corrupt(CUT))?;
    Ok(u32::from_le_bytes(*bytes))
}

/// The error for a BMP file that cannot be decoded.
fn corrupt(reason: impl Into<String>) -> Error {
    Error::Corrupt { format: "BMP", reason: reason.into() }
}
