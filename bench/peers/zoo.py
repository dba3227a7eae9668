"""Makes the checkpoints of `cargo xtask bench zoo` in FOLDER, as torch, torchvision, timm, transformers and safetensors
write them, and zoo.json, a list of {"name", "path"} with the expected result:

"logits": a file of f32, the logits that torch computes of input.f32 ([n, 64, 64, 3], normalised), or
"refused": a part of the message, or
"crop": a file of [side, side, 3] levels that the framework's transform makes of picture.png, with its "mean" and "std".
"key" is the value of --weights-key.

zoo.py FOLDER
"""

import argparse
import copy
import json
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from PIL import Image

torch.set_num_threads(2)
torch.manual_seed(1)
FOLDER = Path(sys.argv[1])
FOLDER.mkdir(parents=True, exist_ok=True)
SIDE, CLASSES = 64, 10
INPUT = torch.randn(3, 3, SIDE, SIDE)
INPUT.permute(0, 2, 3, 1).contiguous().numpy().tofile(FOLDER / "input.f32")
ROWS = []


def prepared(model):
    """The model with the means and variances of random images in its batch normalisations. Residual branches are weak, as
    in trained networks. Otherwise torch's own logits of a ResNet-152 in f32 and in f64 differ by 8e-4."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            last = name.endswith(("bn3", "layer.2.normalization"))
            torch.nn.init.uniform_(module.weight, 0.1 if last else 0.5, 0.3 if last else 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, SIDE, SIDE))
    return model.eval()


def tv(arch, classes=CLASSES):
    return prepared(torchvision.models.get_model(arch, num_classes=classes))


def row(name, path, **expected):
    ROWS.append({"name": name, "path": path} | expected)


def accepted(name, path, model, **more):
    with torch.inference_mode():
        logits = model(INPUT.clone())
    logits = logits.logits if hasattr(logits, "logits") else logits
    logits.float().contiguous().numpy().tofile(FOLDER / f"{name}.logits")
    row(name, path, logits=f"{name}.logits", **more)


def saved(name, model, content, path=None, refused=None, key=None, **options):
    """Writes `content` with torch.save, and adds a row for it."""
    path = path or f"{name}.pth"
    torch.save(content, FOLDER / path, **options)
    more = {"key": key} if key else {}
    if refused:
        row(name, path, refused=refused, **more)
    else:
        accepted(name, path, model, **more)


class Tagged(OrderedDict):
    """A dict of a class that only the training program has."""


class Lightning(torch.nn.Module):
    def __init__(self, model, teacher=None):
        super().__init__()
        self.model = model
        self.criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(CLASSES))
        if teacher:
            self.teacher = teacher

    def forward(self, x):
        return self.model(x)


def prefixed(state, prefix):
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def changed(state, **changes):
    """The state dict without the names whose new value is None, and with the others."""
    new = OrderedDict((name, tensor) for name, tensor in state.items())
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del new[name]
        else:
            new[name] = tensor
    return new


def wrappers(net, state):
    other = tv("resnet18")
    optimizer = torch.optim.AdamW(net.parameters())
    net.train()(INPUT).sum().backward()
    optimizer.step()
    net.load_state_dict(state)
    net.eval()
    saved("plain", net, state)
    for protocol in [2, 3, 4, 5]:
        saved(f"protocol-{protocol}", net, state, pickle_protocol=protocol)
        saved(f"legacy-protocol-{protocol}", net, state, pickle_protocol=protocol,
              _use_new_zipfile_serialization=False)
    saved("protocol-0", net, state, refused="protocol", pickle_protocol=0)
    for key in ["state_dict", "model", "model_state", "model_state_dict", "net", "network", "weights", "anything"]:
        saved(f"in-{key}", net, {"epoch": 3, key: state, "loss": 0.25, "arch": "resnet18"})
    for key in ["ema", "state_dict_ema", "model_ema"]:
        saved(f"only-{key}", net, {"epoch": 3, key: state})
        saved(f"beside-{key}", net, {"epoch": 3, "model": state, key: other.state_dict()})
        saved(f"chosen-{key}", other, {"epoch": 3, "model": state, key: other.state_dict()}, key=key)
    saved("same-object-twice", net, {"model": state, "model_ema": state})
    saved("ema-module", net, {"ema": {"decay": 0.999, "module": state}})
    saved("ema-shadow", net, {"ema": {"decay": 0.999, "shadow": state}}, path="ema-shadow.pt")
    saved("nested", net, {"checkpoint": {"model": {"state_dict": state}}})
    for prefix in ["module.", "_orig_mod.", "_orig_mod.module.", "model.", "net.", "backbone.", "model._orig_mod.",
                   "student.encoder."]:
        saved("prefix-" + prefix.strip("."), net, {"state_dict": prefixed(state, prefix)})
    saved("data-parallel", net, torch.nn.DataParallel(net).state_dict())
    saved("compiled", net, torch.compile(net).state_dict())
    averaged = torch.optim.swa_utils.AveragedModel(net)
    averaged.update_parameters(net)
    averaged.module.eval()
    saved("averaged-model", averaged.module, averaged.state_dict())
    lightning = {
        "epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5.0", "state_dict": Lightning(net).state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {"ModelCheckpoint": {"best": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [{"_last_lr": [0.1]}],
        "hyper_parameters": {"lr": 1e-3, "layers": (1, 2), "name": None},
    }
    saved("lightning", net, lightning, path="lightning.ckpt")
    saved("lightning-teacher", net, {"state_dict": Lightning(net, other).state_dict()}, key="state_dict.model")
    saved("two-networks", None, {"state_dict": prefixed(state, "student.") | prefixed(other.state_dict(), "teacher.")},
          refused="several networks, at state_dict.student, state_dict.teacher")
    saved("no-such-key", None, state, key="ema", refused="--weights-key ema")
    namespace = argparse.Namespace(lr=0.1, data=Path("/data"), names={"a", "b"}, size=torch.Size([1, 2]))
    saved("training", net, {
        "model": state, "optimizer": optimizer.state_dict(), "args": namespace, "lr_scheduler": {"step": 2 ** 70},
        "rng": torch.get_rng_state(), "numpy": np.arange(3), "scalar": np.float64(0.5), "set": {1, 2},
        "frozen": frozenset({1}), "bytes": b"abc" * 100, "long": -(2 ** 100), "device": torch.device("cpu"),
        "dtype": torch.float16, "default": defaultdict(list, {"a": [1.5, True, None]}), "complex": 1 + 2j,
        "tagged": Tagged(a=1), "sparse": torch.eye(3).to_sparse(), "array": bytearray(b"abc"),
        "function": torch.nn.functional.relu,
    })
    saved("training-legacy", net, {"model": state, "optimizer": optimizer.state_dict(), "args": namespace},
          _use_new_zipfile_serialization=False)
    saved("tar", net, {"epoch": 90, "arch": "resnet18", "state_dict": prefixed(state, "module."), "best_acc1":
          torch.tensor(69.7), "optimizer": optimizer.state_dict()}, path="model_best.pth.tar")
    saved("pytorch-model-bin", net, state, path="pytorch_model.bin")
    parameters = OrderedDict(net.named_parameters()) | OrderedDict(net.named_buffers())
    saved("parameters", net, parameters)
    tagged = torch.nn.Parameter(net.fc.weight.detach().clone())
    tagged.note = "kept"
    saved("parameter-with-attributes", net, changed(parameters, fc__weight=tagged))
    saved("whole-module", None, net, refused="torchvision.models.resnet.ResNet")
    saved("whole-module-in-dict", None, {"epoch": 3, "model": net}, refused="torchvision.models.resnet.ResNet")
    saved("only-optimizer", None, optimizer.state_dict(), refused="no tensors with names")
    saved("list", None, list(state.values()), refused="no tensors with names")
    torch.jit.script(net).save(FOLDER / "script.pt")
    row("torchscript", "script.pt", refused="TorchScript")
    torch.export.save(torch.export.export(net, (INPUT,)), FOLDER / "exported.pt")
    row("exported", "exported.pt", refused="exported program")


def layouts(net, state):
    saved("channels-last", net, copy.deepcopy(net).to(memory_format=torch.channels_last).state_dict())
    saved("channels-last-legacy", net, copy.deepcopy(net).to(memory_format=torch.channels_last).state_dict(),
          _use_new_zipfile_serialization=False)
    strided = OrderedDict((name, tensor.t().contiguous().t() if tensor.dim() == 2 else tensor.clone())
                          for name, tensor in state.items())
    saved("transposed", net, strided)
    flat = torch.cat([tensor.flatten() for tensor in state.values() if tensor.is_floating_point()])
    views, at = OrderedDict(), 0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
            at += tensor.numel()
    saved("one-storage", net, views)
    saved("one-storage-legacy", net, views, _use_new_zipfile_serialization=False)
    tied = copy.deepcopy(net)
    tied.layer1[1].conv1.weight = tied.layer1[0].conv1.weight
    saved("tied", tied, tied.state_dict())
    expanded = copy.deepcopy(net)
    expanded.bn1.running_mean = torch.zeros(1).expand(64)
    saved("expanded", expanded, expanded.state_dict())
    for name, kind in {"f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}.items():
        low = copy.deepcopy(net).to(kind)
        saved(f"in-{name}", copy.deepcopy(low).float(), low.state_dict())
        safetensors.torch.save_file(low.state_dict(), FOLDER / f"in-{name}.safetensors")
        accepted(f"safetensors-{name}", f"in-{name}.safetensors", copy.deepcopy(low).float())
    eight = OrderedDict((name, t.to(torch.float8_e4m3fn) if t.dim() == 4 else t) for name, t in state.items())
    saved("in-float8", None, eight, refused="float8_e4m3fn")
    safetensors.torch.save_file(eight, FOLDER / "in-float8.safetensors")
    row("safetensors-float8", "in-float8.safetensors", refused="type F8_E4M3")
    saved("in-int8", None, changed(state, fc__weight=torch.ones(CLASSES, 512, dtype=torch.int8)), refused="type Char")
    saved("nan", None, changed(state, fc__bias=torch.full([CLASSES], float("nan"))), refused="NaN")
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {torch.nn.Linear}, torch.qint8)
    saved("quantized", None, quantized.state_dict(), refused="fc.")
    for name, state in {"module": prefixed(state, "module."), "plain": state}.items():
        safetensors.torch.save_file(state, FOLDER / f"{name}.safetensors", metadata={"format": "pt"})
        accepted(f"safetensors-{name}", f"{name}.safetensors", net)


def keys(net, state):
    extra = torch.randn(4, 512)
    saved("extra-keys", net, changed(state, fc2__weight=extra, aux__0__weight=extra, projector__bias=extra[0]))
    saved("no-counters", net, OrderedDict(item for item in state.items() if "num_batches" not in item[0]))
    saved("missing-key", None, changed(state, layer3__1__bn2__weight=None), refused="lack layer3.1.bn2.weight")
    saved("missing-keys", None, changed(state, bn1__bias=None, fc__bias=None), refused="lack bn1.bias, fc.bias")
    headless = changed(state, fc__weight=None, fc__bias=None)
    saved("no-classifier", None, headless, refused="one linear layer called fc")
    saved("extra-layer", None, changed(state, layer2__1__conv3__weight=extra), refused="layer2.1.conv3.weight")
    saved("convolution-bias", None, changed(state, layer2__1__conv1__bias=extra[0]), refused="layer2.1.conv1.bias")
    saved("wrong-shape", None, changed(state, fc__weight=extra[:, :300]), refused="shape [4, 300]")
    dropout = copy.deepcopy(net)
    dropout.fc = torch.nn.Sequential(torch.nn.Dropout(), net.fc).eval()
    saved("dropout-classifier", dropout, dropout.state_dict())
    deep = copy.deepcopy(net)
    deep.fc = torch.nn.Sequential(torch.nn.Linear(512, 32), torch.nn.ReLU(), torch.nn.Linear(32, CLASSES))
    saved("deep-classifier", None, deep.state_dict(), refused="one linear layer called fc")
    for classes in [1, 2, 1000]:
        model = tv("resnet18", classes)
        saved(f"classes-{classes}", model, model.state_dict())


def architectures():
    for arch in ["resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
                 "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]:
        model = tv(arch).half()
        saved(arch, copy.deepcopy(model).float(), model.state_dict())
    layers = torchvision.models.resnet
    for name, block, blocks, options in [
        ("resnet-bottleneck-1234", layers.Bottleneck, [1, 2, 3, 4], {}),
        ("resnet-basic-3113", layers.BasicBlock, [3, 1, 1, 3], {}),
        ("resnext-8x16d", layers.Bottleneck, [2, 2, 2, 2], {"groups": 8, "width_per_group": 16}),
    ]:
        model = prepared(layers.ResNet(block, blocks, num_classes=CLASSES, **options))
        saved(name, model, model.state_dict())
    for arch in ["vgg11_bn", "mobilenet_v3_small", "densenet121", "regnet_y_400mf", "shufflenet_v2_x0_5"]:
        saved(arch, None, torchvision.models.get_model(arch).state_dict(), refused="no residual network")
    dilated = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    saved("segmentation", None, dilated.state_dict(), refused="one linear layer called fc")


def from_timm():
    for arch in ["resnet18", "resnet34", "resnet50", "resnet26", "wide_resnet50_2", "resnext50_32x4d", "tv_resnet50",
                 "gluon_resnet50_v1b", "resnet14t", "resnet26d", "resnet18d", "seresnet50", "ecaresnet26t", "resnetaa50d",
                 "resnest14d", "skresnet18", "res2net50_26w_4s", "resnetv2_50", "resnet50_gn", "resnet50c", "resnet101d"]:
        if not timm.is_model(arch):
            continue
        model = timm.create_model(arch, num_classes=CLASSES)
        supported = model.state_dict().get("conv1.weight") is not None and arch in {
            "resnet18", "resnet34", "resnet50", "resnet26", "wide_resnet50_2", "resnext50_32x4d", "tv_resnet50",
            "gluon_resnet50_v1b"}
        if supported:
            safetensors.torch.save_file(prepared(model).state_dict(), FOLDER / f"timm-{arch}.safetensors")
            accepted(f"timm-{arch}", f"timm-{arch}.safetensors", model)
        else:
            reason = "without batch normalisation" if arch == "resnet50_gn" else "Your own model"
            saved(f"timm-{arch}", None, model.state_dict(), refused=reason)
    ema = timm.utils.ModelEmaV3(prepared(timm.create_model("resnet18", num_classes=CLASSES)))
    saved("timm-ema", ema.module.eval(), ema.state_dict())


def from_transformers():
    for name, options in {
        "hf-18": dict(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]),
        "hf-50": dict(),
        "hf-26-narrow": dict(embedding_size=32, depths=[2, 2, 2, 2], hidden_sizes=[64, 96, 128, 160]),
    }.items():
        config = transformers.ResNetConfig(num_labels=CLASSES, **options)
        model = prepared(transformers.ResNetForImageClassification(config))
        model.save_pretrained(FOLDER / name)
        accepted(name, f"{name}/model.safetensors", model)
        saved(f"{name}-pth", model, {"state_dict": prefixed(model.state_dict(), "module.")})
    backbone = transformers.ResNetModel(config)
    saved("hf-without-classifier", None, backbone.state_dict(), refused="one linear layer called fc")
    config = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8])
    convnext = transformers.ConvNextForImageClassification(config)
    saved("hf-convnext", None, convnext.state_dict(), refused="no residual network")
    model = timm.create_model("resnet18", num_classes=CLASSES)
    saved("hf-timm-wrapper", prepared(model), prefixed(model.state_dict(), "timm_model."))


net = tv("resnet18")
state = OrderedDict((name, tensor.clone()) for name, tensor in net.state_dict().items())
wrappers(net, state)
layouts(net, OrderedDict(state))
keys(net, state)
architectures()
from_timm()
from_transformers()
(FOLDER / "zoo.json").write_text(json.dumps(ROWS, indent=1))
print(json.dumps({"models": len(ROWS)}))
