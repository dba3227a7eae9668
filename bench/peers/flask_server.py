"""Serves a ResNet-18 with Flask, PIL and torchvision on one thread, as a simple server does.

Usage: flask_server.py WEIGHTS.safetensors
"""

import io, logging, os, sys, threading

import torch
from flask import Flask, jsonify, request
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import resnet18
from torchvision.transforms._presets import ImageClassification
from werkzeug.serving import WSGIRequestHandler, make_server

torch.set_num_threads(1)
weights = load_file(sys.argv[1])
model = resnet18(num_classes=len(weights["fc.bias"])).eval()
model.load_state_dict(weights, strict=False)  # The file has no num_batches_tracked.
transform = ImageClassification(crop_size=224)
app = Flask(__name__)


@app.post("/predict")
def predict():
    image = Image.open(io.BytesIO(request.get_data())).convert("RGB")
    with torch.inference_mode():
        best = model(transform(image).unsqueeze(0)).softmax(1)[0].topk(5)
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return jsonify(predictions=[{"class_index": index, "confidence": confidence} for index, confidence in pairs])


WSGIRequestHandler.protocol_version = "HTTP/1.1"  # HTTP/1.0 closes the connection after each request.
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=False)
print(f"listening on http://127.0.0.1:{server.port}", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # Ends when bench ends.
server.serve_forever()
