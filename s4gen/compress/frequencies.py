"""Turn a model's logits for the next token into whole numbers, which every machine makes alike of the same logits.

A range coder needs the same probabilities twice, to the last bit, and a library's exp may round differently on another
processor. Here only operations are used that IEEE 754 defines exactly:

    k = round((max logit - logit) 256 / ln 2)     the logit in steps of 1/256 bit below the largest
    w = TABLE[k],  TABLE[k] = round(2^(31 - k/256))
    f = floor(w 2^23 / sum w)

All w are whole numbers below 2^53 when added, so their sum does not depend on its order. A step of 1/256 bit makes each
weight wrong by at most 0.14 %, and both together cost less than 10^-5 bits per token.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4gen.errors import UserError

TOTAL = 1 << 23
"""The most that the frequencies of all tokens add up to. The coder works with 24 bits, and gives every token one more
than its share, so that none is impossible."""
MOST_TOKENS = 1 << 20
"""The largest vocabulary for which frequencies of this size are fine enough."""
_STEPS = 256
"""Steps of a logit per factor of two."""
_TOP = 31
"""The largest weight is 2^31."""
_STEPS_PER_NAT = 369.3299304675746
"""256 / ln 2, written out: a constant of the format, which no library computes."""


def frequencies(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the frequency of each token, whole numbers f(B, V) that add up to at most 2^23, from logits r(B, V).

    Raises:
        UserError: the largest logit of a row is not a finite number.
    """
    exact = logits.astype(np.float64)
    top = exact.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        raise UserError("the model's output is not a finite number; its training must have diverged")
    table = _table()
    steps = np.minimum(np.rint((top - exact) * _STEPS_PER_NAT), len(table) - 1).astype(np.intp)
    weights = table[steps]
    whole: NDArray[np.float64] = np.floor(weights * (TOTAL / weights.sum(axis=-1, keepdims=True)))
    return whole


@cache
def _table() -> NDArray[np.float64]:
    """Return round(2^(31 - k/256)) for k = 0, 1, .., down to 0, in arithmetic that does not depend on the machine."""
    with localcontext() as context:
        context.prec = 40
        octave = [Decimal(2) ** (_TOP - Decimal(k) / _STEPS) for k in range(_STEPS)]
        powers = [int((value / 2**down).to_integral_value()) for down in range(_TOP + 2) for value in octave]
    return np.array(powers, dtype=np.float64)
