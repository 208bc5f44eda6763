"""`POST /v1/completions`: texts that are continued, in the form that clients of OpenAI speak."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.files import expected
from s4gen.files.expected import Check
from s4gen.sampling.filters import Filters
from s4gen.sampling.prompts import Start, Starts, checked_prompts
from s4gen.sampling.text import Text, Writer
from s4gen.serving.fields import COMMON, count_of, filters_of, model_of, one_or_more, parsed, seed_of
from s4gen.serving.limits import Limits
from s4gen.serving.orders import Channel, Order, Part
from s4gen.serving.refusal import RefusedError
from s4gen.serving.served import Served
from s4gen.serving.state import state_of
from s4gen.serving.streams import DONE, Stream, as_json, collected, server_sent
from s4gen.serving.texts import Piece, TextRow, logprobs_of

MAX_TOKENS = 16
"""Tokens to be drawn for a text if the request does not say; OpenAI's default."""
STOPS, LIKELIEST = 4, 5
"""The most stop strings, and the most likeliest tokens at each position; OpenAI's bounds."""


def _must_be(*neutral: Any) -> Check:
    """Expect one of some values that change nothing, because s4gen does not have what the field is for."""

    def check(value: Any, name: str) -> Any:
        if not any(type(value) is type(item) and value == item for item in neutral):
            raise ValueError(f"{name} = {expected.shown(value)}: s4gen does not have this; leave it out")
        return value

    return check


def _prompt(value: Any, name: str) -> Any:
    """Expect a string or a list of strings; OpenAI's other form, lists of tokens, is refused in words of its own."""
    if isinstance(value, list) and value and all(type(item) in (int, list) for item in value):
        raise ValueError(f"{name} holds tokens: expected text, a string or a list of strings")
    return one_or_more(1024)(value, name)


FIELDS: dict[str, Check] = {
    **COMMON,
    "prompt": _prompt,
    "max_tokens": expected.whole(),
    "n": expected.whole(1),
    "stop": one_or_more(STOPS),
    "stream_options": expected.table({}, {"include_usage": expected.flag}),
    "logprobs": expected.whole(0, LIKELIEST),
    "echo": expected.flag,
    "user": expected.text(),
    "best_of": expected.whole(1),
    "frequency_penalty": _must_be(0, 0.0),
    "presence_penalty": _must_be(0, 0.0),
    "logit_bias": _must_be({}),
    "suffix": _must_be(""),
}
"""The fields of a request. `user` is read and has no meaning here; `best_of` has to be `n`."""


@dataclass
class Wish:
    """The checked fields of a request."""

    model: Served
    tokenizer: Tokenizer
    filters: Filters
    prompts: list[Tensor]
    """The tokens of the prompt of each choice, int64 (P_i,)."""
    given: int
    """Tokens of the prompts that the request has, each counted once."""
    max_tokens: int
    stop: list[str]
    seed: int
    likeliest: int | None
    """How many likely tokens are told at each position; None: no log-probabilities are wanted."""
    echo: bool
    stream: bool
    usage: bool
    """Whether a stream ends with the numbers of tokens."""


async def complete(request: Request, body: bytes) -> Response:
    """Answer a request.

    Raises:
        RefusedError: it is not carried out.
    """
    state = state_of(request)
    found = parsed(body, FIELDS)
    model = model_of(found, state.models, "text")
    # Long prompts take a while to become tokens, during which others are answered.
    wish = await run_in_threadpool(_wish, found, model, state.limits)
    channel = Channel(state.limits.unread)
    rows = [
        TextRow(i, Text(i, prompt), Writer(wish.tokenizer, wish.stop), wish.max_tokens, wish.tokenizer)
        for i, prompt in enumerate(wish.prompts)
    ]
    order = Order(model, wish.filters, wish.seed, _parts(wish, rows, channel), channel)
    if wish.stream:
        return Stream(request, order, lambda: _events(wish, rows, channel), "text/event-stream", _failed)
    return as_json(await collected(request, order, lambda: _whole(wish, rows, channel)))


