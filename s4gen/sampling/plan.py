"""A converted model as a plan: a flat list of operations with their constants, for engines that run outside of PyTorch.

There are four buffers: the residual stream x, two scratch vectors h and g, and the logits. One step of a model is the
operations in their order, once:

    Embed    x = value[token] + position[position] + label[label]
    Samples  h = the last tokens as amplitudes
    Norm     h = layer norm of x, or x = that
    SSM      state, g = one step of the recurrence on h; then GELU
    Shift    of g = q, k, v, one after another: v *= convolution of k
    SSM      state, g = q times one step of the recurrence on v
    Linear   g = .. or x += .. or logits = weight h (or g) + bias; then GELU or GLU
    Clusters log-probabilities from the logits of an adaptive softmax

Of several time scales, those between Down and Up run only in steps that fill a window:

    Keep     kept = x
    Down     window[phase] = x, kept = x + pending[phase]; unless this fills the window, go on with Up
    Linear   x = weight window + bias, pending = weight x + bias
    Up       x = kept
    AddKept  x += kept

Of whole pixels, those between Pixel and the head, which is Mixture or Channel, run only in steps that begin a pixel.
What the head needs of a pixel is kept for its channels:

    Pixel       ring = .., token; unless a pixel begins, go on with the head
    Where       x = row + column + values of the pixel to the left + label
    Neighbours  h = numbers of the pixels around; kept = a prediction
    Taps        g = taps on h and on what it was at the pixels around
    SSM         state, g = GELU(g + one step of the recurrence on h)
    Components  kept = log-weights, means, log-scales and couplings, made of g
    Mixture     log-probabilities of the next channel
    Channel     g = h = what is kept of h + channel + values of the channels before
    Linear      g += GELU(weight h + bias)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from s4gen.models.raster import Offset, Raster

ALIGNMENT = 16
"""Of parts of the logits."""


@dataclass(frozen=True)
class Embed:
    """x = value[row] + position[position mod period] + label[label], the row being channel * levels + token.

    A bos that is not among the tokens has a row of its own, the last.
    """

    value: Tensor  # r(channels * levels, D), one row more for such a bos
    position: Tensor  # r(period, D), period 0 without it
    label: Tensor  # r(classes, D), no classes without it
    channels: int
    levels: int


@dataclass(frozen=True)
class Samples:
    """h = amplitude of the last `count` tokens, the oldest first; the one that is fed is the last of them."""

    amplitude: Tensor  # r(vocab + 1), of bos too
    count: int


@dataclass(frozen=True)
class Norm:
    """`target` = weight (x - mean + shift) / sqrt(variance + eps) + bias."""

    weight: Tensor  # r(D)
    bias: Tensor  # r(D)
    eps: float
    shift: Tensor | None = None  # r(1), or none: 0
    target: str = "h"
    """h; or x, where norms stand behind the sums."""


@dataclass(frozen=True)
class SSM:
    """s' = diag(a) s - sum_r p_r (q_r . s) + B u and y = C . s' + D u; vectors in real form, see ssm.realform.

    u = h (or x, where that is the `source`) and g = GELU(y), or GELU(g + y) where taps have left something in g; or,
    gated, u = v and g = q y, of g = q, k, v. Without modes, N = 0, it is the skip D alone.
    """

    a: Tensor  # r(H, N): real parts, then imaginary parts
    B: Tensor  # r(H, N)
    C: Tensor  # r(H, N)
    D: Tensor  # r(H)
    p: Tensor  # r(R, H, N), R = 0 for a diagonal
    q: Tensor  # r(R, H, N)
    gated: bool = False
    tapped: bool = False
    axis: str = "raster"
    """row or column, of pixels: s is zero where a row, or an image, begins; down columns each column has its own s."""
    lanes: int = 1
    """States: of a column each, else one."""
    source: str = "h"
    """h; or x, where norms stand behind the sums."""


@dataclass(frozen=True)
class Shift:
    """v *= sum_i taps[:, i] (k of i inputs ago), of g = q, k, v."""

    taps: Tensor  # r(H, taps)


@dataclass(frozen=True)
class Linear:
    """`target` (= or +=) epilogue(weight source + bias)."""

    weight: Tensor  # r(out, in)
    bias: Tensor  # r(out)
    source: str
    """h or g; window or x, between two levels."""
    target: str
    """g or logits, which it overwrites, or x, to which it adds; between two levels it overwrites x or pending."""
    epilogue: str = ""
    """Nothing, gelu, added gelu, which adds to g, or glu, whose values are the first half of the outputs, its gates the
    second."""
    offset: int = 0
    """Where in the logits the outputs begin, a multiple of 16."""
    parts: int = 1
    """Of a window the inputs, and of all else the outputs, consist of so many vectors, one after another."""


@dataclass(frozen=True)
class Clusters:
    """Logits of an adaptive softmax -> log-probabilities of the tokens, at the front of the logits.

    Part i of the vocabulary lies at `offsets[i]`, and has `counts[i]` logits. Behind the tokens of part 0 there are the
    logits of the clusters, which are the other parts. Of part 0 alone it is the softmax.
    """

    offsets: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Keep:
    """Keep x, r(width), for the matching AddKept."""

    width: int


@dataclass(frozen=True)
class Down:
    """x takes its place in a window of `stride` inputs; kept = x + what is pending there.

    From here to the matching Up stands the coarser level, which runs where the window is full. Of a level inside n
    others the input at the model's position t is number t // (the product of their strides).
    """

    stride: int
    width: int


@dataclass(frozen=True)
class Up:
    """x = what the matching Down kept, and keeps on keeping."""

    width: int


@dataclass(frozen=True)
class AddKept:
    """x += what the matching Keep, or Down, has kept."""

    width: int


@dataclass(frozen=True)
class Pixel:
    """The token takes its place in a ring of `history` pixels; unless a pixel begins, go on with the head.

    A pixel begins with every token whose position is a multiple of the channels.
    """

    raster: Raster
    channels: int
    levels: int
    history: int
    kept: tuple[int, ...]
    """Numbers in each of the vectors that are kept of a pixel: of a mixture the prediction, then of all components the
    weights, the means of each channel, the log-scales and the couplings; of a channel's head what it reads."""
    classes: int
    """How many labels there are; 0: sequences have none."""


