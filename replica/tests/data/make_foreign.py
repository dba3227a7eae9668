"""Makes the files in `foreign/` and `oriented/`.

`foreign/` has files that libjpeg-turbo, libpng and libwebp decode without an error about the data. `oriented/` has files
with an EXIF orientation, whose name is its value; the hashes in `oriented/levels.txt` are those of the pixels that Pillow's
`ImageOps.exif_transpose` returns.

Needs Pillow 13 (libjpeg-turbo 3.2, libwebp 1.6), and jpegtran with arithmetic coding (Debian: libjpeg-turbo-progs).
`foreign/levels.txt` has a line for each file: its name, followed by the width, the height and the FNV-1a hash of the
pixels that Pillow's `convert("RGB")` returns. For a file that the replica must refuse, the name is followed by
`refused`, even if Pillow paints the missing part.
"""

import io
import os
import struct
import subprocess
import zlib

import numpy as np
from PIL import Image, ImageOps
from odd_jpeg import encode, segment

os.makedirs("foreign", exist_ok=True)
levels = []


def keep(name, file, refused=False, like=None):
    """Writes a file, and adds its line to `levels`. `like` is a file with the same pixels that Pillow can read."""
    with open(f"foreign/{name}", "wb") as out:
        out.write(file)
    if refused:
        levels.append(f"{name} refused")
        return
    picture = Image.open(io.BytesIO(like or file)).convert("RGB")
    value = 0xCBF29CE484222325
    for byte in picture.tobytes():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    levels.append(f"{name} {picture.width} {picture.height} {value:016x}")


