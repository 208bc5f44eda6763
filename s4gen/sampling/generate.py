"""Drawing sequences: whole ones, a stream of tokens, or continuations of prompts of any lengths.

Prompts are read by convolution; then an engine steps, filters and draws, one token at a time. A seed gives bitwise the
same sequences however they are split into batches. Two things make it so: random numbers belong to a sequence (see
`randomness`), and rows are padded to a number for which they do not disturb each other (see `Engine.row_multiple`). A
GPU, and attention on several threads, order their sums by the number of rows. There another batch size can, rarely,
round a draw to another token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from s4gen.bulk.dealing import even_batches
from s4gen.errors import UserError
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.filters import Filters
from s4gen.sampling.generation import ENDLESS, Generation, engine_of
from s4gen.sampling.prompt_cache import PromptCache
from s4gen.sampling.prompts import Prompts, Starts, checked_prompt, checked_prompts
from s4gen.showing.progress import progress_bar

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
    prompt_cache: PromptCache | None = None,
) -> Tensor:
    """Draw n sequences of the model's length L; return them as int64 (n, L) on the CPU.

    Sequence i depends on the model, the seed, i, the filters, its prompt, its label and the engine. It does not depend
    on n or `batch_size`, except that "auto" chooses the engine by n.

    Args:
        recurrent: the converted model.
        n: how many sequences to draw, at least 1.
        seed: 0 to 2^64 - 1.
        prompt: the first tokens of each sequence, which are returned as part of it: int64 (n, P) with 0 <= P <= L; or
            (1, P) or (P,), the same for all, which is read only once (for each label).
        labels: the class of each sequence, int64 (n,), for a model that has classes; None makes them all 0.
        batch_size: the most sequences that are drawn side by side.
        filters: temperature and the like. None means the filters of `engine`; if that is a name, it means none.
        engine: the name of an engine, or one that `make_engine` made.
        progress: show a bar on standard error, if tqdm is installed.
        prompt_cache: where prompts that were read before are found, and new ones are kept.

    Raises:
        UserError: the engine is unknown or was made with other filters; or prompt or labels do not fit the model.
    """
    batches = even_batches(n, batch_size)
    prompts = checked_prompt(recurrent, n, prompt, labels)
    length, given = recurrent.config.layout.length, prompts.tokens.shape[1]
    wanted = rest(recurrent, prompts)
    runner = engine_of(engine, recurrent, filters, n * wanted)
    out = torch.empty(n, length, dtype=torch.int64)
    out[:, :given] = prompts.tokens if prompts.shared is None else prompts.tokens[0]
    if not wanted:
        return out
    with progress_bar(n * wanted, "tok", progress, desc="sampling") as bar:
        for members, drawn in draw_batches(recurrent, runner, prompts, batches, wanted, seed, bar.update, prompt_cache):
            out[members.start : members.stop, given:] = drawn
    return out


def draw_batches(
    recurrent: RecurrentModel,
    engine: Engine,
    prompts: Prompts,
    batches: Iterable[range],
    count: int,
    seed: int,
    drawn: Callable[[int], object] = bool,
    prompt_cache: PromptCache | None = None,
) -> Iterator[tuple[range, Tensor]]:
    """Draw `count` tokens behind the prompts of these sequences, batch by batch; only one batch is held in memory.

    Yields the numbers of a batch's sequences, and their tokens int64 (n, count) on the CPU. `drawn` is called with the
    number of new tokens while they are drawn.
    """
    starts = Starts(recurrent, prompts, engine.filters, prompt_cache)
    for members in batches:
        generation = Generation(recurrent, engine, seed=seed, sequences=members, start=starts.of(members))
        out, position = torch.empty(len(members), count, dtype=torch.int64), 0
        for chunk in generation.chunks(count):
            out[:, position : position + chunk.shape[1]] = chunk.cpu()
            position += chunk.shape[1]
            drawn(chunk.numel())
        yield members, out


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
    prompt_cache: PromptCache | None = None,
) -> Iterator[Tensor]:
    """Draw n sequences token by token: yield int64 (n,), on the model's device, for each position behind the prompt.

    Memory stays constant, however many tokens are drawn. They are the tokens that `generate` returns for the same
    arguments. The arguments not named here are those of `generate`.

    Args:
        prompt: int64 (n, P), or (1, P) or (P,), the same for all. With `max_tokens` it may be of any length.
        max_tokens: how many tokens to draw for each sequence. None fills up the model's length; ENDLESS goes on until
            the caller stops.

    Raises:
        UserError: as in `generate`, and before the first token is asked for.
    """
    prompts = checked_prompt(recurrent, n, prompt, labels)
    count = rest(recurrent, prompts) if max_tokens is None else max_tokens
    runner = engine_of(engine, recurrent, filters, n * count)
    if not count:
        return iter(())
    start = Starts(recurrent, prompts, runner.filters, prompt_cache).of(range(n))
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
    prompt_cache: PromptCache | None = None,
) -> list[Tensor]:
    """Continue prompts int64 (P_i,) of any lengths; return each with its continuation, int64 (P_i + S_i,) on the CPU.

    S_i is `max_tokens`, or less if a token of `stop` is drawn before: then that token is the last one. As soon as half
    of a batch has stopped, those rows are no longer computed. The arguments not named here are those of `generate`.

    Raises:
        UserError: as in `generate`; or `stop` or `max_tokens` is out of range; or the prompts have different lengths
            and the model's mixer needs rows of one length.
    """
    if not prompts:
        return []
    batches = even_batches(len(prompts), batch_size)
    vocab = recurrent.config.layout.vocab
    if wrong := [token for token in stop if not 0 <= token < vocab]:
        raise UserError(f"the stop token is {wrong[0]}; the model knows 0 to {vocab - 1}")
    if max_tokens < 0:
        raise UserError(f"max_tokens is {max_tokens}, it must be at least 0")
    checked = checked_prompts(recurrent, prompts, labels)
    runner = engine_of(engine, recurrent, filters, len(prompts) * max_tokens)
    starts = Starts(recurrent, checked, runner.filters, prompt_cache)
    out = []
    for members in batches:
        generation = Generation(recurrent, runner, seed=seed, sequences=members, start=starts.of(members))
        out += _until_stop(generation, max_tokens, torch.tensor(sorted(stop), dtype=torch.int64))
    return [torch.cat([prompt.to("cpu", torch.int64), drawn]) for prompt, drawn in zip(prompts, out, strict=True)]


def _until_stop(generation: Generation, max_tokens: int, stop: Tensor) -> list[Tensor]:
    """Draw up to `max_tokens` for each row, or up to its first stop token, included; return int64 (S_i,) on the CPU."""
    parts: list[list[Tensor]] = [[torch.empty(0, dtype=torch.int64)] for _ in range(len(generation))]
    members = list(range(len(generation)))  # for each row of the generation, its index in `parts`
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
        # Leaving out rows costs a new session, so wait until half of the work would be for nothing.
        if 2 * len(going) <= len(members):
            generation.keep([row for row, member in enumerate(members) if member in going])
            members = [member for member in members if member in going]
    return [torch.cat(pieces) for pieces in parts]


def rest(recurrent: RecurrentModel, prompts: Prompts) -> int:
    """Return how many tokens the model's length leaves behind the prompts; raise UserError if these are longer."""
    length, given = recurrent.config.layout.length, prompts.tokens.shape[1]
    if given > length:
        raise UserError(f"the prompt has {given} tokens, the model's sequences have {length}; shorten it")
    return length - given
