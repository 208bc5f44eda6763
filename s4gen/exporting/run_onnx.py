"""Draw tokens from step.onnx with onnxruntime and NumPy alone: python generate.py [TOKENS] [TEMPERATURE]."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).parent
about = json.loads((here / "about.json").read_text())
session = onnxruntime.InferenceSession(here / "step.onnx", providers=["CPUExecutionProvider"])
try:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    temperature = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0  # 0: the likeliest token
except ValueError:
    print("usage: python generate.py [TOKENS] [TEMPERATURE]; both are numbers", file=sys.stderr)
    sys.exit(2)

state = {s["name"]: np.full((1, *s["shape"]), s["fill"], s["type"]) for s in about["state"]}
token, random = np.array([about["start"]]), np.random.default_rng(0)
for _ in range(count):
    log_p, *new = session.run(None, {"token": token, **state})
    state = dict(zip(state, new, strict=True))
    if temperature:
        # The maximum of log p + Gumbel noise is a draw from p, and needs no normalisation.
        gumbel = -np.log(-np.log(random.random(log_p.shape)))
        log_p = log_p / temperature + gumbel
    token = log_p.argmax(-1)
    print(int(token[0]), end=" ", flush=True)
print()
