"""Write a new layer with the three methods that all of s4gen asks of one, and check that they agree.

    python -m s4gen.examples.own_layer

`forward` reads many inputs at once, `step` reads one; both take a state and return the next one. The layer here is a
running mean with a learnt rate for each feature: y_k = a y_(k-1) + (1 - a) u_k. A layer that is to be a mixer of the
package, `model.mixer`, needs a little more: its contract stands at the top of s4gen/models/mixers.py.
"""

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """Take u r(B, L, H) to y r(B, L, H). The state is the last y, r(B, H)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.linspace(-2, 4, d_model))  # a = sigmoid(rate)

    def initial_state(self, batch: int) -> Tensor:
        """Return the state before any input: a mean of zero, r(batch, H)."""
        return self.rate.new_zeros(batch, len(self.rate))

    def forward(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Convolve all inputs with (1 - a) a^l; what the state holds has decayed to a^(k + 1) of it in output k."""
        state = self.initial_state(len(u)) if state is None else state
        a, k = torch.sigmoid(self.rate), torch.arange(u.shape[1])
        ago = (k[:, None] - k).clamp_min(0)  # (L, L): how long before output k an input came
        weight = (1 - a) * a ** ago[..., None] * (k[:, None] >= k)[..., None]
        y = torch.einsum("kjh,bjh->bkh", weight, u) + a ** (k + 1)[:, None] * state[:, None]
        return y, y[:, -1]

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read one input u r(B, H); return y r(B, H) and the next state."""
        a = torch.sigmoid(self.rate)
        y = a * state + (1 - a) * u
        return y, y


torch.manual_seed(0)
layer, u = RunningMean(5), torch.randn(2, 30, 5)
with torch.no_grad():
    whole, end = layer(u)
    first, state = layer(u[:, :12])
    second, state = layer(u[:, 12:], state)
    steps, now = [], layer.initial_state(2)
    for u_k in u.unbind(1):
        y_k, now = layer.step(u_k, now)
        steps.append(y_k)
for name, y in (("chunks", torch.cat((first, second), 1)), ("steps", torch.stack(steps, 1))):
    print(f"{name}: differ from all at once by {(y - whole).abs().max():.1e} at most")
