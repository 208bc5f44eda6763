"""Train a density model and sample from it in a few seconds, on rows of 16 values that go up or down.

    python -m s4gen.examples.toy

`s4gen train` does the same for real data, with everything a long run needs.
"""

import math

import torch

from s4gen.config import DensityConfig, ImageLayout, ModelConfig, SSMConfig
from s4gen.models.build import build_model
from s4gen.sampling.certify import certify
from s4gen.sampling.convert import convert
from s4gen.sampling.generate import generate

torch.manual_seed(0)
LENGTH, LEVELS = 16, 8


def ramps(n: int) -> torch.Tensor:
    """Return rows int64 (n, 16) that begin anywhere and go up or down by one; 7 is followed by 0, and the reverse."""
    start, slope = torch.randint(0, LEVELS, (n, 1)), 2 * torch.randint(0, 2, (n, 1)) - 1
    return (start + slope * torch.arange(LENGTH)) % LEVELS


layout = ImageLayout(height=1, width=LENGTH, channels=1, levels=LEVELS)  # a row of values is an image of one row
model = build_model(DensityConfig(layout, ModelConfig(d_model=32, n_layers=2, d_ff=32), SSMConfig(d_state=16)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for step in range(100):
    loss = model.nats(ramps(32)).mean()  # -log p of every value given those before it, by convolution
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        print(f"step {step + 1}: {loss.item() / math.log(2):.3f} bits per value")

# The first two values determine a row. They cost 3 bits, for one of 8 values, and 1 bit, for up or down.
print(f"the best that a model can do: {4 / LENGTH:.3f} bits per value")
recurrent = convert(model.eval())  # the same model with Abar, Bbar and Cbar, to be stepped
print(f"convolution and recurrence differ by {certify(recurrent, ramps(4)).max_abs_logprob_difference:.1e} at most")
for row in generate(recurrent, n=4, seed=0):
    print("sampled:", *row.tolist())
