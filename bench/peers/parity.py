"""torchvision's part of `cargo xtask parity`. All files are in FOLDER.

parity.py images FOLDER            Makes images/*, list.txt and theirs.u8 of drawn/*.jpg.
parity.py weights FOLDER ARCH      Writes random weights to ARCH.pth, as torch.save(model.state_dict()) does.
parity.py pixels FOLDER            Compares ours.u8 with theirs.u8.
parity.py logits FOLDER NAME ARCH WEIGHTS    Compares NAME-own.f32 and NAME-given.f32 with torchvision's logits.

Each task prints its results as JSON. Names with "ours" are for the replica's pixels, names with "theirs" for
torchvision's. "own" logits are of the replica's pixels, "given" logits are of torchvision's.
"""

import json
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms import functional
from torchvision.transforms._presets import ImageClassification

# torchvision's loader converts transparent palettes to RGB, and PIL warns that RGBA would be better.
warnings.filterwarnings("ignore", "Palette images with Transparency")
# Several threads would wait for each other in busy loops, and take processor time from other programs.
torch.set_num_threads(1)

TRANSFORM = ImageClassification(crop_size=224)
JPEG_SIZES = [(1, 1), (8, 8), (17, 31), (223, 225), (224, 224), (256, 256), (257, 255), (300, 100), (101, 333),
              (640, 480), (480, 640), (641, 479), (1000, 37), (1280, 720), (2000, 1500), (3000, 200)]
OTHER_SIZES = [(1, 1), (33, 20), (224, 224), (255, 257), (640, 480), (331, 601), (1024, 768)]
EXIF_ORIENTATION = 0x0112


