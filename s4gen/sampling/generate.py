"""Drawing sequences: prefill the prompt by convolution, then step, filter and draw, one token at a time.

The n sequences of a seed are bitwise the same however they are split into batches. Two things make it so: the random
numbers belong to the sequence (see `randomness`), and the number of rows is padded to a multiple of four, for which
each row of PyTorch's float32 matrix products on a CPU does not depend on how many others there are (measured; it does
for 1, 2, 3, 5, 6, 7, 9, 10 and 11 rows). A GPU, and attention on several threads, choose their sums by the number of
rows: there other batches may, rarely, round a draw to another token.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.progress import progress_bar
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine, make_engine
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.randomness import draw, uniforms

ROWS = 4
"""The number of rows is padded to a multiple of this."""


def generate(
    recurrent: RecurrentModel,
    n: int,
    *,
    seed: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    prompt: Tensor | None = None,
    batch_size: int = 64,
    engine: str = "eager",
    progress: bool = False,
) -> Tensor:
    """n sequences of the model's length, drawn from it: (n, L) int64 on the CPU.

    Sequence i depends on the model, the seed, i, the filters, its own prompt and the engine, not on n or `batch_size`
    (with "auto" the engine depends on n).

    Args:
        prompt: (n, P) int64 with 0 <= P <= L, the first tokens of each sequence; they are part of what is returned.
        batch_size: sequences drawn at a time, at most.
        progress: a bar on standard error, if tqdm is installed.

    Raises:
        UserError: a setting out of range, an unknown engine, or a prompt that does not fit the model.
    """
    if n < 1 or batch_size < 1:
        raise UserError(f"asked for {n} sequences in batches of {batch_size}; both must be at least 1")
    filters = Filters(temperature, top_k, top_p, min_p)
    prompt = _checked_prompt(recurrent, n, prompt)
    length, given = recurrent.config.layout.length, prompt.shape[1]
    batches = -(-n // batch_size)
    size = -(-n // batches)  # equal batches: none is nearly empty, and a compiled engine compiles once
    runner = make_engine(engine, recurrent, filters, tokens=n * (length - given))
    out = torch.empty(n, length, dtype=torch.int64, device=recurrent.device)  # copied once: a GPU need not wait
    out[:, :given] = prompt
    with progress_bar(n * (length - given), "tok", progress, desc="sampling") as bar:
        for first in range(0, n, size):
            members = range(first, min(first + size, n))
            part = out[first : members.stop]
            tokens = _draw(recurrent, runner, filters, members, _padded(size), seed, part[:, :given])
            for position, token in enumerate(tokens, start=given):
                part[:, position] = token
                bar.update(len(members))
    return out.cpu()


def stream(
    recurrent: RecurrentModel,
    n: int,
    *,
    seed: int,
    filters: Filters = KEEP_ALL,
    prompt: Tensor | None = None,
    engine: str = "eager",
) -> Iterator[Tensor]:
    """The tokens of n sequences as they are drawn: (n,) int64 for each position that follows the prompt (n, P).

    On the model's device. The same tokens as `generate` with these arguments gives.
    """
    prompt = _checked_prompt(recurrent, n, prompt)
    tokens = n * (recurrent.config.layout.length - prompt.shape[1])
    runner = make_engine(engine, recurrent, filters, tokens)
    return _draw(recurrent, runner, filters, range(n), _padded(n), seed, prompt)


@torch.inference_mode()
def _draw(
    recurrent: RecurrentModel,
    engine: Engine,
    filters: Filters,
    members: range,
    rows: int,
    seed: int,
    prompt: Tensor,
) -> Iterator[Tensor]:
    """The tokens of these sequences after their prompts, (len(members),) at a time, computed as `rows` rows."""
    length, given = recurrent.config.layout.length, prompt.shape[1]
    if given == length:
        return
    u = _pad_rows(uniforms(seed, members, length), rows).to(recurrent.device)
    logits, state = recurrent.prefill(_pad_rows(prompt, rows).to(recurrent.device))
    if not logits.isfinite().all():
        raise UserError("the model's output is not a finite number; its training must have diverged")
    token = draw(filters(logits), u[:, given])
    yield token[: len(members)]
    for position in range(given + 1, length):
        token, state = engine.advance(token, state, u[:, position])
        yield token[: len(members)]


def _padded(rows: int) -> int:
    return -(-rows // ROWS) * ROWS


def _pad_rows(x: Tensor, rows: int) -> Tensor:
    """x (n, ...) with its last row repeated to make (rows, ...); the extra rows are computed and thrown away."""
    return torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])])


def _checked_prompt(recurrent: RecurrentModel, n: int, prompt: Tensor | None) -> Tensor:
    """The prompt (n, P) int64 on the CPU, empty if there is none; a UserError if the model cannot continue it."""
    if prompt is None:
        return torch.empty(n, 0, dtype=torch.int64)
    layout = recurrent.config.layout
    if prompt.is_floating_point():
        raise UserError(f"the prompt has type {prompt.dtype}; expected integer tokens")
    if prompt.ndim != 2 or len(prompt) != n:
        raise UserError(f"the prompt has shape {tuple(prompt.shape)}; expected ({n}, P), a row for each sequence")
    if prompt.shape[1] > layout.length:
        raise UserError(f"the prompt has {prompt.shape[1]} tokens, the model's sequences have {layout.length}")
    if ((prompt < 0) | (prompt >= layout.vocab)).any():
        raise UserError(
            f"the prompt has tokens from {int(prompt.min())} to {int(prompt.max())}; "
            f"the model knows 0 to {layout.vocab - 1}"
        )
    return prompt.to("cpu", torch.int64)
