"""Times decoding with PIL and torchvision's transform for evaluation. The peer of `bench-replica decode`.

Usage: decode.py FILE...
On standard input, a line "time INDEX REPEATS" is answered with the milliseconds of each repetition: the time from the
bytes of the file with that index to its tensor. The first file has the index 0.
"""

import io
import sys
import time

import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

torch.set_num_threads(1)
transform = ImageClassification(crop_size=224)
files = [open(path, "rb").read() for path in sys.argv[1:]]
print("ready PIL and torchvision", flush=True)
for line in sys.stdin:
    _, index, repeats = line.split()
    times = []
    for _ in range(int(repeats)):
        start = time.perf_counter()
        transform(Image.open(io.BytesIO(files[int(index)])).convert("RGB"))
        times.append((time.perf_counter() - start) * 1e3)
    print(*times, flush=True)
