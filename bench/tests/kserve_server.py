"""Serves a small model with KServe's Python server, over the Open Inference Protocol.

Usage: kserve_server.py PORT. The model `toy` takes images of any shape as FP32 tensors, or encoded files as BYTES. It
answers with four scores for each image: the second is the highest if the first byte or value is above the middle of its
range, and the first otherwise.
"""

import sys

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer


class Toy(Model):
    def __init__(self):
        super().__init__("toy")
        self.ready = True

    async def predict(self, request, headers=None, response_headers=None):
        (tensor,) = request.inputs
        batch = tensor.as_numpy()
        if tensor.datatype == "BYTES":
            firsts = [file[0] / 255 for file in batch.reshape(-1)]
        else:
            firsts = batch.reshape(batch.shape[0], -1)[:, 0]
        scores = np.array([[0.3, float(first > 0.5), 0.1, 0.2] for first in firsts], dtype=np.float32)
        output = InferOutput(name="scores", datatype="FP32", shape=list(scores.shape))
        output.set_data_from_numpy(scores, binary_data=request.use_binary_outputs)
        return InferResponse(response_id=request.id, model_name=self.name, infer_outputs=[output])


ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([Toy()])
