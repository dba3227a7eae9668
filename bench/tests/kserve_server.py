"""Serves a small model with KServe's Python server, over the Open Inference Protocol.

Usage: kserve_server.py PORT. The model `toy` takes images of any shape as FP32 tensors, or JPEG files as BYTES. It
answers with four scores for each image: the second is the highest if the first byte or value is above the middle of its
range, and the first otherwise.
"""

import base64
import sys
import uuid

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer


def first_byte(element):
    """The first byte of a JPEG file, from 0 to 1. In JSON, the file is base64."""
    data = element.encode() if isinstance(element, str) else element
    file = data if data[:1] == b"\xff" else base64.b64decode(data)
    return file[0] / 255


class Toy(Model):
    def __init__(self):
        super().__init__("toy")
        self.ready = True

    async def predict(self, request, headers=None, response_headers=None):
        (tensor,) = request.inputs
        batch = tensor.as_numpy()
        if tensor.datatype == "BYTES":
            firsts = [first_byte(element) for element in batch.reshape(-1)]
        else:
            firsts = batch.reshape(batch.shape[0], -1)[:, 0]
        scores = np.array([[0.3, float(first > 0.5), 0.1, 0.2] for first in firsts], dtype=np.float32)
        output = InferOutput(name="scores", datatype="FP32", shape=list(scores.shape))
        output.set_data_from_numpy(scores, binary_data=request.use_binary_outputs)
        # KServe's server refuses an answer without an id.
        answer_id = request.id or str(uuid.uuid4())
        return InferResponse(response_id=answer_id, model_name=self.name, infer_outputs=[output])


ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([Toy()])