def png16(image, channels):
    """A PNG file with 16 bits a channel, which PIL cannot write: grey (1 channel), RGB (3) or RGBA (4)."""
    levels = np.asarray(image).astype(np.uint16) * 257
    levels[::2] ^= 0x35  # In every second row, the lower byte differs from the upper one.
    if channels == 1:
        levels = levels[:, :, :1]
    if channels == 4:
        levels = np.concatenate([levels, levels[:, :, :1]], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    kind = {1: 0, 3: 2, 4: 6}[channels]

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", image.width, image.height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def translucent(image):
    """The image with an alpha channel from transparent at the top to opaque at the bottom."""
    copy = image.convert("RGBA")
    copy.putalpha(Image.linear_gradient("L").resize(image.size))
    return copy


def variants():
    """Yields (kind, size, writer) for every test image. The writer takes an image and an open file, and encodes it."""

    def saved(kind, sizes, mode=None, **options):
        def write(image, file):
            image = mode(image) if callable(mode) else image.convert(mode) if mode else image
            image.save(file, kind.split("-")[0], **options)

        return [(kind, size, write) for size in sizes]

    rotated = Image.Exif()
    rotated[EXIF_ORIENTATION] = 6
    for subsampling, name in [(0, "444"), (1, "422"), (2, "420")]:
        for quality in [10, 60, 85, 98]:
            yield from saved(f"jpeg-{name}", JPEG_SIZES, quality=quality, subsampling=subsampling)
        yield from saved(f"jpeg-progressive-{name}", OTHER_SIZES, quality=80, subsampling=subsampling, progressive=True)
    yield from saved("jpeg-grey", JPEG_SIZES, "L", quality=85)
    yield from saved("jpeg-cmyk", OTHER_SIZES, "CMYK", quality=90)
    yield from saved("jpeg-rgb", OTHER_SIZES, quality=90, keep_rgb=True)
    yield from saved("jpeg-restart", OTHER_SIZES, quality=85, restart_marker_blocks=3)
    yield from saved("jpeg-exif", OTHER_SIZES, quality=85, exif=rotated)
    for mode in ["1", "L", "LA", "P", "RGB", "RGBA"]:
        yield from saved(f"png-{mode.lower()}", OTHER_SIZES, translucent if mode == "RGBA" else mode)
    yield from saved("png-p4", OTHER_SIZES, lambda image: image.quantize(13), bits=4)
    yield from saved("png-transparent", OTHER_SIZES, lambda image: image.quantize(40), transparency=3)
    for channels in [1, 3, 4]:
        write = lambda image, file, channels=channels: file.write(png16(image, channels))
        yield from ((f"png-16x{channels}", size, write) for size in OTHER_SIZES)
    for quality in [20, 80]:
        yield from saved("webp-lossy", OTHER_SIZES, quality=quality)
    yield from saved("webp-lossless", OTHER_SIZES, lossless=True)
    yield from saved("webp-alpha", OTHER_SIZES, translucent, quality=80)


def crop(path):
    """The pixels of an image file after resizing and cropping: an array [224, 224, 3] of 8 bits."""
    image = Image.open(path).convert("RGB")
    resized = functional.resize(image, TRANSFORM.resize_size, TRANSFORM.interpolation, antialias=TRANSFORM.antialias)
    return np.asarray(functional.center_crop(resized, TRANSFORM.crop_size))


def images(folder):
    drawn = sorted((folder / "drawn").glob("*.jpg"))
    (folder / "images").mkdir(exist_ok=True)
    rows, crops = [], []
    for index, (kind, size, write) in enumerate(variants()):
        path = folder / "images" / f"{index:03}.{kind.split('-')[0]}"
        with open(path, "wb") as file:
            write(Image.open(drawn[index % len(drawn)]).convert("RGB").resize(size, Image.BICUBIC), file)
        rows.append(f"{kind}\t{path}\n")
        crops.append(crop(path))
    (folder / "list.txt").write_text("".join(rows))
    np.stack(crops).tofile(folder / "theirs.u8")
    return {"images": len(rows)}


def read(folder):
    """The kinds and paths of all test images, and torchvision's crops of them."""
    kinds, paths = zip(*(row.split("\t") for row in (folder / "list.txt").read_text().splitlines()))
    return kinds, paths, np.fromfile(folder / "theirs.u8", np.uint8).reshape(-1, 224, 224, 3)


def accepted(folder, paths):
    """A mask of the images that the replica accepts, and for the others the reason of the refusal by path."""
    refused = dict(row.split("\t", 1) for row in (folder / "refused.txt").read_text().splitlines())
    return np.array([path not in refused for path in paths]), refused


def pixels(folder):
    kinds, paths, theirs = read(folder)
    ours = np.fromfile(folder / "ours.u8", np.uint8).reshape(theirs.shape)
    difference = np.abs(ours.astype(np.int16) - theirs)
    taken, refused = accepted(folder, paths)
    summary = lambda which: {"mean": float(difference[which].mean()), "max": int(difference[which].max())}
    by_kind = []
    for kind in dict.fromkeys(kinds):
        which = taken & np.array([each == kind for each in kinds])
        row = {"kind": kind, "images": kinds.count(kind), "refused": kinds.count(kind) - int(which.sum())}
        by_kind.append(row | (summary(which) if which.any() else {}))
    worst = max(np.flatnonzero(taken), key=lambda index: (difference[index].max(), difference[index].mean()))
    by_kind_and_all = {"kinds": by_kind, "refused": [{"file": file, "reason": why} for file, why in refused.items()]}
    return by_kind_and_all | summary(taken) | {"worst": paths[worst]}


def normalised(crops):
    """The model's input, [n, 3, 224, 224], for pixels [n, 224, 224, 3] of 8 bits."""
    scaled = torch.from_numpy(crops.copy()).permute(0, 3, 1, 2).float() / 255
    return functional.normalize(scaled, TRANSFORM.mean, TRANSFORM.std)


def weights(folder, arch):
    torch.manual_seed(1)
    model = torchvision.models.get_model(arch)
    # With a momentum of 1, batch normalisation takes over the means and variances of these images. With the initial
    # values, every image would get the same class.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    _, _, crops = read(folder)
    with torch.no_grad():
        model.train()(normalised(crops[:: len(crops) // 16]))
    torch.save(model.state_dict(), folder / f"{arch}.pth")
    return {}


def logits(folder, name, arch, weights):
    state = load_file(weights) if weights.endswith(".safetensors") else torch.load(weights, weights_only=True)
    model = torchvision.models.get_model(arch, num_classes=len(state["fc.bias"])).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)
    _, paths, crops = read(folder)
    with torch.inference_mode():
        theirs = torch.cat([model(normalised(part)) for part in np.array_split(crops, len(crops) // 16)]).numpy()
    own, given = (np.fromfile(folder / f"{name}-{of}.f32", np.float32).reshape(theirs.shape) for of in ("own", "given"))
    taken, _ = accepted(folder, paths)
    best = lambda scores, count: np.argsort(-scores[taken], axis=1, kind="stable")[:, :count]
    same = [len(set(a) & set(b)) / 5 for a, b in zip(best(own, 5), best(theirs, 5))]
    return {
        "relative": float((np.abs(given - theirs).max(1) / np.abs(theirs).max(1)).max()),
        "top1": float((best(own, 1) == best(theirs, 1)).mean()),
        "top5": float(np.mean(same)),
        "top1_given": float((best(given, 1) == best(theirs, 1)).mean()),
        "classes": len(set(best(theirs, 1).ravel().tolist())),
    }


task, folder, *rest = sys.argv[1:]
print(json.dumps({"images": images, "weights": weights, "pixels": pixels, "logits": logits}[task](Path(folder), *rest)))
