"""Reading prompts with a cache: what was read before is recalled, and only the rest is computed.

Every prompt is read in chunks that end at multiples of `EVERY`, and the state at each end is kept. A prompt goes on
from the last such end that the cache has, or is there as a whole. So the result is the same, bit for bit, whatever the
cache holds, and prompts that begin alike share what they have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from s4gen.models.density import ModelState
from s4gen.models.states import chosen_rows, joined, least_length, padded_rows, row_multiple
from s4gen.sampling.convert import RecurrentModel

if TYPE_CHECKING:
    from s4gen.sampling.prompt_cache import PromptCache

EVERY = 512
"""The most tokens of a row that are read at a time, and the distance of the states that are kept. Measured on one core,
some small models read half as fast in chunks of 512 as in chunks of 4,096; large ones read as fast."""
_ROWS = 64
"""The most rows that are read side by side, so that memory is bounded."""


def state_behind(
    recurrent: RecurrentModel, chunk: Tensor, state: ModelState, counts: Tensor | None = None
) -> ModelState:
    """Feed a chunk int64 (B, S), of which `counts` int64 (B,) count in each row (None: all); return the state."""
    # Shorter chunks are filled up, if the mixer can ignore what follows the end of a row.
    missing = least_length(recurrent.config) - chunk.shape[1]
    if missing > 0 and recurrent.config.model.traits.ragged:
        counts = torch.full_like(chunk[:, 0], chunk.shape[1]) if counts is None else counts
        chunk = F.pad(chunk, (0, missing))
    return recurrent.source.prefill(chunk, state, counts)[1]


def recall(
    recurrent: RecurrentModel, cache: PromptCache, tokens: Tensor, lengths: Tensor | None, labels: Tensor | None
) -> ModelState:
    """Return the state of each row before its last token, from the cache as far as that has it, and keep it there.

    Args:
        recurrent: the model that reads.
        cache: where states are found and kept.
        tokens: int64 (n, 1 + P) on the CPU, as they are fed.
        lengths: int64 (n,), how many tokens of a row come before its last one; None: P.
        labels: int64 (n,), the classes of the rows, if there are any.
    """
    counts = [tokens.shape[1] - 1] * len(tokens) if lengths is None else lengths.tolist()
    classes: list[int | None] = [None] * len(tokens) if labels is None else labels.tolist()
    # Rows that are alike are read once; those that go on from and to the same positions are read side by side.
    keys = [(row[:count].numpy().tobytes(), label) for row, count, label in zip(tokens, counts, classes, strict=True)]
    distinct = {key: row for row, key in enumerate(keys)}
    states: dict[int, ModelState] = {}
    alike: dict[tuple[int, int], list[int]] = {}
    for row in distinct.values():
        label = None if classes[row] is None else torch.tensor([classes[row]], device=recurrent.device)
        found = cache.get(recurrent, tokens[row, : counts[row]], classes[row], multiple=EVERY) if counts[row] else None
        begin, states[row] = found or (0, recurrent.initial_state(1, label))
        if begin < counts[row]:
            alike.setdefault((begin, counts[row]), []).append(row)
    for (begin, count), members in alike.items():
        for first in range(0, len(members), _ROWS):
            part = members[first : first + _ROWS]
            # Rows are padded to a number for which no row disturbs the bits of another.
            rows = padded_rows(len(part), row_multiple(recurrent.config.ssm.d_state))
            fed = tokens[part][rows].to(recurrent.device)
            state = chosen_rows(joined([states[row] for row in part]), rows)
            for start in range(begin, count, EVERY):
                end = min(start + EVERY, count)
                state = state_behind(recurrent, fed[:, start:end], state)
                for i, row in enumerate(part):
                    states[row] = chosen_rows(state, torch.tensor([i]))
                    cache.put(recurrent, tokens[row, :end], states[row], classes[row])
    return joined([states[distinct[key]] for key in keys])
