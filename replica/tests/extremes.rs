//! Decodes files with extreme values in every field of every header. A file that is refused takes little, whatever its
//! header announces. An image takes no more memory than [`Image::memory_bytes`] says.
//!
//! The figures are those of this process: the peak of its resident memory, which is reset before each file, and the
//! processor time of the thread. So this test is alone in its program. To see the worst files:
//! `cargo test --release -p replica --test extremes -- --nocapture`.

use replica::decode::{Image, ImageLimits};
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Most memory that a refused file may add to the process.
const MAX_BYTES: u64 = 64 << 20;

/// Most processor time for a refused file. The longest takes a tenth of it on an idle machine; the rest is for slow
/// machines.
const MAX_TIME: Duration = Duration::from_millis(500);

/// Most processor time for each pixel of an image, in addition to [`MAX_TIME`].
const MAX_TIME_PER_PIXEL: Duration = Duration::from_nanos(200);

/// Memory of the process that is no part of an image: pages of the program and of the allocator.
const OTHER_BYTES: u64 = 2 << 20;

/// The bytes to which each byte of a header is set.
const BYTES: [u8; 7] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff];

/// The largest and the longest sides, and those beside the limits. A picture of 7071×7071 or 65535×762 pixels is just
/// within the default limit of pixels.
const SIDES: [u32; 11] = [0, 1, 762, 3052, 7071, 16383, 16384, 65_535, 65_536, i32::MAX as u32, u32::MAX];

/// What a file took.
#[derive(Debug, Clone, Default)]
struct Cost {
    time: Duration,
    bytes: u64,
    outcome: String,
}

