"""Makes the files in this folder with torch 2.13 and torchvision 0.28. The replica's results are compared with them."""

from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

torch.manual_seed(1)
state = OrderedDict()
state["single"] = torch.tensor([[1.0, -2.5], [3.25, 0.0]])
state["half"] = torch.tensor([0.5, -0.25]).half()
state["bfloat"] = torch.tensor([2.0, -8.0]).bfloat16()
state["counter"] = torch.tensor(7)
shared = torch.arange(6, dtype=torch.float32)
state["tail"] = shared[4:]
state._metadata = {"": {"version": 1}}
torch.save(state, "ordered.pth")
torch.save(dict(state), "plain.pth")
torch.save(state, "legacy.pth", _use_new_zipfile_serialization=False)
torch.save({"epoch": 3, "state_dict": state}, "checkpoint.pth")
torch.save({"strided": torch.ones(2, 3).t()}, "strided.pth")

# An image with smooth and sharp parts, and the crop that torchvision's evaluation transform normalises.
rows, columns = np.mgrid[0:150, 0:213]
picture = np.stack([columns * 255 // 213, rows * 255 // 150, ((rows // 7 + columns // 9) % 2) * 255], axis=-1)
picture = Image.fromarray(picture.astype(np.uint8))
picture.save("picture.png")
transform = v2.Compose([v2.Resize(256, InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop(224)])
transform(picture).save("picture-224.png")
large = picture.resize((900, 1301), Image.NEAREST)
large.save("large.jpg", quality=90)
transform(Image.open("large.jpg")).save("large-224.png")
small = picture.resize((120, 90))
for name, mode in {"grey": "L", "cmyk": "CMYK", "palette": "P", "alpha": "RGBA"}.items():
    small.convert(mode).save(f"{name}.{'jpg' if mode in ('L', 'CMYK') else 'png'}")
small.save("lossless.webp", lossless=True)
small.save("progressive.jpg", progressive=True)
# A PNG of 400 megapixels in 49 KB, and a JPEG whose header says that it has 400 megapixels.
Image.new("1", (20000, 20000)).save("bomb.png", optimize=True)
header = bytearray(open("grey.jpg", "rb").read())
frame = header.index(b"\xff\xc0")
header[frame + 5 : frame + 9] = (20000).to_bytes(2, "big") * 2
open("bomb.jpg", "wb").write(header)
