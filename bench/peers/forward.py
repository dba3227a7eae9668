"""Times forward passes of a ResNet-18 or ResNet-50 in ONNX Runtime or OpenVINO. The peer of `bench-replica forward`.

Usage: forward.py onnxruntime|openvino WEIGHTS.safetensors CROPS THREADS
       forward.py random RESNET50.safetensors, which writes a ResNet-50 with random weights
The file CROPS has images one after another, each of 224x224 RGB pixels with 8 bits a channel. On standard input, a
line "time BATCH REPEATS" is answered with the milliseconds of each forward pass, and a line "logits BATCH" with the
logits of the first BATCH images.
"""

import itertools
import sys
import time

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def graph(weights, batch):
    """The network for one batch size as ONNX. Every batch normalisation is folded into the convolution before it."""
    nodes, constants = [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def node(kind, inputs, **attributes):
        output = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def convolution(x, conv, norm, stride):
        weight = weights[f"{conv}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            weights[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + 1e-5)
        side = weight.shape[-1]
        weight, bias = weight * scale[:, None, None, None], beta - mean * scale
        names = [constant(f"{conv}.weight", weight), constant(f"{conv}.bias", bias)]
        shape = dict(kernel_shape=[side] * 2, strides=[stride] * 2, pads=[side // 2] * 4)
        return node("Conv", [x, *names], **shape)

    x = node("Relu", [convolution("input", "conv1", "bn1", 2)])
    x = node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage in range(1, 5):
        for index in itertools.takewhile(lambda i: f"layer{stage}.{i}.conv1.weight" in weights, itertools.count()):
            block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            # The 3x3 convolution has the stride: the first of two layers, or the second of three.
            layers = 3 if f"{block}.conv3.weight" in weights else 2
            y = x
            for layer in range(1, layers + 1):
                layer_stride = stride if layer == layers - 1 else 1
                y = convolution(y, f"{block}.conv{layer}", f"{block}.bn{layer}", layer_stride)
                if layer < layers:
                    y = node("Relu", [y])
            if f"{block}.downsample.0.weight" in weights:
                x = convolution(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            x = node("Relu", [node("Add", [y, x])])
    x = node("Flatten", [node("GlobalAveragePool", [x])])
    head = [constant("fc.weight", weights["fc.weight"]), constant("fc.bias", weights["fc.bias"])]
    x = node("Gemm", [x, *head], transB=1)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, 224, 224])]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, len(weights["fc.bias"])])]
    model = helper.make_graph(nodes, "resnet", inputs, outputs, constants)
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def onnxruntime(model, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return f"onnxruntime {ort.__version__}", lambda x: session.run(None, {"input": x})[0]


def openvino(model, threads):
    import openvino as ov

    # Without INFERENCE_PRECISION_HINT, OpenVINO computes in bfloat16 where the processor supports it.
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    core = ov.Core()
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    run = lambda x: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]
    return f"openvino {ov.__version__.split('-')[0]}", run


def write_random(path):
    """Writes a ResNet-50 with random weights whose activations keep their size from layer to layer (He et al. 2015)."""
    random, tensors = np.random.default_rng(5), {}

    def convolution(conv, norm, outputs, inputs, side, gain):
        deviation = (2 / (inputs * side * side)) ** 0.5
        tensors[f"{conv}.weight"] = random.normal(0, deviation, (outputs, inputs, side, side)).astype(np.float32)
        for name, value in (("weight", gain), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            tensors[f"{norm}.{name}"] = np.full(outputs, value, np.float32)

    convolution("conv1", "bn1", 64, 3, 7, 1)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        channels = 32 << stage
        for index in range(blocks):
            block = f"layer{stage}.{index}"
            convolution(f"{block}.conv1", f"{block}.bn1", channels, inputs, 1, 1)
            convolution(f"{block}.conv2", f"{block}.bn2", channels, channels, 3, 1)
            # A small gain, so that the sums of many blocks do not grow without bounds.
            convolution(f"{block}.conv3", f"{block}.bn3", 4 * channels, channels, 1, 0.25)
            if index == 0:
                convolution(f"{block}.downsample.0", f"{block}.downsample.1", 4 * channels, inputs, 1, 1)
            inputs = 4 * channels
    tensors["fc.weight"] = random.normal(0, 0.02, (1000, inputs)).astype(np.float32)
    tensors["fc.bias"] = np.zeros(1000, np.float32)
    save_file(tensors, path)


def load_images(crops):
    """The normalised images of a file of crops, `[n, 3, 224, 224]`."""
    images = np.fromfile(crops, np.uint8).reshape(-1, 224, 224, 3).astype(np.float32)
    return np.ascontiguousarray(((images / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2))


def answer(compiled, images):
    """Answers the questions on standard input. `compiled` makes a description and a pass for a batch size."""
    # Each batch size has a model of its own, because both engines are fastest with fixed shapes.
    passes = {}

    def forward(batch):
        if batch not in passes:
            passes[batch] = compiled(batch)[1]
        return passes[batch](images[:batch])

    description, passes[1] = compiled(1)
    print("ready", description, flush=True)
    for line in sys.stdin:
        question, batch, *repeats = line.split()
        batch = int(batch)
        if question == "logits":
            answer = forward(batch).ravel()
        else:
            # This pass is not timed: other processes have displaced the model's memory from the caches.
            forward(batch)
            answer = []
            for _ in range(int(repeats[0])):
                start = time.perf_counter()
                forward(batch)
                answer.append((time.perf_counter() - start) * 1e3)
        print(*(f"{number:.9g}" for number in answer), flush=True)


def main():
    if sys.argv[1] == "random":
        write_random(sys.argv[2])
        return
    engine, weights, crops, threads = sys.argv[1:]
    make = {"onnxruntime": onnxruntime, "openvino": openvino}[engine]
    weights = load_file(weights)
    answer(lambda batch: make(graph(weights, batch), int(threads)), load_images(crops))


if __name__ == "__main__":
    main()
