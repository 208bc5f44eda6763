"""Drawing sequences: whole ones, a stream of tokens, or continuations of prompts of any lengths.

Prompts are read by convolution; then an engine steps, filters and draws, one token at a time. The sequences of a seed
are bitwise the same however they are split into batches. Two things make it so: the random numbers belong to the
sequence (see `randomness`), and rows are padded to a number for which they do not disturb each other (see
`Engine.row_multiple`). A GPU, and attention on several threads, choose their sums by the number of rows: there other
batches may, rarely, round a draw to another token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from s4gen.errors import UserError
from s4gen.progress import progress_bar
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.filters import Filters
from s4gen.sampling.generation import ENDLESS, Generation, engine_of
from s4gen.sampling.prompts import Prompts, Starts, checked_prompt, checked_prompts

__all__ = ["ENDLESS", "complete", "generate", "stream"]


def generate(
    recurrent: RecurrentModel,
    n: int,
    *,
    seed: int,
    filters: Filters | None = None,
    prompt: Tensor | None = None,
    labels: Tensor | None = None,
    batch_size: int = 64,
    engine: str | Engine = "eager",
    progress: bool = False,
) -> Tensor:
    """n sequences of the model's length, drawn from it: (n, L) int64 on the CPU.

    Sequence i depends on the model, the seed, i, the filters, its own prompt and label and the engine, not on n or
    `batch_size` (with "auto" the engine depends on n).

    Args:
        prompt: the first tokens of each sequence, which are part of what is returned: (n, P) int64 with 0 <= P <= L,
            or (1, P) or (P,) for all of them, read once (for each label) and forked.
        labels: the class of each sequence, (n,), for a model that has classes; None: all 0.
        batch_size: sequences drawn at a time, at most.
        filters: what stands between the model's output and the draw; None: those of `engine`, or none where it is a
            name.
        engine: the name of one, or one that was made.
        progress: a bar on standard error, if tqdm is installed.

    Raises:
        UserError: an unknown engine, or one made with other filters, or a prompt or labels that do not fit the model.
    """
    batches = batches_of(n, batch_size)
    prompts = checked_prompt(recurrent, n, prompt, labels)
    length, given = recurrent.config.layout.length, prompts.tokens.shape[1]
    wanted = _rest(recurrent, prompts)
    runner = engine_of(engine, recurrent, filters, n * wanted)
    out = torch.empty(n, length, dtype=torch.int64)
    out[:, :given] = prompts.tokens if prompts.shared is None else prompts.tokens[0]
    if not wanted:
        return out
    starts = Starts(recurrent, prompts, runner.filters)
    with progress_bar(n * wanted, "tok", progress, desc="sampling") as bar:
        for members in batches:
            generation = Generation(recurrent, runner, seed=seed, sequences=members, start=starts.of(members))
            position = given
            for chunk in generation.chunks(wanted):
                out[members.start : members.stop, position : position + chunk.shape[1]] = chunk.cpu()
                position += chunk.shape[1]
                bar.update(chunk.numel())
    return out


def stream(
    recurrent: RecurrentModel,
    n: int,
    *,
    seed: int,
    filters: Filters | None = None,
    prompt: Tensor | None = None,
    labels: Tensor | None = None,
    engine: str | Engine = "eager",
    max_tokens: int | None = None,
) -> Iterator[Tensor]:
    """The tokens of n sequences as they are drawn: (n,) int64 for each position that follows the prompt.

    On the model's device, in constant memory. The same tokens as `generate` with these arguments gives.

    Args:
        filters: as of `generate`.
        prompt: (n, P), or (1, P) or (P,) for all; with `max_tokens` of any length.
        labels: as of `generate`.
        max_tokens: how many follow; None: the rest of the model's length; ENDLESS: until the caller has enough.

    Raises:
        UserError: as of `generate`.
    """
    prompts = checked_prompt(recurrent, n, prompt, labels)
    count = _rest(recurrent, prompts) if max_tokens is None else max_tokens
    runner = engine_of(engine, recurrent, filters, n * count)
    if not count:
        return iter(())
    start = Starts(recurrent, prompts, runner.filters).of(range(n))
    generation = Generation(recurrent, runner, seed=seed, sequences=range(n), start=start)
    return generation.stream(count)


def complete(
    recurrent: RecurrentModel,
    prompts: Sequence[Tensor],
    *,
    seed: int,
    max_tokens: int,
    labels: Tensor | None = None,
    stop: Collection[int] = (),
    filters: Filters | None = None,
    engine: str | Engine = "eager",
    batch_size: int = 64,
) -> list[Tensor]:
    """Prompts (P_i,) of any lengths, each with its continuation: int64 (P_i + S_i,) on the CPU.

    S_i is `max_tokens`, or less where a token of `stop` comes first: that token is the last one. Sequences that have
    stopped are left out of the computation as soon as half of their batch has. `labels` and `filters` are as of
    `generate`.

    Raises:
        UserError: as of `generate`; or the lengths differ and the model is an attention model, whose rows must be of
            one length.
    """
    if not prompts:
        return []
    batches = batches_of(len(prompts), batch_size)
    vocab = recurrent.config.layout.vocab
    if wrong := [token for token in stop if not 0 <= token < vocab]:
        raise UserError(f"the stop token is {wrong[0]}; the model knows 0 to {vocab - 1}")
    if max_tokens < 0:
        raise UserError(f"max_tokens is {max_tokens}, it must be at least 0")
    checked = checked_prompts(recurrent, prompts, labels)
    runner = engine_of(engine, recurrent, filters, len(prompts) * max_tokens)
    starts = Starts(recurrent, checked, runner.filters)
    out = []
    for members in batches:
        generation = Generation(recurrent, runner, seed=seed, sequences=members, start=starts.of(members))
        out += _until_stop(generation, max_tokens, torch.tensor(sorted(stop), dtype=torch.int64))
    return [torch.cat([prompt.to("cpu", torch.int64), drawn]) for prompt, drawn in zip(prompts, out, strict=True)]


def _until_stop(generation: Generation, max_tokens: int, stop: Tensor) -> list[Tensor]:
    """What each row draws up to `max_tokens` or through its first stop token: int64 (S_i,) on the CPU."""
    parts: list[list[Tensor]] = [[torch.empty(0, dtype=torch.int64)] for _ in range(len(generation))]
    members = list(range(len(generation)))  # the row of `parts` for each row of the generation
    going = set(members)
    for chunk in generation.chunks(max_tokens):
        drawn = chunk.cpu()
        stops = torch.isin(drawn, stop)
        for member, tokens, is_stop in zip(members, drawn, stops, strict=True):
            if member not in going:
                continue
            if is_stop.any():
                tokens = tokens[: int(is_stop.to(torch.uint8).argmax()) + 1]
                going.remove(member)
            parts[member].append(tokens)
        if not going:
            break
        if 2 * len(going) <= len(members):
            generation.keep([row for row, member in enumerate(members) if member in going])
            members = [member for member in members if member in going]
    return [torch.cat(pieces) for pieces in parts]


def batches_of(n: int, batch_size: int) -> list[range]:
    """Sequences 0 .. n - 1 in batches of equal size: none is nearly empty, and a compiled engine compiles once."""
    if n < 1 or batch_size < 1:
        raise UserError(f"asked for {n} sequences in batches of {batch_size}; both must be at least 1")
    size = -(-n // -(-n // batch_size))
    return [range(first, min(first + size, n)) for first in range(0, n, size)]


def _rest(recurrent: RecurrentModel, prompts: Prompts) -> int:
    """How many tokens the model's length leaves after the prompt."""
    length, given = recurrent.config.layout.length, prompts.tokens.shape[1]
    if given > length:
        raise UserError(f"the prompt has {given} tokens, the model's sequences have {length}; shorten it")
    return length - given