def _wish(found: Mapping[str, Any], model: Served, limits: Limits) -> Wish:
    prompts, stop = (_listed(found.get(key, "" if key == "prompt" else [])) for key in ("prompt", "stop"))
    n, max_tokens = count_of(found, limits), found.get("max_tokens", MAX_TOKENS)
    echo, likeliest = found.get("echo", False), found.get("logprobs")
    if found.get("best_of", n) != n:
        raise RefusedError(400, f"best_of = {found['best_of']}: expected n, which is {n}, or nothing", param="best_of")
    if "" in stop:
        raise RefusedError(400, "stop: an empty string would end every text at once; give some text", param="stop")
    if len(prompts) * n > limits.per_request:
        message = f"{len(prompts)} prompts with n = {n}: a request may have {limits.per_request} texts"
        raise RefusedError(400, message, param="n", code="invalid_value")
    if max_tokens > limits.max_tokens or (max_tokens == 0 and not echo):
        least = 0 if echo else 1
        message = f"max_tokens = {max_tokens}: expected {least} to {limits.max_tokens}"
        raise RefusedError(400, message, param="max_tokens", code="invalid_value")
    tokenizer = model.tokenizer
    assert tokenizer is not None  # it is a model of text
    try:
        encoded = [torch.tensor(tokenizer.encode(prompt), dtype=torch.int64) for prompt in prompts]
    except UserError as error:
        raise RefusedError(400, str(error), param="prompt", code="invalid_value") from None
    if (total := sum(map(len, encoded))) > limits.prompt_tokens:
        message = f"prompt has {total:,} tokens: a request may have {limits.prompt_tokens:,}"
        raise RefusedError(400, message, param="prompt", code="context_length_exceeded")
    return Wish(
        model,
        tokenizer,
        filters_of(found, "text"),
        [prompt for prompt in encoded for _ in range(n)],
        total,
        max_tokens,
        stop,
        seed_of(found),
        likeliest,
        echo,
        found.get("stream", False),
        found.get("stream_options", {}).get("include_usage", False),
    )


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _parts(wish: Wish, rows: Sequence[TextRow], channel: Channel) -> list[Part]:
    """Return the rows in parts that are read together: of one length, if the mixer needs that."""
    if wish.model.config.model.traits.ragged:
        groups = [list(rows)]
    else:
        ordered = sorted(rows, key=lambda row: len(row.text.prompt))
        groups = [list(group) for _, group in groupby(ordered, key=lambda row: len(row.text.prompt))]
    return [Part(group, _reader(wish, group, channel)) for group in groups]


def _reader(wish: Wish, rows: Sequence[TextRow], channel: Channel) -> Any:
    """Return what reads the prompts of these rows, of which equal ones are read once."""

    def read() -> Start:
        recurrent = wish.model.recurrent
        distinct = {tuple(row.text.prompt.tolist()): row.text.prompt for row in rows}
        prompts = checked_prompts(recurrent, list(distinct.values()))
        number = {prompt: i for i, prompt in enumerate(distinct)}
        shared = torch.tensor([number[tuple(row.text.prompt.tolist())] for row in rows])
        start = Starts(recurrent, prompts._replace(shared=shared), wish.filters).of(range(len(rows)))
        for i, row in enumerate(rows):
            if wish.likeliest is not None:
                row.watch(wish.model, start.rows(torch.tensor([i])), wish.likeliest)
            if wish.echo:
                row.repeat(wish.model, channel)
        return start

    return read


def _choice(index: int, text: str, logprobs: Any, ended: str) -> dict[str, Any]:
    reason = {"": None, "eos": "stop"}.get(ended, ended)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _frame(wish: Wish, choices: list[dict[str, Any]], identity: str, created: int) -> dict[str, Any]:
    return {
        "id": identity,
        "object": "text_completion",
        "created": created,
        "model": wish.model.name,
        "seed": wish.seed,
        "choices": choices,
    }


def _usage(wish: Wish, rows: Sequence[TextRow]) -> dict[str, int]:
    drawn = sum(len(row.text.tokens) for row in rows)
    return {"prompt_tokens": wish.given, "completion_tokens": drawn, "total_tokens": wish.given + drawn}


def _identity() -> tuple[str, int]:
    return f"cmpl-{secrets.token_hex(12)}", int(time.time())


async def _whole(wish: Wish, rows: Sequence[TextRow], channel: Channel) -> dict[str, Any]:
    pieces: dict[int, list[Piece]] = {row.number: [] for row in rows}
    async for piece in channel.events():
        pieces[piece.number].append(piece)
    choices = [
        _choice(
            row.number,
            "".join(piece.text for piece in pieces[row.number]),
            logprobs_of(pieces[row.number], wish.tokenizer) if wish.likeliest is not None else None,
            row.text.ended or "length",
        )
        for row in rows
    ]
    return _frame(wish, choices, *_identity()) | {"usage": _usage(wish, rows)}


async def _events(wish: Wish, rows: Sequence[TextRow], channel: Channel) -> AsyncIterator[bytes]:
    identity, created = _identity()
    async for piece in channel.events():
        logprobs = logprobs_of([piece], wish.tokenizer) if wish.likeliest is not None else None
        choice = _choice(piece.number, piece.text, logprobs, piece.ended)
        yield server_sent(_frame(wish, [choice], identity, created))
    if wish.usage:
        yield server_sent(_frame(wish, [], identity, created) | {"usage": _usage(wish, rows)})
    yield DONE


def _failed(refusal: RefusedError) -> bytes:
    return server_sent(refusal.body()) + DONE
