"""Classifies images with Triton's client, and compares the answers with those of POST /predict.

Usage: client.py HOST:PORT. This is the address of a replica that takes two images at once.
"""

import base64
import http.client
import json
import struct
import sys
import zlib

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

MODEL = "resnet18"
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STANDARD_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def stripes():
    """An image of 256x256 pixels. The transform crops it, but does not resize it."""
    image = np.full((256, 256, 3), (40, 60, 90), np.uint8)
    image[64:192, 64:192] = (220, 200, 60)
    image[64:192, 64:192][::16] = (20, 20, 20)
    return image


def disc():
    """An image of a disc, of 256x256 pixels."""
    y, x = np.mgrid[:256, :256]
    image = np.full((256, 256, 3), (200, 210, 190), np.uint8)
    image[(y - 128) ** 2 + (x - 128) ** 2 < 80**2] = (180, 30, 40)
    return image


def png(pixels):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def normalised(pixels):
    """The centre of the image, normalised as by torchvision's transform: [3,224,224]."""
    scaled = pixels[16:240, 16:240].astype(np.float32) / 255
    return ((scaled - MEAN) / STANDARD_DEVIATION).transpose(2, 0, 1)


def predict(address, file):
    """The label of the likeliest class, and the probabilities of all classes in class order."""
    connection = http.client.HTTPConnection(address)
    connection.request("POST", "/predict?top_k=1000", file, {"Content-Type": "image/png"})
    answer = json.loads(connection.getresponse().read())
    assert answer["success"], answer
    ordered = sorted(answer["predictions"], key=lambda prediction: prediction["class_index"])
    return answer["prediction"]["label"], [prediction["confidence"] for prediction in ordered]


def tensor(name, datatype, data, binary):
    made = InferInput(name, list(data.shape), datatype)
    return made.set_data_from_numpy(data, binary_data=binary)


def refused(call, status, text):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == status and text in error.message(), error
    else:
        raise AssertionError(f"the request was accepted instead of refused with {text!r}")


def same(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-3)


def main(address):
    client = InferenceServerClient(address)
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready("other") and not client.is_model_ready(MODEL, "2")
    server = client.get_server_metadata()
    assert server["name"] == "roundhouse" and "binary_tensor_data" in server["extensions"], server

    files = [png(stripes()), png(disc())]
    labels, expected = zip(*(predict(address, file) for file in files))
    classes = len(expected[0])
    assert np.abs(np.subtract(*expected)).max() > 0.1, "the two images can be told apart"

    metadata = client.get_model_metadata(MODEL)
    assert metadata == client.get_model_metadata(MODEL, "1")
    assert metadata["name"] == MODEL and metadata["versions"] == ["1"], metadata
    assert {(each["name"], each["datatype"], *each["shape"]) for each in metadata["inputs"]} == {
        ("input", "FP32", -1, 3, 224, 224),
        ("image", "BYTES", -1),
    }, metadata
    assert {(each["name"], each["datatype"], *each["shape"]) for each in metadata["outputs"]} == {
        ("probabilities", "FP32", -1, classes),
        ("logits", "FP32", -1, classes),
        ("label", "BYTES", -1),
    }, metadata

    numbers = np.stack([normalised(stripes()), normalised(disc())])
    encoded = np.array(files, np.object_)
    texts = np.array([base64.b64encode(file) for file in files], np.object_)
    inputs = [
        ("input", "FP32", numbers, True),
        ("input", "FP32", numbers, False),
        ("image", "BYTES", encoded, True),
        ("image", "BYTES", texts, False),
    ]
    for name, datatype, data, binary in inputs:
        for chosen in [slice(0, 1), slice(1, 2), slice(0, 2)]:
            made = [tensor(name, datatype, data[chosen], binary)]
            # The client names no outputs and requests binary data, so the answer has the default output as bytes.
            answer = client.infer(MODEL, made, request_id="a request")
            assert answer.get_response()["id"] == "a request", answer.get_response()
            same(answer.as_numpy("probabilities"), expected[chosen])
            for as_bytes in [True, False]:
                names = ["label", "probabilities", "logits"]
                outputs = [InferRequestedOutput(each, binary_data=as_bytes) for each in names]
                answer = client.infer(MODEL, made, model_version="1", outputs=outputs)
                assert [each["name"] for each in answer.get_response()["outputs"]] == names
                found = [each.decode() if as_bytes else each for each in answer.as_numpy("label")]
                assert found == list(labels[chosen]), found
                same(answer.as_numpy("probabilities"), expected[chosen])
                exponentials = np.exp(answer.as_numpy("logits").astype(np.float64))
                same(exponentials / exponentials.sum(axis=1, keepdims=True), expected[chosen])

    first = [tensor("image", "BYTES", encoded[:1], True)]
    outputs = [InferRequestedOutput("probabilities", class_count=3)]
    best = client.infer(MODEL, first, outputs=outputs).as_numpy("probabilities")
    assert best.shape == (1, 3), best
    for line, index in zip(best[0], np.argsort(expected[0])[::-1]):
        score, found, _ = line.decode().split(":")
        assert int(found) == index and abs(float(score) - expected[0][index]) < 1e-3, best
    assert best[0][0].decode().endswith(":" + labels[0]), best

    rotated = [tensor("input", "FP32", np.ascontiguousarray(numbers.transpose(0, 2, 3, 1)), True)]
    refused(lambda: client.infer(MODEL, rotated), "400", '"input" has the shape [2, 224, 224, 3]; send [n, 3, 224, 224]')
    three = [tensor("image", "BYTES", np.array([files[0]] * 3, np.object_), True)]
    refused(lambda: client.infer(MODEL, three), "413", "this replica takes 2 at once")
    torn = [tensor("image", "BYTES", np.array([files[0], files[1][:500]], np.object_), True)]
    refused(lambda: client.infer(MODEL, torn), "400", "image 1: ")
    refused(lambda: client.infer("other", first), "404", 'there is no model "other"; this replica has')
    compressed = lambda: client.infer(MODEL, first, request_compression_algorithm="gzip")
    refused(compressed, "415", 'Content-Encoding "gzip" is not supported')


main(sys.argv[1])
