"""A baseline JPEG encoder for files that Pillow does not write: any sampling, component names, markers and defects."""

import io
import struct

import numpy as np
from PIL import Image

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
BASIS = np.array(
    [[np.sqrt((1 if u == 0 else 2) / 8) * np.cos((2 * x + 1) * u * np.pi / 16) for x in range(8)] for u in range(8)]
)


def segment(marker, content):
    """A marker segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def tables():
    """The standard's Huffman tables, taken from a file of Pillow: segments, and codes by (class, destination)."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG")
    file, at, segments, codes = stream.getvalue(), 2, b"", {}
    while file[at + 1] != 0xDA:
        length = struct.unpack(">H", file[at + 2 : at + 4])[0]
        if file[at + 1] == 0xC4:
            segments += file[at : at + 2 + length]
            content = file[at + 4 : at + 2 + length]
            while content:
                counts, code, table = content[1:17], 0, {}
                symbols = iter(content[17 : 17 + sum(counts)])
                for bits, count in enumerate(counts, 1):
                    for _ in range(count):
                        table[next(symbols)] = (code, bits)
                        code += 1
                    code <<= 1
                codes[divmod(content[0], 16)] = table
                content = content[17 + sum(counts) :]
        at += 2 + length
    return segments, codes


HUFFMAN, CODES = tables()


class Bits:
    """Collects bits, and stuffs a zero after each byte 0xFF."""

    def __init__(self):
        self.text = []

    def put(self, code, bits):
        if bits:
            self.text.append(format(code, f"0{bits}b"))

    def value(self, number, size):
        self.put(number if number >= 0 else number + (1 << size) - 1, size)

    def bytes(self):
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")


def block(bits, levels, step, predictor, kind):
    """Encodes a block of levels with one quantisation step. Returns the DC coefficient of the block."""
    found = np.round(BASIS @ (levels - 128.0) @ BASIS.T / step).astype(int).flatten()[ZIGZAG]
    size = int(abs(found[0] - predictor)).bit_length()
    bits.put(*CODES[0, kind][size])
    bits.value(int(found[0] - predictor), size)
    run = 0
    last = max((i for i in range(64) if found[i]), default=0)
    for number in found[1 : last + 1].tolist():
        if number == 0:
            run += 1
            continue
        while run > 15:
            bits.put(*CODES[1, kind][0xF0])
            run -= 16
        size = abs(number).bit_length()
        bits.put(*CODES[1, kind][run << 4 | size])
        bits.value(number, size)
        run = 0
    if last < 63:
        bits.put(*CODES[1, kind][0])
    return found[0]


def encode(
    channels,
    factors,
    ids=(1, 2, 3, 4),
    markers=b"",
    interleaved=True,
    restart=0,
    step=4,
    huffman=HUFFMAN,
    padding=b"",
    left_over=b"",
    sof=0xC0,
    end=b"\xff\xd9",
):
    """Encodes an image.

    `channels` are arrays of the image's size, `factors` the sampling factors (across, down) of each, and `restart` is
    the number of MCUs between restart markers.
    """
    height, width = channels[0].shape
    most = (max(f[0] for f in factors), max(f[1] for f in factors))
    units = (-(-width // (8 * most[0])), -(-height // (8 * most[1])))
    planes = []
    for channel, (across, down) in zip(channels, factors):
        full = np.pad(
            channel.astype(float),
            ((0, units[1] * 8 * most[1] - height), (0, units[0] * 8 * most[0] - width)),
            mode="edge",
        )
        rows, columns = most[1] // down, most[0] // across
        planes.append(full.reshape(full.shape[0] // rows, rows, full.shape[1] // columns, columns).mean((1, 3)))
    names = list(zip(range(len(channels)), ids))
    file = b"\xff\xd8" + markers + padding + segment(0xDB, bytes([0]) + bytes([step] * 64)) + padding
    frame = b"".join(bytes([name, factors[i][0] << 4 | factors[i][1], 0]) for i, name in names)
    file += segment(sof, struct.pack(">BHHB", 8, height, width, len(channels)) + frame)
    file += huffman
    if restart:
        file += segment(0xDD, struct.pack(">H", restart))
    for scan in [names] if interleaved else [[name] for name in names]:
        header = b"".join(bytes([name, 0x11 if i in (1, 2) else 0]) for i, name in scan)
        file += padding + segment(0xDA, bytes([len(scan)]) + header + b"\0\x3f\0")
        is_single = len(scan) == 1
        across, down = factors[scan[0][0]]
        grid = (
            (-(-(-(-width * across // most[0])) // 8), -(-(-(-height * down // most[1])) // 8)) if is_single else units
        )
        bits, predictors, parts = Bits(), [0] * len(channels), []
        for unit in range(grid[0] * grid[1]):
            if restart and unit and unit % restart == 0:
                parts.append(bits.bytes())
                bits, predictors = Bits(), [0] * len(channels)
            y, x = divmod(unit, grid[0])
            for i, _ in scan:
                across, down = (1, 1) if is_single else factors[i]
                for v in range(down):
                    for h in range(across):
                        top, left = 8 * (y * down + v), 8 * (x * across + h)
                        levels = planes[i][top : top + 8, left : left + 8]
                        predictors[i] = block(bits, levels, step, predictors[i], int(i in (1, 2)))
        parts.append(bits.bytes())
        data = parts[0]
        for number, part in enumerate(parts[1:]):
            data += bytes([0xFF, 0xD0 + number % 8]) + part
        file += data + left_over
    return file + end
