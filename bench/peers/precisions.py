"""Times forward passes of a residual network in ONNX Runtime or OpenVINO, in 8-bit integers or in the precision that the
engine chooses by itself. The peer of `bench-replica forward --precision int8`.

Usage: precisions.py onnxruntime|openvino int8|default WEIGHTS.safetensors CROPS THREADS
For int8, ONNX Runtime's `quantize_static` makes one model for both engines: s8 weights with a scale for each channel, and
u8 activations, calibrated with the images of CROPS. Both engines turn such a model into their own 8-bit convolutions. See
`forward.py` for CROPS and for the questions on standard input.
"""

import os
import sys
import tempfile

import forward
import numpy as np


def quantised(model, images, batch):
    """The model in 8-bit integers, as ONNX."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = (images[first : first + batch] for first in range(0, len(images), batch))

        def get_next(self):
            part = next(self.batches, None)
            return None if part is None else {"input": part}

    with tempfile.TemporaryDirectory() as folder:
        wide, narrow = (os.path.join(folder, name) for name in ("f32.onnx", "int8.onnx"))
        with open(wide, "wb") as file:
            file.write(model)
        quantize_static(
            wide,
            narrow,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        with open(narrow, "rb") as file:
            return file.read()


def openvino(model, threads):
    """OpenVINO with its own choice of precision: bf16 where the processor computes it fast, or else f32."""
    import openvino as ov

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    run = lambda x: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return f"openvino {ov.__version__.split('-')[0]}, {precision}", run


def main():
    engine, precision, weights, crops, threads = sys.argv[1:]
    make = {"onnxruntime": forward.onnxruntime, "openvino": openvino}[engine]
    weights, images = forward.load_file(weights), forward.load_images(crops)

    def compiled(batch):
        model = forward.graph(weights, batch)
        return make(quantised(model, images, batch) if precision == "int8" else model, int(threads))

    forward.answer(compiled, images)


main()