/// The costs of the files of each kind that took the most time and the most memory, and the number of files. Images and
/// refused files count apart.
#[derive(Default)]
struct Worst(BTreeMap<(&'static str, bool), (Cost, Cost, usize)>);

impl Worst {
    /// Decodes a file, measures what it takes, and compares that with the limits.
    fn add(&mut self, kind: &'static str, name: &str, file: &[u8]) {
        // The kernel sets the peak to the present size (proc(5), clear_refs).
        fs::write("/proc/self/clear_refs", "5").expect("a process may reset its peak");
        let before = status("VmRSS:");
        let started = processor_time();
        let image = Image::read(file, ImageLimits::default());
        let reserved = image.as_ref().map_or(0, Image::memory_bytes);
        let outcome = image.and_then(|image| image.decode());
        let time = processor_time() - started;
        let bytes = status("VmHWM:").saturating_sub(before);
        let is_image = outcome.is_ok();
        let (pixels, outcome) = match outcome {
            Ok(pixels) => (pixels.width * pixels.height, format!("{name}: {}x{}", pixels.width, pixels.height)),
            Err(error) => (0, format!("{name}: {error}")),
        };
        let cost = Cost { time, bytes, outcome };
        assert!(bytes <= if is_image { reserved + OTHER_BYTES } else { MAX_BYTES }, "{kind}: {cost:?} of {reserved}");
        assert!(time <= MAX_TIME + pixels * MAX_TIME_PER_PIXEL, "{kind}: {cost:?}");
        let (slowest, largest, count) = self.0.entry((kind, is_image)).or_default();
        *count += 1;
        if cost.bytes > largest.bytes {
            *largest = cost.clone();
        }
        if cost.time > slowest.time {
            *slowest = cost;
        }
    }
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux has this file");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel writes this field");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kibibytes << 10
}

fn data(name: &str) -> Vec<u8> {
    let folder = if name.contains('/') { "tests/data" } else { "tests/data/odd" };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn extreme_headers_take_no_more_than_their_data() {
    // As in the program, large allocations come from the operating system, page by page.
    convolution::memory::return_freed_memory();
    let mut worst = Worst::default();
    png_headers(&mut worst);
    png_chunks(&mut worst);
    jpeg_headers(&mut worst);
    webp_headers(&mut worst);
    webp_chunks(&mut worst);
    tiff_chunks(&mut worst);
    gif_and_bmp_headers(&mut worst);
    bytes_of_headers(&mut worst);
    for ((kind, is_image), (slowest, largest, count)) in worst.0 {
        println!("{kind}: {count} {}", if is_image { "images" } else { "refused files" });
        println!("  {:.1} ms: {}", slowest.time.as_secs_f64() * 1e3, slowest.outcome);
        println!("  {:.1} MiB: {}", largest.bytes as f64 / f64::from(1 << 20), largest.outcome);
    }
}

/// A PNG chunk with its checksum.
fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let checked = [&name[..], content].concat();
    [&(content.len() as u32).to_be_bytes()[..], &checked, &crc32fast::hash(&checked).to_be_bytes()].concat()
}

/// A PNG file of the chunks before the pixels, and the compressed pixels.
fn png(header: &[u8], before: &[u8], pixels: &[u8]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n", &chunk(b"IHDR", header)[..], before, &chunk(b"IDAT", pixels), &chunk(b"IEND", b"")].concat()
}

/// Compressed rows of zeros, `bytes` long.
fn zeros(bytes: usize) -> Vec<u8> {
    let mut compressed = Vec::new();
    let mut writer = flate2::write::ZlibEncoder::new(&mut compressed, flate2::Compression::best());
    std::io::Write::write_all(&mut writer, &vec![0; bytes]).expect("memory");
    writer.finish().expect("memory");
    compressed
}

/// Every value of every field of the PNG header, with almost no data and with zeros that inflate to 16 MB.
fn png_headers(worst: &mut Worst) {
    let (few, many) = (zeros(100), zeros(16 << 20));
    let palette = chunk(b"PLTE", &[7; 768]);
    for (width, height) in SIDES.iter().flat_map(|width| SIDES.map(|height| (*width, height))) {
        for depth in [0, 1, 2, 4, 8, 16, 255] {
            for colour in [0, 2, 3, 4, 6, 7] {
                for interlaced in [0, 1, 2] {
                    let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
                    let header = [&sides[..], &[depth, colour, 0, 0, interlaced]].concat();
                    let name = format!("{width}x{height}, depth {depth}, colour {colour}, interlaced {interlaced}");
                    worst.add("PNG header", &name, &png(&header, &palette, &few));
                    if depth == 8 || depth == 1 && colour == 0 || depth == 16 && colour == 6 {
                        worst.add("PNG header with 16 MB of zeros", &name, &png(&header, &palette, &many));
                    }
                }
            }
        }
    }
    let sides = [8, 8].map(u32::to_be_bytes).concat();
    for (method, filter) in BYTES.iter().flat_map(|method| BYTES.map(|filter| (*method, filter))) {
        let header = [&sides[..], &[8, 0, method, filter, 0]].concat();
        worst.add("PNG header", &format!("compression {method}, filter {filter}"), &png(&header, &[], &few));
    }
}

/// Chunks of every kind, with contents of extreme lengths and with decompression bombs.
fn png_chunks(worst: &mut Worst) {
    let header = [&[8, 8].map(u32::to_be_bytes).concat()[..], &[8, 2, 0, 0, 0]].concat();
    let (pixels, bomb) = (zeros(8 * 25), zeros(256 << 20));
    let names = b"PLTEtRNSgAMAcHRMsRGBiCCPsBITpHYsbKGDhISTsPLTtEXtzTXtiTXttIMEeXIfacTLfcTLfdATcICPmDCvcLLIABCDabcd";
    for name in names.as_chunks::<4>().0 {
        let text = String::from_utf8_lossy(name);
        for content in [&b""[..], &[0], &[0xff; 7], &[0; 26], &[0xff; 26], &[0; 300], &vec![b'x'; 4 << 20]] {
            let file = png(&header, &chunk(name, content), &pixels);
            worst.add("PNG chunk", &format!("{text} of {} bytes", content.len()), &file);
        }
        for head in [&b"a\0\0"[..], b"a\0\x01\0\0\0", b"\0\0\0\0"] {
            let file = png(&header, &chunk(name, &[head, &bomb].concat()), &pixels);
            worst.add("PNG chunk", &format!("{text} with a decompression bomb"), &file);
        }
        for length in [0_u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut file = png(&header, &chunk(name, b"abc"), &pixels);
            file[33..37].copy_from_slice(&length.to_be_bytes());
            worst.add("PNG chunk", &format!("{text} whose length is {length}"), &file);
        }
        let small = png(&header, &chunk(name, b"").repeat(30_000), &pixels);
        worst.add("PNG chunk", &format!("30000 times {text}"), &small);
    }
}

/// Every combination of frame headers, sides and sampling factors, with the data of a small image.
fn jpeg_headers(worst: &mut Worst) {
    for base in ["444.jpg", "grey.jpg", "ink420-2.jpg", "16x16-2p.jpg", "progressive-restart.jpg", "arithmetic.jpg"] {
        let file = data(base);
        let is_frame = |pair: &[u8]| pair[0] == 0xff && matches!(pair[1], 0xc0..=0xc2 | 0xc9 | 0xca);
        let frame = file.windows(2).position(is_frame).expect("a frame header");
        let components = usize::from(file[frame + 9]);
        for (width, height) in SIDES.iter().flat_map(|width| SIDES.map(|height| (*width as u16, height as u16))) {
            for marker in [0xc0, 0xc1, 0xc2, 0xc9, 0xca] {
                for (first, others) in
                    [(0x11, 0x11), (0x44, 0x11), (0x22, 0x11), (0x11, 0x44), (0x14, 0x11), (0x41, 0x11)]
                {
                    let mut file = file.clone();
                    file[frame + 1] = marker;
                    file[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
                    file[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
                    for component in 0..components {
                        file[frame + 11 + 3 * component] = if component == 0 { first } else { others };
                    }
                    let name = format!("{base}, {width}x{height}, {marker:x}, factors {first:x} and {others:x}");
                    worst.add("JPEG frame header", &name, &file);
                }
            }
        }
    }
    for (marker, at) in
        [(0xfe, 2), (0xe0, 2), (0xe1, 2), (0xe2, 2), (0xed, 2), (0xee, 2), (0xcc, 2), (0xdd, 2), (0xdb, 2), (0xc4, 2)]
    {
        let file = data("420.jpg");
        for (length, filler) in
            [(0_u16, 0), (1, 0), (2, 0), (4, 0), (4, 0xff), (0xffff, 0), (0xffff, 0xff), (0xffff, 1)]
        {
            let content = vec![filler; usize::from(length).saturating_sub(2)];
            let segment = [&[0xff, marker][..], &length.to_be_bytes(), &content].concat();
            for count in [1, 30] {
                let file = [&file[..at], &segment.repeat(count), &file[at..]].concat();
                worst.add("JPEG segment", &format!("{count} × {marker:x} of {length} bytes {filler}"), &file);
            }
        }
    }
}

/// Sides of 14 and of 24 bits in the headers of all WebP bitstreams and containers, with the data of a small image.
fn webp_headers(worst: &mut Worst) {
    for base in [
        "lossless.webp",
        "lossless-alpha.webp",
        "lossy.webp",
        "lossy-alpha.webp",
        "lossy-animated.webp",
        "rough-animated.webp",
    ] {
        let file = data(base);
        let find = |name: &[u8]| file.windows(4).position(|part| part == name);
        for (width, height) in SIDES.iter().flat_map(|width| SIDES.map(|height| (*width, height))) {
            let mut patched = file.clone();
            let (short_width, short_height) = (width.min(16383) as u16, height.min(16383) as u16);
            if let Some(at) = find(b"VP8 ") {
                patched[at + 14..at + 16].copy_from_slice(&short_width.to_le_bytes());
                patched[at + 16..at + 18].copy_from_slice(&short_height.to_le_bytes());
            }
            if let Some(at) = find(b"VP8L") {
                let sides = u32::from(short_width.wrapping_sub(1) & 0x3fff)
                    | u32::from(short_height.wrapping_sub(1) & 0x3fff) << 14;
                patched[at + 9..at + 13].copy_from_slice(&(sides | 1 << 28).to_le_bytes());
            }
            worst.add("WebP bitstream", &format!("{base}, {short_width}x{short_height}"), &patched);
            for (chunk, place) in [(b"VP8X", 12), (b"ANMF", 14)] {
                let mut patched = patched.clone();
                let Some(at) = find(chunk) else { continue };
                patched[at + place..at + place + 3].copy_from_slice(&width.wrapping_sub(1).to_le_bytes()[..3]);
                patched[at + place + 3..at + place + 6].copy_from_slice(&height.wrapping_sub(1).to_le_bytes()[..3]);
                worst.add("WebP container", &format!("{base}, canvas {width}x{height}"), &patched);
            }
        }
    }
}

/// Many chunks of each kind before the pixels.
fn webp_chunks(worst: &mut Worst) {
    let file = data("lossy-alpha.webp");
    for name in [b"ALPH", b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"EXIF", b"abcd"] {
        for count in [9_000, 100_000] {
            let content = if name == b"ANMF" { 16 } else { 0_u32 };
            let chunk = [&name[..], &content.to_le_bytes(), &vec![0; content as usize]].concat();
            // The extended header ends at byte 30.
            let mut file = [&file[..30], &chunk.repeat(count), &file[30..]].concat();
            let length = file.len() as u32 - 8;
            file[4..8].copy_from_slice(&length.to_le_bytes());
            worst.add("WebP chunk", &format!("{count} times {}", String::from_utf8_lossy(name)), &file);
        }
    }
}

/// TIFF files whose strips or tiles lie at the same place, and have every size.
fn tiff_chunks(worst: &mut Worst) {
    // A file that fails in its second plane has filled the image, so no image here has more than 50 MB.
    let sides = [1, 16, 256, 3052, 65_535];
    for (width, height) in sides.iter().flat_map(|width| sides.map(|height| (*width, height))) {
        for (columns, rows) in
            [(0, 1), (0, 16), (0, u32::MAX), (1, 1), (16, 16), (512, 512), (1_000_000, 16), (16, 1_000_000)]
        {
            for compression in [1, 5, 8, 32_773] {
                for planar in [1, 2] {
                    let file = tiff((width, height), (columns, rows), compression, planar);
                    let name =
                        format!("{width}x{height} of {columns}x{rows}, compression {compression}, planes {planar}");
                    worst.add("TIFF strips or tiles", &name, &file);
                }
            }
        }
    }
}

/// An RGB TIFF file of tiles, or of strips of `rows` if `columns` is 0. All have the same data: a few KiB that inflate to
/// 4 MB of zeros.
fn tiff((width, height): (u32, u32), (columns, rows): (u32, u32), compression: u32, planar: u32) -> Vec<u8> {
    let across = if columns == 0 { 1 } else { width.div_ceil(columns) };
    let planes = if planar == 2 { 3 } else { 1 };
    // More values than the limit of values are refused.
    let count = (across.saturating_mul(height.div_ceil(rows)).saturating_mul(planes)).min(1 << 18);
    let pixels = match compression {
        8 => zeros(4 << 20),
        // Runs of 128 zeros.
        32_773 => [0x81, 0].repeat(4096),
        _ => vec![0; 8192],
    };
    let entries_end = 8 + 2 + 12 * if columns == 0 { 10 } else { 11 } + 4;
    let (bits, offsets, lengths) = (entries_end, entries_end + 8, entries_end + 8 + 4 * count);
    let data = lengths + 4 * count;
    let lists = |place: u32, only: u32| if count == 1 { only } else { place };
    let (columns_or_rows, place, sizes) = if columns == 0 { (278, 273, 279) } else { (322, 324, 325) };
    let mut entries = vec![
        (256, 1, width),
        (257, 1, height),
        (258, 3, bits),
        (259, 1, compression),
        (262, 1, 2),
        (277, 1, 3),
        (284, 1, planar),
        (place, count, lists(offsets, data)),
        (sizes, count, lists(lengths, pixels.len() as u32)),
        (columns_or_rows, 1, if columns == 0 { rows } else { columns }),
    ];
    entries.extend((columns > 0).then_some((323, 1, rows)));
    entries.sort_unstable();
    let mut file = [&b"II\x2a\0\x08\0\0\0"[..], &(entries.len() as u16).to_le_bytes()].concat();
    for (tag, values, value) in entries {
        // Bits are numbers of 16 bits, and all others have 32.
        let kind = if tag == 258 { 3_u16 } else { 4 };
        file.extend([&(tag as u16).to_le_bytes()[..], &kind.to_le_bytes()].concat());
        file.extend([values, value].map(u32::to_le_bytes).concat());
    }
    file.extend([0; 4]);
    file.extend([8_u16, 8, 8, 0].map(u16::to_le_bytes).concat());
    file.extend(data.to_le_bytes().repeat(count as usize));
    file.extend((pixels.len() as u32).to_le_bytes().repeat(count as usize));
    file.extend(pixels);
    file
}

/// Sides of 16 bits in the headers of GIF files, and of 32 bits in those of BMP files, with the data of a small image.
fn gif_and_bmp_headers(worst: &mut Worst) {
    for (width, height) in SIDES.iter().flat_map(|width| SIDES.map(|height| (*width, height))) {
        for (base, descriptor) in [
            ("foreign/part.gif", b",\x03\0\x04\0"),
            ("foreign/part-transparent.gif", b",\x03\0\x04\0"),
            ("foreign/interlaced.gif", b",\0\0\0\0"),
        ] {
            let file = data(base);
            let frame = file.windows(5).position(|part| part == descriptor).expect("a frame") + 5;
            for places in [&[6][..], &[frame], &[6, frame]] {
                let mut patched = file.clone();
                for &at in places {
                    patched[at..at + 2].copy_from_slice(&(width as u16).to_le_bytes());
                    patched[at + 2..at + 4].copy_from_slice(&(height as u16).to_le_bytes());
                }
                worst.add("GIF header", &format!("{base}, {width}x{height} at {places:?}"), &patched);
            }
        }
        for base in ["foreign/1.bmp", "foreign/8.bmp", "foreign/16.bmp", "foreign/runs.bmp", "foreign/runs-4.bmp"] {
            let mut patched = data(base);
            patched[18..22].copy_from_slice(&width.to_le_bytes());
            patched[22..26].copy_from_slice(&height.to_le_bytes());
            worst.add("BMP header", &format!("{base}, {width}x{height}"), &patched);
        }
    }
}

/// Each of the first bytes of a file of each kind is set to extreme values. Checksums of PNG chunks are made right.
fn bytes_of_headers(worst: &mut Worst) {
    for (kind, bases) in [
        ("byte of a JPEG", &["420-restart.jpg", "16x16-2p.jpg", "ink444-2.jpg", "arithmetic.jpg", "grey22.jpg"][..]),
        ("byte of a PNG", &["3-4-interlaced.png", "6-16.png", "animated.png", "metadata.png"]),
        ("byte of a GIF", &["foreign/part.gif", "foreign/own-palette.gif", "foreign/interlaced.gif"]),
        ("byte of a BMP", &["foreign/8.bmp", "foreign/runs.bmp", "foreign/32-masks-4.bmp", "foreign/4-core.bmp"]),
        ("byte of a TIFF", &["foreign/RGB-tiff_lzw.tif", "foreign/P-packbits.tif", "foreign/turned-6.tif"]),
        ("byte of a WebP", &["lossless-alpha.webp", "lossy-alpha.webp", "lossy-animated.webp", "metadata.webp"]),
    ] {
        for base in bases {
            let file = data(base);
            // The directory of a TIFF file is at its end or at its start.
            let last = if kind.ends_with("TIFF") { file.len().saturating_sub(400).max(2)..file.len() } else { 0..0 };
            for at in (2..file.len().min(400)).chain(last) {
                for byte in BYTES {
                    let mut patched = file.clone();
                    patched[at] = byte;
                    if kind.ends_with("PNG") {
                        repair_checksums(&mut patched);
                    }
                    worst.add(kind, &format!("{base}, byte {at} is {byte}"), &patched);
                }
            }
        }
    }
}

/// Writes the right checksum after each chunk of a PNG file, as far as the lengths of the chunks lead.
fn repair_checksums(file: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = file.get(at..at + 4) {
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(end) = at.checked_add(8 + length).filter(|end| end + 4 <= file.len()) else { return };
        let checksum = crc32fast::hash(&file[at + 4..end]);
        file[end..end + 4].copy_from_slice(&checksum.to_be_bytes());
        at = end + 4;
    }
}
