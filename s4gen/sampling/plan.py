"""Plans: a converted model as a flat list of operations with their constants, for engines outside of PyTorch.

An operation reads and writes four buffers: the residual stream x, two scratch vectors h and g, and the logits. One step
of a model runs through the list once. For every row, the operations are

    Embed    x = value[token] + position[position] + label[label]
    Samples  h = the last tokens as amplitudes
    Norm     h = layer norm of x, or x = layer norm of x
    SSM      state, g = one step of the recurrence on h; then GELU
    Shift    v *= convolution of k, where g holds q, k, v, one after another
    SSM      state, g = q times one step of the recurrence on v (gated)
    Linear   g = .., or x += .., or logits = weight h (or g) + bias; then GELU or GLU
    Clusters logits = log-probabilities from the logits of an adaptive softmax

In a multi-scale stack, the operations between Down and Up run only in steps that fill a window:

    Keep     kept = x
    Down     window[phase] = x, kept = x + pending[phase]; unless this fills the window, go on with Up
    Linear   x = weight window + bias, pending = weight x + bias
    Up       x = kept
    AddKept  x += kept

In a model of whole pixels, the operations between Pixel and the head, which is Mixture or Channel, run only in steps
that begin a pixel. What the head needs of a pixel is kept for all of its channels:

    Pixel       append the token to the ring; unless a pixel begins, go on with the head
    Where       x = row + column + values of the nearest pixels + label
    Neighbours  h = values of the pixels around; kept = a prediction
    Taps        g = weighted sum of h at the pixels around; h enters the ring of the layer
    SSM         state, g = GELU(g + one step of the recurrence on h)
    Components  kept = log-weights, means, log-scales and couplings, made from g
    Mixture     logits = log-probabilities of the next channel
    Channel     g = h = the kept h + channel + values of the channels before
    Linear      g += GELU(weight h + bias)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from s4gen.models.raster import Offset, Raster

ALIGNMENT = 16
"""Parts of the logits begin at multiples of this many numbers, which is one block of the native engine."""


@dataclass(frozen=True)
class Embed:
    """x = value[channel * levels + token] + position[position mod period] + label[label].

    If bos is not one of the tokens, it has the last row of `value`.
    """

    value: Tensor  # r(channels * levels, D), and one more row for a bos that is no token
    position: Tensor  # r(period, D); period 0 if positions are not embedded
    label: Tensor  # r(classes, D); 0 classes if there are none
    channels: int
    levels: int


@dataclass(frozen=True)
class Samples:
    """h = amplitudes of the last `count` tokens, the oldest first; the token being fed is the last of them."""

    amplitude: Tensor  # r(vocab + 1): the amplitude of every token, bos included
    count: int


@dataclass(frozen=True)
class Norm:
    """`target` = weight (x - mean + shift) / sqrt(variance + eps) + bias, where mean and variance are over features."""

    weight: Tensor  # r(D)
    bias: Tensor  # r(D)
    eps: float
    shift: Tensor | None = None  # r(1); None is 0
    target: str = "h"
    """The buffer that is written: h, or x in a model whose norms stand behind the sums."""


@dataclass(frozen=True)
class SSM:
    """One step of a recurrence, s' = diag(a) s - sum_r p_r (q_r . s) + B u and y = C . s' + D u.

    All vectors are in real form, see ssm.realform. The input u is h, or x if that is the `source`. The output is
    g = GELU(y); if `tapped`, it is GELU(g + y), where g holds what taps have left. If `gated`, g holds q, k and v, and
    then u = v and g = q y. Without modes, N = 0, only the skip D is left.
    """

    a: Tensor  # r(H, N): real parts, then imaginary parts
    B: Tensor  # r(H, N)
    C: Tensor  # r(H, N)
    D: Tensor  # r(H)
    p: Tensor  # r(R, H, N); R = 0 for a diagonal recurrence
    q: Tensor  # r(R, H, N)
    gated: bool = False
    tapped: bool = False
    axis: str = "raster"
    """The line along which it runs: raster, the plain sequence; row, where s is zero at the start of each row of
    pixels; or column, where each column has an s of its own, which is zero at the start of an image."""
    lanes: int = 1
    """How many states s there are: one for each column if it runs down columns, else 1."""
    source: str = "h"
    """The buffer that is read: h, or x in a model whose norms stand behind the sums."""


@dataclass(frozen=True)
class Shift:
    """v *= sum_i taps[:, i] (k of i inputs ago), where g holds q, k and v, one after another."""

    taps: Tensor  # r(H, taps)


@dataclass(frozen=True)
class Linear:
    """`target` = epilogue(weight source + bias), or += for target x."""

    weight: Tensor  # r(out, in)
    bias: Tensor  # r(out)
    source: str
    """The buffer that is read: h or g; between two levels, window or x."""
    target: str
    """The buffer that is written: g and logits are overwritten, and x is added to; between two levels, x and pending
    are overwritten."""
    epilogue: str = ""
    """The function of the outputs: empty, gelu, "added gelu", whose result is added to g, or glu, where the first half
    of the outputs are values and the second half are their gates."""
    offset: int = 0
    """Where in the logits the outputs begin, a multiple of ALIGNMENT."""
    parts: int = 1
    """How many vectors, one after another, make up the inputs if they are a window, and the outputs if not."""


@dataclass(frozen=True)
class Clusters:
    """Turns the logits of an adaptive softmax into log-probabilities of all tokens, at the front of the logits.

    Part i of the vocabulary has `counts[i]` logits that begin at `offsets[i]`. In part 0 the logits of the tokens are
    followed by one logit for each of the other parts, the clusters. With part 0 alone it is a plain log-softmax.
    """

    offsets: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Keep:
    """kept = x, r(width), for the matching AddKept."""

    width: int


@dataclass(frozen=True)
class Down:
    """x takes its place in a window of `stride` inputs; kept = x + the pending output for this place.

    The operations from here to the matching Up are the coarser level, which runs when the window is full. At the
    model's position t, a level inside of n others reads its input number t // (product of the n strides).
    """

    stride: int
    width: int


@dataclass(frozen=True)
class Up:
    """x = what the matching Down has kept, and which stays kept for AddKept."""

    width: int


@dataclass(frozen=True)
class AddKept:
    """x += what the matching Keep or Down has kept."""

    width: int


@dataclass(frozen=True)
class Pixel:
    """The token takes its place in a ring of `history` pixels; unless a pixel begins, the step goes on with the head.

    A pixel begins at every position that is a multiple of the number of channels.
    """

    raster: Raster
    channels: int
    levels: int
    history: int
    kept: tuple[int, ...]
    """Sizes of the vectors that are kept of a pixel. For a mixture these are the prediction, and then, for all
    components together, the weights, the means of each channel, the log-scales and the couplings; for a head of
    channels it is the one vector that the head reads."""
    classes: int
    """How many classes there are; 0 if sequences have none."""


@dataclass(frozen=True)
class Where:
    """x = row[row] + column[column] + sum_(i, c) value[(i C + c) levels + value of channel c at i] + label[label].

    The pixels i are those at left, above left, above and above right (in an image of one column, only the first
    three); a pixel outside of the image is left out of the sum.
    """

    row: Tensor  # r(height, D)
    column: Tensor  # r(width, D)
    value: Tensor  # r(pixels * channels * levels, D); no rows if values are not embedded
    label: Tensor  # r(classes, D); 0 classes if there are none


@dataclass(frozen=True)
class Neighbours:
    """h = the channels, from -1 to 1, of each pixel at these offsets, and a 1 after them; zeros if it is outside.

    With `predicts`, the first kept vector is the prediction that `median_edge` makes, channel by channel, from the
    pixels at left, above and above left.
    """

    offsets: tuple[Offset, ...]
    channels: int
    predicts: bool


@dataclass(frozen=True)
class Taps:
    """g = sum_i weight[i] * (h of the pixel at `raster.NEAREST[i]`), inside of the image; then h enters the ring."""

    weight: Tensor  # r(4, D)
    width: int
    """Pixels in a row of the image. The ring holds one pixel more, so that it reaches back to the one above left."""


@dataclass(frozen=True)
class Components:
    """kept = the components of a pixel, which a linear layer has left in g, in the form that `Mixture` needs.

    Numbers of one kind stand together, for all components: the weights, the means of each channel, the log-scales,
    which are multiplied with their gain already, and the couplings.
    """

    count: int
    channels: int


@dataclass(frozen=True)
class Mixture:
    """logits = log-probabilities of the next channel's values, given the pixel's channels before it."""

    count: int
    channels: int
    levels: int


@dataclass(frozen=True)
class Channel:
    """g = h = kept + channel[c] + sum_(j<c) value[j * levels + value of channel j].

    Before that, where a pixel begins, kept = h.
    """

    channel: Tensor  # r(channels, D); no rows for a single channel
    value: Tensor  # r((channels - 1) * levels, D)
    width: int
    """D, the number of features, which tables without rows do not tell."""


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
    """One step of a model: its operations in order, and the facts that belong to none of them."""

    operations: tuple[Operation, ...]
    vocab: int
    bos: int

    @property
    def period(self) -> int:
        """Number of steps after which the same operations are due again.

        Nested levels multiply their strides, and after an image the next one begins.
        """
        first = self.operations[0]
        image = first.raster.pixels * first.channels if isinstance(first, Pixel) else 1
        return image * math.prod(operation.stride for operation in self.operations if isinstance(operation, Down))
