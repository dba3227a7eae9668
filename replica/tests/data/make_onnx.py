"""Makes tiny.onnx, a random network with the operators of mobile networks and transformers, exported with torch's
exporter, and prints its logits of the images that `replica/src/model/onnx.rs` makes. Needs torch and onnxscript."""

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

SIDE = 16


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Hardswish())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Sequential(nn.GELU(), nn.Linear(8, 4))

    def forward(self, x):
        x = self.depthwise(self.stem(x))
        x = x * self.gate(x)
        x = self.norm(x.flatten(2).transpose(1, 2))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


torch.manual_seed(1)
model = Tiny().eval()
nn.init.uniform_(model.stem[1].running_mean, -0.2, 0.2)
nn.init.uniform_(model.stem[1].running_var, 0.5, 1.5)
path = Path(__file__).with_name("tiny.onnx")
torch.onnx.export(model, (torch.zeros(2, 3, SIDE, SIDE),), path, dynamo=True, opset_version=18, external_data=False,
                  dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["input"], output_names=["logits"])
exported = onnx.load(path)
# Without the names of Python's modules and the paths of source files, the file is shorter.
for node in exported.graph.node:
    del node.metadata_props[:]
del exported.graph.value_info[:]
for key, value in {"labels": "ant\nbee\ncat\ndog", "mean": "0.5,0.5,0.5", "std": "0.5,0.5,0.5", "resize": "16"}.items():
    exported.metadata_props.add(key=key, value=value)
onnx.save(exported, path)

length = 3 * SIDE * SIDE
numbers = (np.arange(3 * length) * 31 % 97 / 48 - 1).astype(np.float32)
with torch.inference_mode():
    torch.set_printoptions(precision=6)
    print(model(torch.from_numpy(numbers.reshape(3, SIDE, SIDE, 3)).permute(0, 3, 1, 2)))
