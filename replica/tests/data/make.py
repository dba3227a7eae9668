"""Makes the files in this folder with torch 2.13 and torchvision 0.28. The replica's results are compared with them."""

import argparse
from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

torch.manual_seed(1)
# Names with the prefix of a first block, by which the replica finds weights.
state = OrderedDict()
state["layer1.0.single"] = torch.tensor([[1.0, -2.5], [3.25, 0.0]])
state["layer1.0.half"] = torch.tensor([0.5, -0.25]).half()
state["layer1.0.bfloat"] = torch.tensor([2.0, -8.0]).bfloat16()
state["layer1.0.double"] = torch.tensor([0.5, 4.0]).double()
state["layer1.0.counter"] = torch.tensor(7)
shared = torch.arange(6, dtype=torch.float32)
state["layer1.0.tail"] = shared[4:]
state["layer1.0.strided"] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).t()
state["layer1.0.parameter"] = torch.nn.Parameter(torch.tensor([7.0]))
state["layer1.0.again"] = shared
state._metadata = {"": {"version": 1}}
torch.save(state, "ordered.pth")
torch.save(dict(state), "plain.pth")
torch.save(state, "legacy.pth", _use_new_zipfile_serialization=False)
# The first entry of this file's directory, name-of-21-characters/data.pkl, has just the length of two other records.
torch.save(state, "name-of-21-characters.pth")
torch.save(state, "protocol-4.pth", pickle_protocol=4)
torch.save(state, "protocol-5.pth", pickle_protocol=5)
torch.save(state, "legacy-4.pth", pickle_protocol=4, _use_new_zipfile_serialization=False)
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.AdamW([parameter])
parameter.sum().backward()
optimizer.step()
beside = {
    "optimizer": optimizer.state_dict(), "args": argparse.Namespace(lr=0.1, names={"a"}), "epoch": 3, "loss": 0.25,
    "best": torch.tensor(0.5).double(), "rng": torch.get_rng_state(), "array": np.arange(3), "long": -(2**100),
    "size": torch.Size([1, 2]), "dtype": torch.float16, "bytes": b"abc", "function": torch.relu,
}
average = {"module": {name: tensor + 1 for name, tensor in state.items() if tensor.is_floating_point()}}
torch.save(beside | {"state_dict": state, "ema": average}, "checkpoint.pth")
torch.save(beside | {"model": state, "model_ema": state}, "checkpoint-legacy.pth", pickle_protocol=5,
           _use_new_zipfile_serialization=False)
torch.save(torch.nn.Linear(1, 1), "module.pth")
torch.save({"epoch": 3, "model": torch.nn.Linear(1, 1)}, "module-within.pth")

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