def drawn(width, height, seed=1):
    """An image with smooth and sharp parts and some noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed)
    levels = np.stack([columns * 255 / width, rows * 255 / height, (rows // 7 + columns // 9) % 2 * 255], -1)
    levels = levels + noise.normal(0, 6, levels.shape)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def saved(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


picture = drawn(45, 37)

# Progressive JPEG files without their last scans, and with single refinements left out.


def segments(file):
    """The segments of a JPEG file after its start marker, the data of scans included: markers and bytes."""
    at, found = 2, []
    while file[at + 1] != 0xD9:
        end = at + 2 + struct.unpack(">H", file[at + 2 : at + 4])[0]
        if file[at + 1] == 0xDA:
            while file[end] != 0xFF or file[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        found.append((file[at + 1], file[at:end]))
        at = end
    return found


def joined(parts, end=b"\xff\xd9"):
    return b"\xff\xd8" + b"".join(part for _, part in parts) + end


def jpegtran(file, *flags):
    return subprocess.run(["jpegtran", *flags], input=file, capture_output=True, check=True).stdout


SCRIPT = "0:0-0,0,2;1:0-0,0,2;2:0-0,0,2;0:1-5,0,1;0:6-63,0,1;1:1-63,0,1;2:1-63,0,1;0:1-63,1,0;0:0-0,2,1;1:0-0,2,1;2:0-0,2,1;"
with open("/tmp/scans.txt", "w") as out:
    out.write(SCRIPT)

for name, subsampling, quality in (("444", 0, 90), ("420", 2, 60)):
    wave = saved(picture, "JPEG", progressive=True, subsampling=subsampling, quality=quality)
    parts = segments(wave)
    scans = [index for index, (marker, _) in enumerate(parts) if marker == 0xDA]
    for count in range(1, len(scans)):
        keep(f"progressive-{name}-{len(scans) - count}-of-{len(scans)}-scans.jpg", joined(parts[: scans[-count]]))
    # The sixth scan refines luma and is refined again by the last one. The seventh refines the first coefficients.
    keep(f"progressive-{name}-gap.jpg", joined(parts[: scans[5]] + parts[scans[5] + 1 :]), refused=True)
    keep(f"progressive-{name}-no-first-refinement.jpg", joined(parts[: scans[6]] + parts[scans[6] + 1 :]))
    keep(f"progressive-{name}-half-scan.jpg", joined(parts[: scans[4]]) [:-2][: -len(parts[scans[3]][1]) // 2] + b"\xff\xd9", refused=True)
    keep(f"progressive-{name}-no-end.jpg", joined(parts[: scans[-1]], b""), refused=True)
script = segments(jpegtran(saved(picture, "JPEG", subsampling=2), "-scans", "/tmp/scans.txt"))
scans = [index for index, (marker, _) in enumerate(script) if marker == 0xDA]
for count in (1, 3, 5, 8):
    keep(f"progressive-script-{len(scans) - count}-scans.jpg", joined(script[: scans[-count]]))
keep("progressive-script-no-red.jpg", joined(script[: scans[2]]), refused=True)
grey = segments(saved(picture.convert("L"), "JPEG", progressive=True))
scans = [index for index, (marker, _) in enumerate(grey) if marker == 0xDA]
keep("progressive-grey-first-only.jpg", joined(grey[: scans[1]]))

# Arithmetic-coded JPEG files.
for name, subsampling, flags in (
    ("sequential", 2, []),
    ("progressive", 1, ["-progressive"]),
    ("restart", 0, ["-restart", "2B"]),
    ("progressive-restart", 2, ["-progressive", "-restart", "1"]),
    ("grey", 0, ["-grayscale"]),
    ("script", 2, ["-scans", "/tmp/scans.txt"]),
):
    keep(f"arithmetic-{name}.jpg", jpegtran(saved(picture, "JPEG", subsampling=subsampling), "-arithmetic", *flags))
flat = jpegtran(saved(Image.new("RGB", (45, 37), (128, 128, 128)), "JPEG"), "-arithmetic")
keep("arithmetic-flat.jpg", flat)
coded = jpegtran(saved(picture, "JPEG"), "-arithmetic")
keep("arithmetic-half.jpg", coded[: len(coded) // 2] + b"\xff\xd9", refused=True)
keep("arithmetic-no-end.jpg", coded[:-2], refused=True)

# JPEG files with bytes between their segments, and with unusual segments.
files = {
    "baseline": saved(picture, "JPEG"),
    "progressive": saved(picture, "JPEG", progressive=True),
    "restart": saved(picture, "JPEG", restart_marker_blocks=2),
}
for name, file in files.items():
    parts = segments(file)
    for kind, junk in {"zeros": bytes(6000), "text": b"hello", "restart": b"a\xff\xd3b", "stuffed": b"a\xff\0b"}.items():
        between = b"".join(part + junk for _, part in parts)
        keep(f"between-{name}-{kind}.jpg", parts[0][1][:0] + b"\xff\xd8" + between + b"\xff\xd9")
base = files["baseline"]
for name, extra in {
    "jfif-short": b"\xff\xe0\0\x07JFIF\0",
    "adobe-short": b"\xff\xee\0\x0cAdobe\0d\0\0\0",
    "adobe-9": b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\x09",
    "odd-length": b"\xff\xef\0\x05xyz",
    "empty": b"\xff\xe0\0\x02\xff\xfe\0\x02",
    "broken-profile": b"\xff\xe2\0\x10ICC_PROFILE\0\1\1",
}.items():
    # Pillow itself reads these segments, and fails where libjpeg does not.
    like = base if name.endswith("short") else None
    keep(f"segment-{name}.jpg", b"\xff\xd8" + extra + base[2:], like=like)
luma = [np.array(channel) for channel in picture.convert("YCbCr").split()]
one = (1, 1)
for ids in ((1, 1, 1), (5, 5, 6)):
    keep(f"same-names-{ids[2]}.jpg", encode(luma, [(2, 2), one, one], ids=ids))
plain = encode(luma, [(2, 2), one, one])
at = plain.index(b"\xff\xdb")
table = plain[at + 5 : at + 69]
for name, change in {"wide": lambda factor: factor, "overflow": lambda factor: 9 * factor + 300}.items():
    wide = struct.pack(">64H", *map(change, table))
    keep(f"factors-{name}.jpg", plain[:at] + segment(0xDB, b"\x10" + wide) + plain[at + 69 :])
keep("factors-zero.jpg", plain[: at + 5] + bytes(64) + plain[at + 69 :])
keep("factors-255.jpg", plain[: at + 5] + b"\xff" * 64 + plain[at + 69 :])
for name, factors in {"1x2": [(1, 2), one, one], "luma-less": [one, (2, 2), (2, 1)], "4x4": [(4, 4), (4, 1), (1, 4)]}.items():
    keep(f"sampling-{name}.jpg", encode(luma, factors, interleaved=name != "4x4"))

# WebP files whose flags and chunks do not agree, and animations.


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff(*chunks):
    body = b"WEBP" + b"".join(chunk(*part) for part in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def side(number):
    return struct.pack("<I", number)[:3]


def header(flags, width=45, height=37):
    return b"VP8X", bytes([flags, 0, 0, 0]) + side(width - 1) + side(height - 1)


def frame(x, y, flags, *chunks):
    place = side(x // 2) + side(y // 2) + side(44) + side(36) + b"\x64\0\0" + bytes([flags])
    return b"ANMF", place + b"".join(chunk(*part) for part in chunks)


def parts_of(file):
    at, found = 12, []
    while at < len(file):
        length = struct.unpack("<I", file[at + 4 : at + 8])[0]
        found.append((file[at : at + 4], file[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


veiled = picture.convert("RGBA")
veiled.putalpha(picture.split()[1])
images = {
    "lossy": parts_of(saved(picture, "WEBP", quality=60)),
    "lossless": parts_of(saved(picture, "WEBP", lossless=True)),
    "lossy-alpha": parts_of(saved(veiled, "WEBP", quality=60))[1:],
    "lossless-alpha": [part for part in parts_of(saved(veiled, "WEBP", lossless=True, exact=True)) if part[0] == b"VP8L"],
}
exif = (b"EXIF", b"II*\0\x08\0\0\0\0\0")
for name, image in images.items():
    for kind, flags in {"exif": 0x08, "xmp": 0x04, "profile": 0x20, "alpha": 0x10, "all": 0x3C, "none": 0}.items():
        keep(f"flag-{kind}-{name}.webp", riff(header(flags), *image))
    keep(f"chunks-without-flags-{name}.webp", riff(header(0), (b"ICCP", b"x" * 41), *image, exif, (b"XMP ", b"<x/>")))
    for kind, (flags, x, y, size, colour) in {
        "offset": (0, 4, 6, (61, 53), bytes(4)),
        "opaque": (0x02, 4, 6, (61, 53), b"\xff\x80\x40\xff"),
        "disposed": (0x03, 0, 0, (45, 37), b"\xff\x80\x40\xff"),
        "wide": (0x01, 20, 0, (65, 37), bytes(4)),
    }.items():
        animation = (b"ANIM", colour + b"\0\0")
        keep(
            f"animation-{kind}-{name}.webp",
            riff(header(0x12, *size), animation, frame(x, y, flags, *image), frame(0, 0, 0, *images["lossy"])),
        )
    half = [(kind, content[: len(content) // 2]) for kind, content in image]
    keep(f"half-{name}.webp", riff(header(0x10), *half), refused=True)

# PNG files with chunks that have no effect on pixels.


def png_chunk(name, content, damaged=False):
    checksum = zlib.crc32(name + content) ^ damaged
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


rows = b"".join(b"\0" + row.tobytes() for row in np.array(picture))
data = zlib.compress(rows)
start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 45, 37, 8, 2, 0, 0, 0))
end = png_chunk(b"IEND", b"")
clean = start + png_chunk(b"IDAT", data) + end
for name in (b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"bKGD", b"tIME", b"eXIf", b"tRNS", b"acTL"):
    text = name.decode()
    keep(f"checksum-{text}.png", start + png_chunk(name, b"abc", True) + png_chunk(b"IDAT", data) + end, like=clean)
    keep(f"malformed-{text}.png", start + png_chunk(name, b"\1\2\3\4\5") + png_chunk(b"IDAT", data) + end, like=clean)
    keep(f"after-{text}.png", start + png_chunk(b"IDAT", data) + png_chunk(name, b"\1\2\3\4\5") + end, like=clean)
keep("empty-data.png", start + png_chunk(b"IDAT", b"") + png_chunk(b"IDAT", data[:9]) + png_chunk(b"IDAT", b"") * 3 + png_chunk(b"IDAT", data[9:]) + end)
keep("end-with-data.png", start + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"abc"), like=clean)
keep("longer.png", start + png_chunk(b"IDAT", zlib.compress(rows + b"more" * 50)) + end)
keep("interrupted.png", start + png_chunk(b"IDAT", data[:99]) + png_chunk(b"tEXt", b"a\0b") + png_chunk(b"IDAT", data[99:]) + end, refused=True)
keep("fewer-rows.png", start + png_chunk(b"IDAT", zlib.compress(rows[:-136])) + end, refused=True)

# GIF files: interlaced, transparent, with a frame that is smaller or larger than the screen, and with little palettes.
random = np.random.default_rng(2)
small = random.integers(0, 16, (15, 20), dtype=np.uint8)


def coded(indices):
    """Codes of five bits for indices of four, with a clear code before the codes grow."""
    codes = [16] + [code for at, index in enumerate(indices) for code in ([int(index)] + [16] * (at % 14 == 13))] + [17]
    number = sum(code << 5 * place for place, code in enumerate(codes))
    data = number.to_bytes(len(codes) * 5 // 8 + 1, "little")
    return b"\4" + b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255)) + b"\0"


def gif(screen, place, palette=None, own=None, transparent=None, before=b"", interlaced=False, end=b";"):
    x, y, width, height = place
    flags = lambda colours: 0x80 | (len(colours) // 3).bit_length() - 2 if colours else 0
    file = b"GIF89a" + struct.pack("<HHBBB", *screen, flags(palette), 3, 0) + (palette or b"") + before
    if transparent is not None:
        file += b"!\xf9\4\1\5\0" + bytes([transparent]) + b"\0"
    file += b"," + struct.pack("<HHHHB", x, y, width, height, 0x40 * interlaced | flags(own)) + (own or b"")
    return file + coded(np.resize(small, width * height)) + end


palette = random.integers(0, 256, 48, dtype=np.uint8).tobytes()
other = random.integers(0, 256, 48, dtype=np.uint8).tobytes()
greys = bytes(level for index in range(16) for level in (index,) * 3)
for name, arguments in {
    "whole": {"place": (0, 0, 20, 15)},
    "interlaced": {"place": (0, 0, 20, 15), "interlaced": True},
    "part": {"place": (3, 4, 10, 6)},
    "part-transparent": {"place": (3, 4, 10, 6), "transparent": 5},
    "larger": {"place": (0, 0, 25, 19)},
    "outside": {"place": (30, 30, 4, 4), "transparent": 9},
    "no-screen": {"screen": (0, 0), "place": (0, 0, 20, 15)},
    "own-palette": {"place": (2, 2, 12, 9), "own": other, "transparent": 1},
    "only-own-palette": {"place": (2, 2, 12, 9), "palette": None, "own": other},
    "greys": {"place": (2, 2, 12, 9), "palette": greys, "transparent": 7},
    "few-colours": {"place": (2, 2, 12, 9), "palette": palette[:12]},
    "few-greys": {"place": (2, 2, 12, 9), "palette": greys[:12]},
    "comment": {"place": (0, 0, 20, 15), "before": b"!\xfe\5hello\0"},
    "unknown-extension": {"place": (0, 0, 20, 15), "before": b"!\x77\3abc\0"},
    "no-end": {"place": (0, 0, 20, 15), "end": b""},
}.items():
    keep(f"{name}.gif", gif(**{"screen": (20, 15), "palette": palette, **arguments}))
keep("half.gif", gif((20, 15), (0, 0, 20, 15), palette)[:150], refused=True)
keep("saved.gif", saved(picture.quantize(64), "GIF", save_all=True, append_images=[drawn(45, 37, 2).quantize(32)]))

# BMP files of each depth and layout.


def bmp(bits, compression=0, data=None, palette=b"", masks=(), size=40, height=11, offset=None, colours=0):
    stored = ((13 * bits + 31) >> 3) & ~3
    data = random.integers(0, 256, stored * 11, dtype=np.uint8).tobytes() if data is None else data
    masks = struct.pack(f"<{len(masks)}I", *masks)
    if size == 12:
        head = struct.pack("<IHHHH", 12, 13, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", size, 13, height, 1, bits, compression, len(data), 0, 0, colours, 0)
        head += (masks + bytes(84))[: size - 40] if size > 40 else masks
    start = 14 + len(head) + len(palette) if offset is None else offset
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(palette) + len(data), 0, 0, start) + head + palette + data


colours = random.integers(0, 256, 1024, dtype=np.uint8).tobytes()
for bits in (1, 4, 8, 16, 24, 32):
    table = colours[: 4 << bits] if bits <= 8 else b""
    keep(f"{bits}.bmp", bmp(bits, palette=table))
    keep(f"{bits}-top-down.bmp", bmp(bits, palette=table, height=-11))
    keep(f"{bits}-version-5.bmp", bmp(bits, palette=table, size=124))
    keep(f"{bits}-core.bmp", bmp(bits, palette=table[: 3 << bits] if bits <= 8 else b"", size=12))
keep("few-colours.bmp", bmp(8, palette=colours[:20], colours=5))
keep("offset-of-headers.bmp", bmp(8, palette=colours, offset=54))
keep("no-offset.bmp", bmp(4, palette=colours[:64], offset=0))
masks = {
    16: [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)],
    24: [(0xFF0000, 0xFF00, 0xFF)],
    32: [
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF000000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
    ],
}
for bits, layouts in masks.items():
    for number, layout in enumerate(layouts):
        keep(f"{bits}-masks-{number}.bmp", bmp(bits, 3, masks=layout, size=108))
        if len(layout) == 3 or layout[3] == 0:
            keep(f"{bits}-masks-{number}-short.bmp", bmp(bits, 3, masks=layout[:3]))
keep("other-masks.bmp", bmp(16, 3, masks=(0xF00, 0xF0, 0xF)), refused=True)
runs = b"".join(b"\5\x12\0\3abc\0\5\x45\0\0" for _ in range(11))
keep("runs.bmp", bmp(8, 1, runs, colours))
keep("runs-4.bmp", bmp(4, 2, b"".join(b"\5\x12\0\3\x34\x50\5\x45\0\0" for _ in range(11)), colours[:64]))
keep("runs-skip.bmp", bmp(8, 1, b"\5\7\0\2\3\2" + runs, colours))
keep("runs-too-long.bmp", bmp(8, 1, b"\xff\7" + runs, colours))
keep("runs-cut.bmp", bmp(8, 1, runs[:70], colours), refused=True)
keep("rows-cut.bmp", bmp(24)[:-9], refused=True)
for mode in ("1", "L", "P", "RGB", "RGBA"):
    keep(f"saved-{mode}.bmp", saved(picture.convert(mode), "BMP"))

# TIFF files. Pillow turns them when it reads them, so their hashes are those of turned pixels.
for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK"):
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        keep(f"{mode}-{compression}.tif", saved(picture.convert(mode), "TIFF", compression=compression))
deep = Image.fromarray(random.integers(0, 400, (37, 45)).astype(np.uint16))
keep("16.tif", saved(deep, "TIFF"))
for value in range(1, 10):
    exif = Image.Exif()
    exif[0x112] = value
    keep(f"turned-{value}.tif", saved(picture, "TIFF", exif=exif))
keep("pages.tif", saved(picture, "TIFF", save_all=True, append_images=[drawn(45, 37, 2)]))
whole = saved(picture, "TIFF", compression="tiff_lzw")
keep("half.tif", whole[: len(whole) // 2], refused=True)
keep("float.tif", saved(picture.convert("F"), "TIFF"), refused=True)

with open("foreign/levels.txt", "w") as out:
    out.write("\n".join(levels) + "\n")

# Files with an EXIF orientation, and with malformed EXIF metadata.
os.makedirs("oriented", exist_ok=True)
levels = []
for value in range(1, 10):
    exif = Image.Exif()
    exif[0x112] = value
    for form in ("jpg", "png", "webp"):
        # Without loss, so that the stored pixels of all files are the same.
        options = {"lossless": True} if form == "webp" else {}
        picture.save(f"oriented/{value}.{form}", exif=exif, **options)
        turned = ImageOps.exif_transpose(Image.open(f"oriented/{value}.{form}")).convert("RGB")
        hashed = 0xCBF29CE484222325
        for byte in turned.tobytes():
            hashed = (hashed ^ byte) * 0x100000001B3 % (1 << 64)
        levels.append(f"{value}.{form} {turned.width} {turned.height} {hashed:016x}")
with open("oriented/levels.txt", "w") as out:
    out.write("\n".join(levels) + "\n")
