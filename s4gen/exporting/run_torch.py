"""Draw tokens from step.pt2 with PyTorch alone: python generate.py [TOKENS] [TEMPERATURE]."""

import json
import sys
from pathlib import Path

import torch

here = Path(__file__).parent
about = json.loads((here / "about.json").read_text())
step = torch.export.load(here / "step.pt2").module()
try:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    temperature = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0  # 0: the likeliest token
except ValueError:
    print("usage: python generate.py [TOKENS] [TEMPERATURE]; both are numbers", file=sys.stderr)
    sys.exit(2)

state = [torch.full((1, *s["shape"]), s["fill"], dtype=getattr(torch, s["type"])) for s in about["state"]]
token, random = torch.tensor([about["start"]]), torch.Generator().manual_seed(0)
with torch.no_grad():
    for _ in range(count):
        log_p, *state = step(token, *state)
        if temperature:
            token = torch.multinomial((log_p / temperature).softmax(-1), 1, generator=random)[:, 0]
        else:
            token = log_p.argmax(-1)
        print(token.item(), end=" ", flush=True)
print()
