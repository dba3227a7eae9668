"""A common first server: Flask, PIL and torchvision's ResNet-18, on one thread.

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
model.load_state_dict(weights, strict=False)  # The file lacks batch normalisation's counts of training steps.
transform = ImageClassification(crop_size=224)
app = Flask(__name__)


@app.post("/predict")
def predict():
    image = Image.open(io.BytesIO(request.get_data())).convert("RGB")
    with torch.inference_mode():
        best = model(transform(image).unsqueeze(0)).softmax(1)[0].topk(5)
    pairs = zip(best.indices.tolist(), best.values.tolist())
    return jsonify(predictions=[{"class_index": index, "confidence": confidence} for index, confidence in pairs])


WSGIRequestHandler.protocol_version = "HTTP/1.1"  # Keeps connections open.
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=False)
print(f"listening on http://127.0.0.1:{server.port}", flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # Ends with its parent.
server.serve_forever()