@dataclass(frozen=True)
class Where:
    """x = row[row] + column[column] + sum_(i, c) value[(i C + c) levels + value of channel c at i] + label[label].

    The i are the pixels at left, above left, above and above right (in an image of one column the first three), those
    outside of the image left out.
    """

    row: Tensor  # r(height, D)
    column: Tensor  # r(width, D)
    value: Tensor  # r(pixels * channels * levels, D), or none
    label: Tensor  # r(classes, D), no classes without it


@dataclass(frozen=True)
class Neighbours:
    """h = of each pixel at these offsets its channels, from -1 to 1, and a 1; zeros where it is outside of the image.

    With `predicts`, the first vector that is kept is what `median_edge` makes of the pixels at left, above and above
    left, channel by channel.
    """

    offsets: tuple[Offset, ...]
    channels: int
    predicts: bool


@dataclass(frozen=True)
class Taps:
    """g = sum_i weight[i] * (h of the pixel at `raster.NEAREST[i]`), if inside of the image; h enters the ring."""

    weight: Tensor  # r(4, D)
    width: int
    """Of the image; the ring holds one pixel more."""


@dataclass(frozen=True)
class Components:
    """kept = what a linear layer made of a pixel, as g, in the form that `Mixture` needs.

    All of one kind stand together: of the components the weights, the means of each channel, the log-scales, multiplied
    with their gain already, and the couplings.
    """

    count: int
    channels: int


@dataclass(frozen=True)
class Mixture:
    """logits = log-probabilities of the next channel's values, given those of the pixel's channels before it."""

    count: int
    channels: int
    levels: int


@dataclass(frozen=True)
class Channel:
    """g = h = kept + channel[c] + sum_(j<c) value[j * levels + value of channel j].

    Where a pixel begins, kept = h before that.
    """

    channel: Tensor  # r(channels, D), or none of a single channel
    value: Tensor  # r((channels - 1) * levels, D)
    width: int
    """D."""


Operation = (
    Embed
    | Samples
    | Norm
    | SSM
    | Shift
    | Linear
    | Clusters
    | Keep
    | Down
    | Up
    | AddKept
    | Pixel
    | Where
    | Neighbours
    | Taps
    | Components
    | Mixture
    | Channel
)


@dataclass(frozen=True)
class Plan:
    """One step of a model."""

    operations: tuple[Operation, ...]
    vocab: int
    bos: int

    @property
    def period(self) -> int:
        """Steps after which the same operations do the same again: levels are nested, and images follow each other."""
        first = self.operations[0]
        image = first.raster.pixels * first.channels if isinstance(first, Pixel) else 1
        return image * math.prod(operation.stride for operation in self.operations if isinstance(operation, Down))
