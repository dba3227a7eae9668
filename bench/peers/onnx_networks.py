"""Exports random networks of torchvision and timm to ONNX, serves each with the replica, and compares the logits with
torch's. Prints a line of JSON for each.

onnx_networks.py FOLDER REPLICA [--only PART]     FOLDER keeps the exported files, REPLICA is the program.
"""

import argparse
import json
import subprocess
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision

SIDE, IMAGES, CLASSES = 224, 4, 100
# The names of networks with the ways to export them. A name that begins with `timm:` is timm's, others are torchvision's.
# dynamo and classic are torch's two exporters, with the version of the operators.
NETWORKS = {
    "mobilenet_v3_large": ["dynamo18", "dynamo20", "classic17", "classic20"],
    "efficientnet_b0": ["dynamo18", "classic17"],
    "convnext_tiny": ["dynamo18", "classic17"],
    "vit_b_16": ["dynamo18", "classic17", "external18"],
    "resnet50": ["dynamo18", "classic17"],
    "regnet_y_400mf": ["dynamo18", "classic17"],
    "densenet121": ["dynamo18", "classic17"],
    "squeezenet1_0": ["dynamo18", "classic17", "fixed18"],
    "swin_t": ["dynamo18", "classic17"],
    "timm:mobilenetv3_large_100": ["dynamo18", "classic17"],
    "timm:efficientnet_b0": ["dynamo18", "classic17"],
    "timm:convnext_tiny": ["dynamo18", "classic17"],
    "timm:vit_base_patch16_224": ["dynamo18", "classic17"],
}

warnings.filterwarnings("ignore")
torch.set_num_threads(1)


def network(name):
    """A network with random weights, whose normalisations have the means and variances of random images."""
    torch.manual_seed(1)
    if name.startswith("timm:"):
        model = timm.create_model(name.removeprefix("timm:"), num_classes=CLASSES)
    else:
        model = torchvision.models.get_model(name, num_classes=CLASSES)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
        # Some networks begin with a last layer of zeros, whose logits would say nothing.
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.02)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, SIDE, SIDE))
    return model.eval()


def export(model, way, path):
    exporter, opset = way.rstrip("0123456789"), int(way[-2:])
    images = torch.randn(1 if exporter == "fixed" else 2, 3, SIDE, SIDE)
    options = {"opset_version": opset, "input_names": ["input"], "output_names": ["logits"]}
    if exporter == "classic":
        torch.onnx.export(model, (images,), path, dynamo=False, dynamic_axes={"input": {0: "n"}}, **options)
        return
    if exporter != "fixed":
        options["dynamic_shapes"] = ({0: torch.export.Dim("n")},)
    torch.onnx.export(
        model, (images,), path, dynamo=True, external_data=exporter == "external", verbose=False, **options
    )


def ready(address):
    try:
        urllib.request.urlopen(address + "/readyz").close()
        return True
    except urllib.error.URLError:
        return False


def served(program, path, images):
    """The logits of a replica that serves the file."""
    command = [program, "--weights", path, "--listen", "127.0.0.1:0", "--workers", "1", "--max-batch", str(IMAGES)]
    command += ["--capacity", "8", "--deadline", "60s", "--log", "error", "--exit-with-parent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as replica:
        try:
            address = replica.stdout.readline().split()[-1]
            while not ready(address):
                time.sleep(0.1)
                if replica.poll() is not None:
                    raise SystemExit(f"{path}: the replica ends with status {replica.returncode}")
            tensor = {"name": "input", "datatype": "FP32", "shape": images.shape}
            tensor["parameters"] = {"binary_data_size": images.nbytes}
            head = json.dumps({
                "inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]
            }).encode()
            headers = {"Inference-Header-Content-Length": str(len(head)), "X-Request-Timeout-Ms": "60000"}
            url = f"{address}/v2/models/{path.stem}/infer"
            with urllib.request.urlopen(urllib.request.Request(url, head + images.tobytes(), headers)) as answer:
                start = int(answer.headers["Inference-Header-Content-Length"])
                return np.frombuffer(answer.read()[start:], np.float32).reshape(IMAGES, -1)
        finally:
            replica.kill()


parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("program", type=Path)
parser.add_argument("--only", default="")
args = parser.parse_args()
args.folder.mkdir(parents=True, exist_ok=True)
images = np.random.default_rng(1).standard_normal((IMAGES, 3, SIDE, SIDE), np.float32)
for name, ways in NETWORKS.items():
    ways = [way for way in ways if args.only in f"{name} {way}"]
    if not ways:
        continue
    model = network(name)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    for way in ways:
        path = args.folder / f"{name.replace(':', '_')}-{way}.onnx"
        if not path.exists():
            export(model, way, path)
        found = served(args.program, path, images)
        relative = float((np.abs(found - expected).max(1) / np.abs(expected).max(1)).max())
        print(json.dumps({"name": name, "way": way, "relative": relative}), flush=True)
