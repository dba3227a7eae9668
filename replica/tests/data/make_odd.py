"""Makes the files in `odd/` with Pillow 13 and torchvision 0.28. The replica's decoding is compared with them.

`odd/levels.txt` has a line for each file: its name, followed by the width, the height and the FNV-1a hash of the pixels
that Pillow's `convert("RGB")` returns. For a file that the replica must refuse, the name is followed by `refused`, even
if Pillow reads the file. `odd/*.crop.png` are torchvision's crops of `picture.png`.
"""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms
from odd_jpeg import encode, segment
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

random = np.random.default_rng(1)
os.makedirs("odd", exist_ok=True)
levels = []


def keep(name, file, refused=False, like=None):
    """Writes a file to `odd/`, and adds its line to `levels`. `like` is a file with the same pixels that Pillow reads."""
    with open(f"odd/{name}", "wb") as out:
        out.write(file)
    if refused:
        levels.append(f"{name} refused")
        return
    picture = Image.open(io.BytesIO(like or file)).convert("RGB")
    value = 0xCBF29CE484222325
    for byte in picture.tobytes():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    levels.append(f"{name} {picture.width} {picture.height} {value:016x}")


def saved(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def drawn(width, height, seed=1):
    """An image with smooth and sharp parts and some noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    noise = np.random.default_rng(seed)
    levels = np.stack([columns * 255 / width, rows * 255 / height, (rows // 7 + columns // 9) % 2 * 255], -1)
    levels = levels + noise.normal(0, 6, levels.shape)
    for _ in range(4):
        y, x = noise.integers(0, height), noise.integers(0, width)
        disc = (rows - y) ** 2 + (columns - x) ** 2 < (min(width, height) // 4) ** 2
        levels[disc] = noise.integers(0, 256, 3)
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


picture = drawn(45, 37)
colours = [np.array(channel) for channel in picture.split()]
luma = [np.array(channel) for channel in picture.convert("YCbCr").split()]
black = [255 - np.clip(colours[0] // 2 + 60, 0, 255).astype(np.uint8)]
jfif = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


# JPEG files with all kinds of sampling, in one scan and in three, with and without restart markers.
one = (1, 1)
sampling = {
    "444": [one] * 3,
    "422": [(2, 1), one, one],
    "420": [(2, 2), one, one],
    "440": [(1, 2), one, one],
    "411": [(4, 1), one, one],
    "410": [(4, 2), one, one],
    "311": [(3, 1), one, one],
    "mixed": [(2, 2), (2, 1), one],
    "chroma": [one, (2, 2), (2, 2)],
}
for name, factors in sampling.items():
    keep(f"{name}.jpg", encode(luma, factors, markers=jfif))
    keep(f"{name}-scans.jpg", encode(luma, factors, markers=jfif, interleaved=False))
    keep(f"{name}-restart.jpg", encode(luma, factors, markers=jfif, restart=2, interleaved=name != "420"))
keep("fraction.jpg", encode(luma, [(3, 1), (2, 1), one], markers=jfif), refused=True)
for name, factor in {"grey": one, "grey22": (2, 2), "grey12": (1, 2)}.items():
    keep(f"{name}.jpg", encode(luma[:1], [factor], markers=jfif, restart=4))
keep("two.jpg", encode(luma[:2], [one] * 2), refused=True)
# JPEG files with all kinds of colour spaces.
for name, factors in {"444": [one] * 4, "420": [(2, 2), one, one, (2, 2)]}.items():
    for transform in (None, 0, 2):
        markers = b"" if transform is None else adobe(transform)
        keep(f"ink{name}-{transform}.jpg", encode(colours + black, factors, markers=markers))
keep("rgb-adobe.jpg", encode(colours, sampling["444"], markers=adobe(0)))
keep("rgb-names.jpg", encode(colours, sampling["444"], ids=b"RGB"))
keep("rgb-names-jfif.jpg", encode(colours, sampling["444"], ids=b"RGB", markers=jfif))
keep("ycc-adobe.jpg", encode(luma, sampling["420"], markers=adobe(1)))
keep("ycc-names.jpg", encode(luma, sampling["420"], ids=(0, 1, 2)))
keep("cmyk.jpg", saved(picture.convert("CMYK"), "JPEG", progressive=True))
# JPEG files with other segments, and with bytes around the image.
plain = encode(luma, sampling["420"])
exif = Image.Exif()
exif[0x112] = 6
for name, padding in {"zeros": bytes(7), "fill": b"\xff" * 3, "junk": b"abc\xff\0def"}.items():
    keep(f"padded-{name}.jpg", encode(luma, sampling["420"], markers=jfif, padding=padding))
keep("left-over.jpg", encode(luma, sampling["420"], left_over=b"\0" * 200))
keep("trailing.jpg", plain + b"trailing" * 9)
keep("two-pictures.jpg", saved(picture, "MPO", save_all=True, append_images=[drawn(45, 37, 2)]))
keep("preview.jpg", encode(luma, sampling["420"], markers=segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0" + plain)))
keep("rotated.jpg", saved(picture, "JPEG", exif=exif))
profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
keep("profile.jpg", saved(picture, "JPEG", icc_profile=profile))
keep("adobe-xmp.jpg", encode(luma, sampling["420"], markers=segment(0xEE, b"http://ns.adobe.com/xap/1.0/")))
broken = [segment(0xE2, b"ICC_PROFILE\0\1\1"), segment(0xE1, b"Exif\0\0x"), segment(0xED, b"Photoshop 3.0\0x")]
keep("broken-metadata.jpg", encode(luma, sampling["420"], markers=b"".join(broken)))
keep("no-tables.jpg", encode(luma, sampling["422"], huffman=b"", markers=segment(0xE0, b"AVI1" + bytes(10))))
keep("extended.jpg", encode(luma, sampling["420"], sof=0xC1))
keep("lines.jpg", plain[:-2] + segment(0xDC, struct.pack(">H", 37)) + plain[-2:])
# JPEG files that the replica must refuse, because Pillow paints missing parts grey. The data of arithmetic.jpg is
# Huffman-coded, so its pixels are noise.
frame = plain.index(b"\xff\xc0")
keep("no-height.jpg", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :], refused=True)
keep("deep.jpg", plain[: frame + 4] + b"\x0c" + plain[frame + 5 :], refused=True)
keep("arithmetic.jpg", encode(luma, sampling["420"], sof=0xC9))
keep("lossless.jpg", encode(luma, sampling["420"], sof=0xC3), refused=True)
keep("no-end.jpg", plain[:-2], refused=True)
keep("half-and-end.jpg", plain[: len(plain) // 2] + b"\xff\xd9", refused=True)
restarts = encode(luma, sampling["420"], restart=2)
lost = restarts.index(b"\xff\xd1")
keep("lost-restart.jpg", restarts[:lost] + restarts[restarts.index(b"\xff\xd2") :], refused=True)
wave = saved(picture, "JPEG", progressive=True)
keep("lost-scan.jpg", wave[: wave.rindex(b"\xff\xda")] + b"\xff\xd9")
# JPEG files of several sizes, baseline and progressive.
for width, height in ((1, 1), (1, 300), (300, 1), (3, 2), (5, 7), (16, 16), (17, 13), (33, 31)):
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            file = saved(drawn(width, height), "JPEG", subsampling=subsampling, progressive=progressive)
            keep(f"{width}x{height}-{subsampling}{'p' * progressive}.jpg", file)
keep("progressive-restart.jpg", saved(picture, "JPEG", progressive=True, restart_marker_blocks=2))
keep("progressive-grey.jpg", saved(picture.convert("L"), "JPEG", progressive=True, quality=95))


# PNG files.
def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(kind, depth, extra=b"", interlaced=False, size=(13, 11), after=b"", end=chunk(b"IEND", b"")):
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    rows = b""
    for left, top, across, down in PASSES if interlaced else [(0, 0, 1, 1)]:
        columns, lines = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        for _ in range(lines if columns > 0 else 0):
            rows += b"\0" + random.integers(0, 256, (columns * bits + 7) // 8, dtype=np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, interlaced)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + extra + chunk(b"IDAT", zlib.compress(rows)) + after + end


palette = random.integers(0, 256, 768, dtype=np.uint8).tobytes()
transparent = {0: b"\0\1", 2: b"\0\1\0\2\0\3", 3: b"\0\x80"}
for kind, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
    for depth in depths:
        extra = chunk(b"PLTE", palette[: 3 << depth]) if kind == 3 else b""
        keep(f"{kind}-{depth}.png", png(kind, depth, extra))
        keep(f"{kind}-{depth}-interlaced.png", png(kind, depth, extra, interlaced=True))
        if kind in transparent:
            keep(f"{kind}-{depth}-transparent.png", png(kind, depth, extra + chunk(b"tRNS", transparent[kind])))
keep("1x1.png", png(2, 8, size=(1, 1), interlaced=True))
metadata = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"iCCP", b"x\0\0" + zlib.compress(b"nonsense"))
keep("metadata.png", png(2, 8, metadata + chunk(b"tEXt", b"a\0b"), after=chunk(b"tIME", bytes(7))))
keep("trailing.png", png(2, 8) + b"trailing")
keep("rotated.png", saved(picture, "PNG", exif=exif))
frames = [drawn(20, 15, seed) for seed in (1, 2, 3)]
keep("animated.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:]))
keep("animated-else.png", saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True))
keep("no-end.png", png(2, 8, end=b""), refused=True)
file = bytearray(png(2, 8))
file[file.index(b"IDAT") + 20] ^= 1
keep("checksum.png", bytes(file), refused=True)
file = png(2, 8, chunk(b"tEXt", b"a\0b")[:-1] + b"?")
keep("text-checksum.png", file, like=file.replace(chunk(b"tEXt", b"a\0b")[:-1] + b"?", b""))

# WebP files.
veiled = picture.convert("RGBA")
veiled.putalpha(picture.split()[1])
for name, options in {"lossless": {"lossless": True}, "lossy": {"quality": 80}, "rough": {"quality": 10}}.items():
    keep(f"{name}.webp", saved(picture, "WEBP", **options))
    keep(f"{name}-alpha.webp", saved(veiled, "WEBP", **options))
    animation = {"save_all": True, "append_images": frames[1:], "background": (255, 0, 0, 255), **options}
    keep(f"{name}-animated.webp", saved(frames[0], "WEBP", **animation))
keep("1x1.webp", saved(drawn(1, 1), "WEBP"))
keep("metadata.webp", saved(picture, "WEBP", exif=exif, icc_profile=b"x" * 50, xmp=b"<x/>") + b"trailing")
keep("short.webp", saved(picture, "WEBP")[:-1], refused=True)

with open("odd/levels.txt", "w") as out:
    out.write("\n".join(levels) + "\n")

source = Image.open("picture.png")
for resize, crop, mode in (
    (96, 64, "bicubic"),
    (96, 64, "nearest"),
    (200, 64, "bicubic"),
    (60, 80, "bilinear"),
    (40, 80, "bicubic"),
):
    resized = functional.resize(source, resize, InterpolationMode(mode), antialias=True)
    functional.center_crop(resized, crop).save(f"odd/{resize}-{crop}-{mode}.crop.png")
