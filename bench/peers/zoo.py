"""Makes the checkpoints of `cargo xtask bench zoo` in FOLDER, as torch, torchvision, timm, transformers and safetensors
write them, and zoo.json, a list of {"name", "path"} with the expected result:

"refused": a part of the message, or
"logits": a file of f32, the logits that torch computes of input.f32 ([n, 64, 64, 3], normalised), and for a directory
"inputs": a file of f32, what the framework's transform makes of picture-*.png ([n, side, side, 3], normalised), and
"labels": the names of the classes.
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


def pictures():
    """Pictures with smooth and sharp parts. Their sizes leave odd numbers of pixels around the crop."""
    made = []
    for number, (width, height) in enumerate([(640, 480), (481, 643), (300, 225), (644, 480), (200, 1000)]):
        rows, columns = np.mgrid[0:height, 0:width]
        levels = [columns * 255 // width, rows * 255 // height, ((rows // 7 + columns // 9) % 2) * 255]
        made.append(Image.fromarray(np.stack(levels, axis=-1).astype(np.uint8)))
        made[-1].save(FOLDER / f"picture-{number}.png")
    return made


def directory(name, model, transform, labels=None, refused=None):
    """Adds a row for the directory `name`. `transform` makes an input [3, side, side] of a picture."""
    if refused:
        return row(name, name, refused=refused)
    inputs = torch.stack([transform(picture) for picture in PICTURES])
    inputs.permute(0, 2, 3, 1).contiguous().float().numpy().tofile(FOLDER / f"{name}.inputs")
    accepted(name, name, model, inputs=f"{name}.inputs", labels=labels or [f"class {i}" for i in range(CLASSES)])


def write(name, file, content):
    (FOLDER / name).mkdir(exist_ok=True)
    (FOLDER / name / file).write_text(content if isinstance(content, str) else json.dumps(content))


def from_processor(path):
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    return lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0]


def directories(net):
    state, names = net.state_dict(), [f"name {i}" for i in range(CLASSES)]
    imagenet = torchvision.transforms._presets.ImageClassification(crop_size=224)

    def of_weights(name, file="weights.pth", **files):
        (FOLDER / name).mkdir(exist_ok=True)
        torch.save(state, FOLDER / name / file)
        for key, content in files.items():
            write(name, key + (".txt" if key == "labels" else ".json"), content)

    of_weights("dir-labels", labels="\n".join(names) + "\n\n")
    directory("dir-labels", net, imagenet, names)
    of_weights("dir-bin", file="pytorch_model.bin")
    torch.save({}, FOLDER / "dir-bin" / "training_args.bin")
    directory("dir-bin", net, imagenet)
    of_weights("dir-several"), of_weights("dir-several", file="other.pth")
    directory("dir-several", None, None, refused="several files of weights: other.pth, weights.pth")
    write("dir-empty", "config.json", {})
    directory("dir-empty", None, None, refused="has no weights")
    of_weights("dir-few-labels", labels="one\ntwo\n")
    directory("dir-few-labels", None, None, refused="labels.txt has 2 names for 10 classes")
    of_weights("dir-other-classes", config={"num_classes": 12, "architecture": "resnet18"})
    directory("dir-other-classes", None, None, refused="12 classes, but the weights have 10")
    for other in ["resnet34", "resnetblur18", "vit_base_patch16_224"]:
        of_weights(f"dir-{other}", config={"architecture": other})
        directory(f"dir-{other}", None, None, refused=f"the network is {other}")
    of_weights("dir-vit", config={"architectures": ["ViTForImageClassification"]})
    directory("dir-vit", None, None, refused="architectures is ViTForImageClassification")
    of_weights("dir-malformed", preprocessor_config="{")
    directory("dir-malformed", None, None, refused="preprocessor_config.json: malformed")
    processors = {
        "dir-older": {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "do_normalize": True,
                      "do_resize": True, "resample": 3, "size": 224, "image_mean": [0.485, 0.456, 0.406],
                      "image_std": [0.229, 0.224, 0.225]},
        "dir-convnext": {"image_processor_type": "ConvNextImageProcessor"},
        "dir-convnext-288": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 288},
                             "crop_pct": 0.95, "resample": 2},
        "dir-vit-processor": {"image_processor_type": "ViTImageProcessor", "size": {"height": 200, "width": 200}},
        "dir-vit-scaled": {"image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5,
                           "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        "dir-vit-unscaled": {"image_processor_type": "ViTImageProcessor", "do_rescale": False, "resample": 3,
                             "image_mean": [120, 110, 100], "image_std": [50, 60, 70]},
        "dir-vit-plain": {"image_processor_type": "ViTImageProcessor", "do_normalize": False, "resample": 2},
        "dir-bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}},
        "dir-clip-small": {"image_processor_type": "CLIPImageProcessor", "size": 200, "crop_size": 224},
    }
    for name, content in processors.items():
        of_weights(name, preprocessor_config=content)
        directory(name, net, from_processor(FOLDER / name))
    # Of transformers' two versions of a processor, only the one on Pillow has Pillow's filter `nearest`.
    of_weights("dir-nearest", preprocessor_config=processors["dir-vit-processor"] | {"resample": 0})
    pillow = transformers.ViTImageProcessorPil.from_pretrained(FOLDER / "dir-nearest")
    directory("dir-nearest", net, lambda picture: pillow(images=picture, return_tensors="pt")["pixel_values"][0])
    of_weights("dir-lanczos", preprocessor_config=processors["dir-vit-plain"] | {"resample": 1})
    directory("dir-lanczos", None, None, refused="resample is 1")
    for name, cfg in {
        "dir-timm": {"input_size": [3, 224, 224], "crop_pct": 0.95, "interpolation": "bicubic",
                     "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_mode": "center"},
        "dir-timm-176": {"input_size": [3, 176, 176], "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5],
                         "std": [0.5, 0.5, 0.5], "test_input_size": [3, 224, 224], "test_crop_pct": 0.965},
        # Pillow 13 resizes some pictures down before across, if the two scales differ, and a bicubic filter shows that.
        "dir-timm-squash": {"input_size": [3, 192, 192], "crop_pct": 0.9, "crop_mode": "squash",
                            "interpolation": "bilinear"},
        "dir-timm-defaults": {"num_classes": CLASSES},
    }.items():
        (FOLDER / name).mkdir(exist_ok=True)
        safetensors.torch.save_file(state, FOLDER / name / "model.safetensors")
        write(name, "config.json", {"architecture": "resnet18", "num_classes": CLASSES, "pretrained_cfg": cfg,
                                    "label_names": names, "global_pool": "avg"})
        data = timm.data.resolve_data_config(pretrained_cfg=cfg)
        directory(name, net, timm.data.create_transform(**data, is_training=False), names)
    model = prepared(timm.create_model("resnet18", num_classes=CLASSES))
    timm.models.save_for_hf(model, FOLDER / "dir-timm-saved", safe_serialization=True)
    data = timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg)
    directory("dir-timm-saved", model, timm.data.create_transform(**data, is_training=False))
    labels = {str(i): name for i, name in enumerate(names)}
    for name, options in {"dir-hf": {}, "dir-hf-first": {"downsample_in_bottleneck": True}}.items():
        config = transformers.ResNetConfig(depths=[1, 2, 1, 1], id2label=labels, **options)
        model = prepared(transformers.ResNetForImageClassification(config))
        model.save_pretrained(FOLDER / name)
        transformers.ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(FOLDER / name)
        directory(name, model, from_processor(FOLDER / name), names)
    model.save_pretrained(FOLDER / "dir-hf-shards", max_shard_size="3MB")
    directory("dir-hf-shards", model, imagenet, names)
    config = transformers.ResNetConfig(hidden_act="gelu", id2label=labels, depths=[1, 1, 1, 1])
    transformers.ResNetForImageClassification(config).save_pretrained(FOLDER / "dir-hf-gelu")
    directory("dir-hf-gelu", None, None, refused="hidden_act is gelu")


PICTURES = pictures()
net = tv("resnet18")
state = OrderedDict((name, tensor.clone()) for name, tensor in net.state_dict().items())
wrappers(net, state)
layouts(net, OrderedDict(state))
keys(net, state)
architectures()
from_timm()
from_transformers()
directories(net)
(FOLDER / "zoo.json").write_text(json.dumps(ROWS, indent=1))
print(json.dumps({"models": len(ROWS)}))
