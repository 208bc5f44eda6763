"""Rows that join and leave at any step are those that are drawn alone, bit for bit."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from engines import ENGINES_HERE, KINDS, model_of
from serving import served
from tiny_audio import sounding_model

from s4gen.models.density import DensityModel
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.generate import stream
from s4gen.sampling.prompts import Starts, checked_prompt
from s4gen.serving.batch import Batch
from s4gen.serving.orders import Order, Part


@dataclass(eq=False)
class Plain:
    """A row that keeps what is drawn."""

    number: int
    left: int
    tokens: list[int] = field(default_factory=list)

    def take(self, tokens: list[int], channel: Any) -> int:
        self.tokens += tokens
        self.left -= len(tokens)
        return len(tokens)


class Open:
    """A channel that does nothing but being open or closed."""

    closed = False


def order_of(model: DensityModel, seed: int, rows: list[Plain], filters: Filters = KEEP_ALL) -> Order:
    channel: Any = Open()
    return Order(served("m", model), filters, seed, [Part(rows, lambda: None)], channel)  # type: ignore[arg-type,return-value]


def of_kind(kind: str) -> DensityModel:
    return model_of(kind) if kind in KINDS else sounding_model(kind.removeprefix("sound, "), classes=())


@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("kind", [*KINDS, "sound, sashimi", "sound, wavenet"])
def test_rows_join_and_leave_at_any_step(kind: str, engine: str) -> None:
    """Orders of different seeds, lengths and prompts come and go; some are given up half-way."""
    chance, model = random.Random(1), of_kind(kind)
    found = served("m", model, engine)
    assert found.together
    batch = Batch(found.engine)
    waiting, under_way = [], []
    for seed in range(6):
        n, given = chance.randint(1, 4), chance.randint(0, 7)
        prompt = torch.randint(0, model.config.layout.vocab, (given,), generator=torch.Generator().manual_seed(seed))
        waiting.append((seed, prompt, [Plain(i, chance.randint(1, 14)) for i in range(n)], chance.randint(0, 5) == 0))
    wanted = [(seed, prompt, rows, [row.left for row in rows], lost) for seed, prompt, rows, lost in waiting]
    while waiting or len(batch):
        for _ in range(min(len(waiting), chance.randint(0, 2))):
            seed, prompt, rows, lost = waiting.pop()
            order = order_of(model, seed, rows)
            start = Starts(found.recurrent, checked_prompt(found.recurrent, len(rows), prompt)).of(range(len(rows)))
            batch.join(order, rows, start)
            under_way.append((order, lost))
        for order, lost in under_way:
            if lost and chance.randint(0, 3) == 0:
                order.channel.closed = True  # type: ignore[misc]
        batch._pace.steps = chance.randint(1, 5)
        for line, tokens in batch.advance()[0]:
            line.row.take(tokens[: line.row.left], line.order.channel)
    assert not any(line.going for line in batch.lines())
    complete = 0
    for seed, prompt, rows, lengths, lost in wanted:
        alone = stream(
            found.recurrent, len(rows), seed=seed, prompt=prompt, max_tokens=max(lengths), engine=found.engine
        )
        expected = torch.stack(list(alone), 1).tolist()
        for row, own, length in zip(rows, expected, lengths, strict=True):
            assert row.tokens == own[: len(row.tokens)]
            assert lost or len(row.tokens) == length
            complete += len(row.tokens)
    assert complete > 30


@pytest.mark.parametrize("engine", ENGINES_HERE)
def test_engines_of_one_model_with_other_filters_share_its_weights(engine: str) -> None:
    model = model_of("s4d")
    found = served("m", model, engine)
    sharp = found.engine_for(Filters(temperature=0.3, top_k=4))
    assert sharp.filters.top_k == 4 and found.engine.filters == KEEP_ALL
    if engine == "native":
        assert sharp._handle is found.engine._handle  # type: ignore[attr-defined]
        del found.engine  # the weights stay as long as somebody has them
    from s4gen.sampling.engines import make_engine

    alone = make_engine(engine, found.recurrent, Filters(temperature=0.3, top_k=4))
    drawn = [torch.stack(list(stream(found.recurrent, 5, seed=3, engine=each)), 1) for each in (sharp, alone)]
    assert torch.equal(*drawn)
    assert found.recurrent is not None


def test_a_filter_of_the_eager_engine_alone_is_had_there() -> None:
    assert served("m", model_of("s4d")).engine_for(Filters(repetition_penalty=2)).name == "eager"
