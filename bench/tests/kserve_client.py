"""Classifies images with KServe's client, and compares the answers with those of POST /predict.

Usage: kserve_client.py HOST:PORT PICTURE. HOST:PORT is the address of a dispatcher or a replica.
"""

import asyncio
import http.client
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

MODEL = "resnet18"


def predict(address, file):
    """The label of the likeliest class, and its probability."""
    connection = http.client.HTTPConnection(address)
    connection.request("POST", "/predict", file, {"Content-Type": "image/jpeg"})
    answer = json.loads(connection.getresponse().read())
    assert answer["success"], answer
    return answer["prediction"]


async def main(address, path):
    with open(path, "rb") as picture:
        file = picture.read()
    expected = predict(address, file)
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0, timeout=60))
    url = f"http://{address}"
    assert await client.is_server_live(url) and await client.is_server_ready(url)
    assert await client.is_model_ready(url, MODEL)
    image = InferInput(name="image", shape=[1], datatype="BYTES")
    image.set_data_from_numpy(np.array([file], dtype=object), binary_data=True)
    answer = await client.infer(url, InferRequest(model_name=MODEL, infer_inputs=[image]), model_name=MODEL)
    (output,) = answer.outputs
    probabilities = output.as_numpy().reshape(-1)
    best = int(probabilities.argmax())
    assert output.name == "probabilities" and best == expected["class_index"], (output.name, best, expected)
    assert abs(float(probabilities[best]) - expected["confidence"]) < 1e-3, (probabilities[best], expected)


asyncio.run(main(sys.argv[1], sys.argv[2]))
