"""Makes image files for measuring the replica out of drawn images.

Usage: images.py DRAWN FOLDER
Reads the images DRAWN/*.jpg. Writes to FOLDER 38k.jpg and 166k.jpg, both of 640x480 pixels, and mixed/ with 40 files of
many sizes and in all formats that the replica decodes.
"""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

drawn, folder = Path(sys.argv[1]), Path(sys.argv[2])
sources = sorted(drawn.glob("*.jpg"))
(folder / "mixed").mkdir(parents=True, exist_ok=True)


def scene(index, size):
    """A drawn image, resized to `size` (width, height), with noise like that of a camera."""
    image = Image.open(sources[index % len(sources)]).convert("RGB").resize(size, Image.BICUBIC)
    noise = np.random.default_rng(index).normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


image = scene(7, (640, 480))
encoded = [jpeg(image, quality) for quality in range(20, 101)]
for name, size in [("38k.jpg", 38_000), ("166k.jpg", 166_000)]:
    (folder / name).write_bytes(min(encoded, key=lambda file: abs(len(file) - size)))

short_sides = [32, 97, 160, 224, 256, 300, 480, 600, 720, 1080]
for index in range(40):
    short = short_sides[index % len(short_sides)]
    # Four common aspect ratios, and one image of 4000x3000 pixels, as phones take them.
    long = short * [4, 5, 16, 7][index // len(short_sides)] // [3, 4, 9, 7][index // len(short_sides)]
    size = (4000, 3000) if index == 29 else (long, short) if index % 3 else (short, long)
    kind = ["jpeg", "jpeg", "jpeg", "png", "webp"][(index + index // len(short_sides)) % 5]
    scene(index, size).save(folder / "mixed" / f"{index:02}.{kind}")
