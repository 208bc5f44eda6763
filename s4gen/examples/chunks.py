"""Read a signal that is too long for the memory in chunks: the state goes on from one to the next, even through a file.

python -m s4gen.examples.chunks
"""

import tempfile
from pathlib import Path

import torch

from s4gen.layers import S4

torch.manual_seed(0)
layer = S4(3, d_state=16)
signal = torch.randn(1, 1000, 3)

with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
    whole, _ = layer(signal)  # all at once, to compare with

    parts, state = [], None  # None: nothing came before
    for chunk in signal.split(64, dim=1):  # chunks may have any lengths
        y, state = layer(chunk, state)
        parts.append(y)
    print(f"chunks of 64: differ from all at once by {(torch.cat(parts, 1) - whole).abs().max():.1e} at most")

    # A state is a tensor, here (1, 3, 16): copy it, save it, or let another process go on from it.
    _, middle = layer(signal[:, :700])
    torch.save(middle, Path(folder) / "state.pt")
    restored = torch.load(Path(folder) / "state.pt", weights_only=True)
    rest, _ = layer(signal[:, 700:], restored)
    print(f"from a file: differs by {(rest - whole[:, 700:]).abs().max():.1e} at most")

    # Rows of one batch may end at different positions; each has its own final state.
    lengths = torch.tensor([1000, 300])
    _, ends = layer(signal.expand(2, -1, -1), lengths=lengths)
    _, early = layer(signal[:, :300])
    print(f"a row that ends early: its state differs by {(ends[1:] - early).abs().max():.1e} at most")
