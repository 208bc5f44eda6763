"""Prompts, the given beginnings of sequences: they are checked, and then read by convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from s4gen.config import TextLayout
from s4gen.errors import UserError
from s4gen.models.density import ModelState
from s4gen.models.states import chosen_rows, joined, least_length, padded_rows, row_multiple
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.recalling import recall, state_behind
from s4gen.sampling.repetition import with_prompts_seen

if TYPE_CHECKING:
    from s4gen.sampling.prompt_cache import PromptCache

CHUNK = 4096
"""The most tokens of a row that are read at a time; the state goes from one chunk to the next."""
_TOKENS = 8 * CHUNK
"""The most tokens of all rows together that are read at a time, so that memory is bounded."""


class Prompts(NamedTuple):
    """Checked prompts: a row for each sequence, or fewer rows that sequences share, at least one for each label."""

    tokens: Tensor  # int64 (m, P) on the CPU; what stands beyond the length of a row has no meaning
    lengths: Tensor | None  # int64 (m,); None if all rows have P tokens
    labels: Tensor | None  # int64 (m,); None if there are no classes, or all are class 0
    shared: Tensor | None = None  # int64 (n,): the row that each sequence begins with; None if each has its own

    def part(self, rows: range) -> Prompts:
        """Return some of the rows. They stay padded as before, so a row is computed alike in whatever batch it is."""
        chosen = slice(rows.start, rows.stop)
        lengths, labels = (None if column is None else column[chosen] for column in (self.lengths, self.labels))
        return Prompts(self.tokens[chosen], lengths, labels)


class Start(NamedTuple):
    """The point at which rows go on. `state.position` counts the known tokens; the next is drawn at that position."""

    token: Tensor  # int64 (n,): the last known token of each row, or bos if there is none; it is not fed yet
    state: ModelState  # the state after all tokens before that one

    def rows(self, rows: Tensor) -> Start:
        """Return the rows int64 (R,), in that order; a row may be chosen more than once, which forks it."""
        return chosen_rows(self, rows)


def checked_prompt(recurrent: RecurrentModel, n: int, prompt: Tensor | None, labels: Tensor | None = None) -> Prompts:
    """Check prompts of one length for n sequences.

    Args:
        recurrent: the model that is to read them.
        n: how many sequences there are, at least 1.
        prompt: int64 (n, P); or (1, P) or (P,), the same for all; or None, no prompt.
        labels: the class of each sequence, int64 (n,); None if there are no classes, or all are class 0.

    Raises:
        UserError: n is less than 1, or the prompt has another shape, or tokens or labels are unknown to the model.
    """
    if n < 1:
        raise UserError(f"asked for {n} sequences; it must be at least 1")
    known = checked_labels(recurrent, n, labels)
    if prompt is None:
        prompt = torch.empty(1, 0, dtype=torch.int64)
    if prompt.ndim not in (1, 2) or (prompt.ndim == 2 and len(prompt) not in (1, n)):
        raise UserError(
            f"the prompt has shape {tuple(prompt.shape)}; expected ({n}, P), a row for each sequence, or (P,), "
            "one for all"
        )
    tokens = torch.atleast_2d(_checked(recurrent, prompt, "the prompt"))
    if len(tokens) == n:
        return Prompts(tokens, None, known)
    if known is None:
        return Prompts(tokens, None, None, torch.zeros(n, dtype=torch.int64))
    # One prompt for all, but the state depends on the label too: the prompt is read once for each label.
    distinct, rows = known.unique(return_inverse=True)
    return Prompts(tokens.expand(len(distinct), -1), None, distinct, rows)


def checked_labels(recurrent: RecurrentModel, n: int, labels: Tensor | None) -> Tensor | None:
    """Check that there is a label for each of n sequences; return labels int64 (n,) on the CPU, or None for none.

    Raises:
        UserError: the model has no classes, or does not know some label; or the shape or type is another.
    """
    if labels is None:
        return None
    layout = recurrent.config.layout
    classes = len(getattr(layout, "classes", ()))
    if not classes:
        raise UserError("the model is not conditional on labels; leave them out")
    if labels.shape != (n,) or labels.is_floating_point():
        raise UserError(
            f"the labels have shape {tuple(labels.shape)} and type {labels.dtype}; expected whole numbers ({n},), one "
            "for each sequence"
        )
    if ((labels < 0) | (labels >= classes)).any():
        raise UserError(
            f"the labels are from {int(labels.min())} to {int(labels.max())}; the model knows 0 to {classes - 1}"
        )
    return labels.to("cpu", torch.int64)


def checked_prompts(recurrent: RecurrentModel, prompts: Sequence[Tensor], labels: Tensor | None = None) -> Prompts:
    """Check prompts int64 (P_i,) of any lengths, one for each sequence, and the labels int64 (n,), if there are any.

    Raises:
        UserError: a prompt does not have one dimension; tokens or labels are unknown to the model; or the lengths
            differ, and the model's mixer needs rows of one length.
    """
    known = checked_labels(recurrent, len(prompts), labels)
    for i, prompt in enumerate(prompts):
        if prompt.ndim != 1:
            raise UserError(f"prompt {i} has shape {tuple(prompt.shape)}; expected (P,)")
    rows = [_checked(recurrent, prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
    lengths = torch.tensor([len(row) for row in rows])
    if (lengths == lengths[0]).all():
        return Prompts(torch.stack(rows), None, known)
    mixer = recurrent.config.model.traits
    if not mixer.ragged:
        raise UserError(
            f"the prompts have {int(lengths.min())} to {int(lengths.max())} tokens, and a model of {mixer.name} takes "
            "rows of one length; continue the prompts of each length in a call of their own"
        )
    return Prompts(pad_sequence(rows, batch_first=True), lengths, known)


def _checked(recurrent: RecurrentModel, prompt: Tensor, what: str) -> Tensor:
    vocab = recurrent.config.layout.vocab
    if prompt.is_floating_point():
        raise UserError(f"{what} has type {prompt.dtype}; expected integer tokens")
    if ((prompt < 0) | (prompt >= vocab)).any():
        raise UserError(
            f"{what} has tokens from {int(prompt.min())} to {int(prompt.max())}; the model knows 0 to {vocab - 1}"
        )
    return prompt.to("cpu", torch.int64)


class Starts:
    """Gives the starts of sequences, one batch at a time. Prompts that sequences share are read only once."""

    def __init__(
        self,
        recurrent: RecurrentModel,
        prompts: Prompts,
        filters: Filters = KEEP_ALL,
        cache: PromptCache | None = None,
    ) -> None:
        """Read the prompts now if sequences share them; otherwise those of a batch are read when it is asked for.

        Raises:
            UserError: as in `read_prompts`.
        """
        self._recurrent, self._prompts, self._filters, self._cache = recurrent, prompts, filters, cache
        self._shared = None if prompts.shared is None else read_prompts(recurrent, prompts, filters, cache)

    def of(self, members: range) -> Start:
        """Return the start of the sequences with these numbers, a row for each.

        Raises:
            UserError: as in `read_prompts`.
        """
        if self._shared is None or self._prompts.shared is None:
            return read_prompts(self._recurrent, self._prompts.part(members), self._filters, self._cache)
        return self._shared.rows(self._prompts.shared[members.start : members.stop])


@torch.no_grad()
def read_prompts(
    recurrent: RecurrentModel, prompts: Prompts, filters: Filters = KEEP_ALL, cache: PromptCache | None = None
) -> Start:
    """Read the prompts by convolution, each up to its last token; return where their rows stand.

    Prompts may have any length; memory is bounded. On a CPU, bit for bit, the result for a row depends only on its own
    prompt and on the length of the longest one in the `Prompts` that these are a part of. With a cache it depends on
    its own prompt alone, whatever the cache holds; beyond `recalling.EVERY` tokens it is then rounded in another way
    than without one. If the `filters` need it, the state remembers the tokens of the prompts.

    Raises:
        UserError: the model's output after some prompt is not a finite number.
    """
    # Rows are padded to a number, and split into parts of a size, for which no row disturbs the bits of another.
    multiple = row_multiple(recurrent.config.ssm.d_state)
    rows = padded_rows(len(prompts.tokens), multiple)
    tokens, lengths = _behind_bos(recurrent, prompts)
    fed = tokens[rows].to(recurrent.device)
    recalled = None if cache is None else recall(recurrent, cache, tokens, lengths, prompts.labels)
    lengths, labels = (
        None if column is None else column[rows].to(recurrent.device) for column in (lengths, prompts.labels)
    )
    if recalled is not None:
        state = chosen_rows(recalled, rows)
    else:
        least = least_length(recurrent.config)
        size = max(multiple, _TOKENS // max(least, min(CHUNK, fed.shape[1] - 1)) // multiple * multiple)
        parts = [slice(first, first + size) for first in range(0, len(fed), size)]
        state = joined(
            [
                _state_before_last(recurrent, fed[part], *(None if x is None else x[part] for x in (lengths, labels)))
                for part in parts
            ]
        )
    token = fed[:, -1] if lengths is None else fed.gather(1, lengths[:, None])[:, 0]
    # This step tests the model and its new state is dropped. It does no harm to `state`, even where steps write in
    # place: a cache is full after reading, so the step copies it first; in a ring, the next step writes the same again.
    if not recurrent.step(token, state)[0].isfinite().all():
        raise UserError("the model's output is not a finite number; its training must have diverged")
    start = Start(token, state).rows(torch.arange(len(prompts.tokens)))
    if not filters.remembers:
        return start
    vocab = recurrent.config.layout.vocab
    return start._replace(state=with_prompts_seen(start.state, prompts.tokens, prompts.lengths, vocab))


def _behind_bos(recurrent: RecurrentModel, prompts: Prompts) -> tuple[Tensor, Tensor | None]:
    """Return the tokens to be fed, int64 (m, 1 + P) or (m, P), and how many of a row come before its last one.

    The second value is None if the rows have one length. A model with bare prompts begins with the prompt itself, and
    with bos only if there is no prompt.
    """
    layout = recurrent.config.layout
    tokens, lengths = F.pad(prompts.tokens, (1, 0), value=recurrent.bos), prompts.lengths
    if not isinstance(layout, TextLayout) or not layout.bare_prompts or tokens.shape[1] == 1:
        return tokens, lengths
    if lengths is None:
        return prompts.tokens, None
    empty = lengths == 0
    return torch.where(empty[:, None], recurrent.bos, prompts.tokens), (lengths - 1).clamp_min(0)


def _state_before_last(
    recurrent: RecurrentModel, fed: Tensor, lengths: Tensor | None, labels: Tensor | None
) -> ModelState:
    """Feed all tokens of each row but its last; return the state.

    fed is int64 (B, 1 + P). Of row b, the first 1 + lengths[b] tokens count; None counts all.
    """
    state = recurrent.initial_state(len(fed), labels)
    for start in range(0, fed.shape[1] - 1, CHUNK):
        chunk = fed[:, start : min(start + CHUNK, fed.shape[1] - 1)]
        counts = None if lengths is None else (lengths - start).clamp(0, chunk.shape[1])
        state = state_behind(recurrent, chunk, state, counts)
    return state
