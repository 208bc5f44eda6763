"""A mixture of discretised logistics over the channels of a pixel (PixelCNN++, arXiv 1701.05517, section 2.1).

    p(v_1 .. v_C) = sum_k w_k prod_c p_k(v_c | v_<c)
    p_k(v_c | v_<c) = S((v_c + h - m_kc) / s_kc) - S((v_c - h - m_kc) / s_kc)        S the logistic function
    m_kc = base_c + mean_kc + sum_(j<c) a_kcj (v_j - base_j)

Values lie between -1 and 1, and h is half the distance of two neighbours; the outermost values get the whole tails.
`base` is a prediction from the neighbouring pixels (`median_edge`), so that the network describes only what is left
over. Channels are drawn one after another from p(v_c | v_<c), in which the weight of component k is its posterior
weight after v_<c was seen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_SCALE_GAIN = 4.0
"""Outputs for the logarithms of the scales are multiplied by this: all of Adam's steps have one size, and these outputs
have the farthest to go."""
LOG_SCALE_RANGE = (-7.0, 2.0)
"""Limits of the logarithm of a scale: below e^-7 all mass is on one value of 256, above e^2 it is nearly uniform."""
SMALLEST_WIDTH = -1e-7
"""Lower edge minus upper edge of a value, in units of the scale, is at most this. Far from the mean rounding could make
the two equal, and the logarithm of the probability infinite."""
COUPLING_START = (1.2, 0.3, 0.8)
"""First couplings before tanh: green on red, blue on red, blue on green. In photographs the channels move together."""


class MixtureHead(nn.Module):
    """The head that turns the stack's output for a pixel into the distribution of its channels, one after another.

    What is kept of a pixel, r(..., kept), is all that its channels need: log-weights, means, log-scales and couplings
    of the components, and the prediction.
    """

    def __init__(self, d_model: int, channels: int, levels: int, components: int, zero_start: bool) -> None:
        super().__init__()
        self.channels, self.levels, self.components = channels, levels, components
        self.couplings = channels * (channels - 1) // 2
        self.sizes = (1, channels, channels, self.couplings)  # of each component: weight, means, log-scales, couplings
        self.linear = nn.Linear(d_model, components * sum(self.sizes))
        self.kept = self.linear.out_features + channels
        with torch.no_grad():
            if zero_start:
                self.linear.weight.zero_()
            bias = self.linear.bias.zero_().view(components, -1)
            bias[:, 1 + channels : 1 + 2 * channels] = torch.linspace(-5, -1.5, components)[:, None] / LOG_SCALE_GAIN
            if channels == 3:
                bias[:, 1 + 2 * channels :] = torch.tensor(COUPLING_START)

    def prepare(self, hidden: Tensor, base: Tensor) -> Tensor:
        """Return what is kept of a pixel, r(..., kept), from hidden r(..., D) and base r(..., C) in [-1, 1]."""
        output = self.linear(hidden).to(base.dtype)
        weight, mean, log_scale, coupling = self._parts(output)
        log_scale = (log_scale * LOG_SCALE_GAIN).clamp(*LOG_SCALE_RANGE)
        parts = (weight.log_softmax(-2), mean + base[..., None, :], log_scale, coupling.tanh())
        return torch.cat((torch.cat(parts, dim=-1).flatten(-2), base), dim=-1)

    def _parts(self, output: Tensor) -> tuple[Tensor, ...]:
        """Split r(..., K * size) into the weight, C means, C log-scales and C (C-1) / 2 couplings of each component."""
        return output.unflatten(-1, (self.components, -1)).split(self.sizes, dim=-1)

    def _components(self, kept: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights r(..., K), means and log-scales r(..., K, C), given the channels known int64 (..., C)."""
        base = kept[..., -self.channels :]
        weight, mean, log_scale, coupling = self._parts(kept[..., : -self.channels])
        residual, means, first = self.scaled(known, kept.dtype) - base, [], 0
        for c in range(self.channels):
            shift = (coupling[..., first : first + c] * residual[..., None, :c]).sum(-1)
            means.append(mean[..., c] + shift)
            first += c
        return weight[..., 0], torch.stack(means, dim=-1), log_scale

    def scaled(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn values int64, 0 to levels - 1, into numbers from -1 to 1."""
        return values.to(dtype) * (2 / (self.levels - 1)) - 1

    def nats(self, kept: Tensor, pixels: Tensor) -> Tensor:
        """Return -log p(v_c | v_<c) in nats, r(..., C), for whole pixels int64 (..., C)."""
        weight, mean, log_scale = self._components(kept, pixels)
        each = self._log_mass(pixels[..., None, :], mean, log_scale)  # (..., K, C)
        joint = torch.logsumexp(weight[..., None] + each.cumsum(-1), dim=-2)  # log p(v_1 .. v_c)
        return -torch.diff(joint, dim=-1, prepend=torch.zeros_like(joint[..., :1]))

    def _log_mass(self, values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """log p of values int64 under single components; all three broadcast.

        S(a) - S(b) = S(a) S(-b) (1 - e^(b - a)): exact at any distance from the mean, where the difference of two
        nearly equal numbers would not be. The upper edge of a value and the lower one of the next are the same float,
        so that all values together have probability 1.
        """
        inverse, per_edge = torch.exp(-log_scale), 1 / (self.levels - 1)
        lower = ((2 * values - 1).to(mean.dtype) * per_edge - 1 - mean) * inverse
        upper = ((2 * values + 1).to(mean.dtype) * per_edge - 1 - mean) * inverse
        inner = torch.log(-torch.expm1((lower - upper).clamp_max(SMALLEST_WIDTH)))
        lowest, highest = values == 0, values == self.levels - 1
        return (
            torch.where(highest, 0, F.logsigmoid(upper))
            + torch.where(lowest, 0, F.logsigmoid(-lower))
            + torch.where(lowest | highest, 0, inner)
        )

    def log_probs(self, kept: Tensor, known: Tensor, channel: Tensor) -> Tensor:
        """Return log p(v | v_<channel) of all values v, r(..., V).

        kept is r(..., kept); known int64 (..., C) counts only in the channels before `channel` int64 (...).
        """
        weight, mean, log_scale = self._components(kept, known)
        each = self._log_mass(known[..., None, :], mean, log_scale)
        seen = torch.arange(self.channels, device=channel.device) < channel[..., None]
        weight = weight + torch.where(seen[..., None, :], each, 0).sum(-1)
        chosen = channel[..., None, None].expand(*weight.shape, 1)
        mean, log_scale = mean.gather(-1, chosen), log_scale.gather(-1, chosen)  # (..., K, 1)
        values = torch.arange(self.levels, device=kept.device)
        mass = self._log_mass(values, mean, log_scale)  # (..., K, V)
        return torch.logsumexp(weight.log_softmax(-1)[..., None] + mass, dim=-2)


def median_edge(left: Tensor, above: Tensor, above_left: Tensor) -> Tensor:
    """Predict a pixel as JPEG-LS does (ITU-T T.87, A.3).

    At an edge this is the smaller or the larger of the two neighbours, elsewhere the plane through all three.
    """
    low, high = torch.minimum(left, above), torch.maximum(left, above)
    plane = left + above - above_left
    return torch.where(above_left >= high, low, torch.where(above_left <= low, high, plane))
