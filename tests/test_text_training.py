"""Language models: what they are, how they train with their state, and what a text costs under them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupted import stop_after
from torch import Tensor

from s4gen.checkpoint import load_checkpoint, load_tensors
from s4gen.config import (
    DataConfig,
    DensityConfig,
    ImageLayout,
    ModelConfig,
    OptimConfig,
    Recipe,
    SSMConfig,
    TextLayout,
    TrainConfig,
)
from s4gen.data.text import TokenFile, TrainStream, WordTokenizer, open_split, prepare_tokenizer
from s4gen.errors import UserError
from s4gen.evaluate.text import evaluate_stream, evaluate_windows
from s4gen.models.density import DensityModel
from s4gen.train import loop, optim, run, training_run
from s4gen.train.batches import TokenBatch
from s4gen.train.metrics import read_metrics


def recipe(mixer: str = "s4d", **train: Any) -> Recipe:
    settings = {"steps": 4, "batch_size": 4, "chunk": 12, "log_every": 1, "eval_every": 2, "eval_limit": 5}
    return Recipe(
        ModelConfig(
            mixer=mixer,
            d_model=16,
            n_layers=1,
            d_ff=8,
            mixers_per_block=2,
            dropout=0.1,  # so that the random state matters
            n_heads=2,
            window=9 if mixer == "attention" else 0,
            cutoffs=(20, 300),
        ),
        SSMConfig(d_state=4),
        DataConfig("wikitext-mini", vocab_size=900),
        OptimConfig(warmup_steps=2),
        TrainConfig(**{**settings, "save_every": 2, "n_samples": 0, "precision": "fp32", **train}),
    )


def begun(settings: Recipe, seed: int = 0) -> training_run.TrainingRun:
    torch.manual_seed(seed)
    return training_run.start(
        settings, DensityConfig(TextLayout(900, 0), settings.model, settings.ssm), torch.device("cpu")
    )


def rows(settings: Recipe, seed: int = 3) -> TrainStream:
    tokens = np.random.default_rng(seed).integers(0, 900, 5000)
    return TrainStream(tokens, settings.train.batch_size, settings.train.chunk)


# The loop


@pytest.mark.parametrize(("mixer", "accumulate", "precision"), [("s4d", 2, "bf16"), ("attention", 1, "bf16")])
def test_a_killed_and_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mixer: str, accumulate: int, precision: str
) -> None:
    """Weights, running mean, optimiser, random state, and the state that the rows carry from step to step."""
    settings = recipe(mixer, accumulate=accumulate, precision=precision)
    assert run(settings, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            run(settings, tmp_path / "cut", progress=False)
    assert run(None, tmp_path / "cut", resume=True, progress=False)
    whole, cut = (load_tensors(tmp_path / name / "checkpoint" / "training.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and "carried.0" in whole
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    first, second = (read_metrics(tmp_path / name) for name in ("whole", "cut"))
    assert [row["nats"] for row in first] == [row["nats"] for row in second]


def test_a_step_goes_on_where_the_last_one_ended() -> None:
    """With weights that do not move, the loss of a step is that of its tokens after all those before them."""
    settings = dataclasses.replace(recipe(batch_size=2), optim=OptimConfig(lr=1e-30, ssm_lr=1e-30, weight_decay=0))
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, dropout=0.0))
    state, stream = begun(settings), rows(settings)
    found = [loop.training_step(state, TokenBatch(*stream.batch(step)))[0] for step in range(3)]
    x, y = (torch.cat(side, 1) for side in zip(*(stream.batch(step) for step in range(3)), strict=True))
    with torch.no_grad():
        nats = state.model.score(x, y)[0].view(2, 3, 12).mean((0, 2))
    assert found == pytest.approx(nats.tolist(), rel=1e-5)
    assert not any(leaf.requires_grad for leaf in state.carried[0].blocks)


@pytest.mark.parametrize("mixer", ["s4d", "attention"])
def test_the_gradient_of_parts_is_that_of_the_whole_batch(mixer: str) -> None:
    """And recomputing what the blocks have computed changes nothing, dropout included."""
    plain = recipe(mixer)
    without = dataclasses.replace(plain, model=dataclasses.replace(plain.model, dropout=0.0))
    for settings, changes in ((without, {"accumulate": 4}), (plain, {"checkpoint_activations": True})):
        other = dataclasses.replace(settings, train=dataclasses.replace(settings.train, **changes))
        states = [begun(settings), begun(other)]
        for state in states:
            torch.manual_seed(5)
            for step in range(2):
                loop.training_step(state, TokenBatch(*rows(settings).batch(step)))
        for (name, a), b in zip(states[0].model.named_parameters(), states[1].model.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_parts_of_a_batch_of_images_are_the_batch_too() -> None:
    grads = []
    for accumulate in (1, 3):
        settings = Recipe(
            ModelConfig(d_model=8, n_layers=1, d_ff=8),
            SSMConfig(d_state=4),
            DataConfig("mnist-mini"),
            OptimConfig(),
            TrainConfig(batch_size=6, accumulate=accumulate),
        )
        state = training_run.start(
            settings, DensityConfig(ImageLayout(4, 4, 1), settings.model, settings.ssm), torch.device("cpu")
        )
        tokens = torch.randint(0, 256, (5, 16), generator=torch.Generator().manual_seed(2))
        loop.training_step(state, TokenBatch(tokens))
        grads.append([parameter.grad for parameter in state.model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-7)


def test_training_learns_and_says_so(tmp_path: Path) -> None:
    settings = dataclasses.replace(recipe(steps=60, eval_every=60, save_every=60), optim=OptimConfig(lr=0.02))
    out = tmp_path / "out"
    assert run(settings, out, progress=False)
    found = read_metrics(out)
    train = [row["perplexity"] for row in found if row["split"] == "train"]
    assert train[0] > 200  # even the first distribution favours the head of the vocabulary
    assert sum(train[-10:]) / 10 < 150
    held = found[-1]
    assert held["split"] == "validation" and held["perplexity"] < 150
    assert held["perplexity"] == pytest.approx(math.exp(held["nats"]))
    header = (out / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[3:7] == ["nats", "perplexity", "word_perplexity", "bits_per_byte"]
    saved = load_checkpoint(out / "checkpoint")
    assert saved.metrics["validation"]["n_tokens"] == 60
    assert saved.tokenizer().vocab == saved.config.layout.vocab == 900
    card = (out / "checkpoint" / "README.md").read_text()
    assert "bits/byte" in card and "Tokeniser: word, 900 tokens" in card


def test_every_evaluation_leaves_a_text(tmp_path: Path) -> None:
    def sampler(model: DensityModel, n: int, seed: int) -> Tensor:
        return torch.tensor([[2, 3, 0]]).repeat(n, 1)

    run(recipe(n_samples=2, steps=2), tmp_path / "out", sampler=sampler, progress=False)
    words = prepare_tokenizer("wikitext-mini", "word", 900).words  # type: ignore[attr-defined]
    text = (tmp_path / "out" / "samples" / "step-000002.txt").read_text()
    assert text == f" {words[2]} {words[3]} \n\n\n---\n\n {words[2]} {words[3]} \n"


def test_matrices_of_the_adaptive_layers_decay_and_biases_do_not() -> None:
    groups = optim.parameter_groups(begun(recipe()).model)
    assert {"embedding.tables.0", "embedding.projections.2", "head.projection", "head.cluster_weight"} <= set(
        groups["decay"]
    )
    assert {"head.bias", "head.cluster_bias"} <= set(groups["plain"])
    assert {"blocks.0.mixer.raw_dt", "blocks.1.mixer.raw_dt"} <= set(groups["ssm"])


def test_text_without_what_training_needs_is_one_sentence(tmp_path: Path) -> None:
    settings = recipe()
    short = tmp_path / "short.txt"
    short.write_text("a b\n" * 40)
    data = dataclasses.replace(settings.data, dataset=str(short), vocab_size=0)
    settings = dataclasses.replace(settings, data=data, model=dataclasses.replace(settings.model, cutoffs=()))
    with pytest.raises(
        UserError, match=r"fewer than the 400 rows of a batch: expected a longer text or a smaller batch"
    ):
        run(dataclasses.replace(settings, train=TrainConfig(batch_size=400)), tmp_path / "out", progress=False)
    wide = dataclasses.replace(settings, model=dataclasses.replace(settings.model, cutoffs=(2, 50)))
    with pytest.raises(UserError, match=r"model.cutoffs = \[2, 50\]: expected numbers below the vocabulary of 4"):
        run(wide, tmp_path / "out", progress=False)


# What a text costs


def text(n: int) -> TokenFile:
    tokens = np.random.default_rng(0).integers(0, 40, n).astype(np.uint16)
    return TokenFile(tokens, words=n // 2, text_bytes=5 * n, vocab=40, tokenizer="", path=Path("nowhere"))


def by_token(x: Tensor, y: Tensor, state: int | None) -> tuple[Tensor, int]:
    """A model under which token k costs k nats; its state is the number of tokens read."""
    return y.float(), (state or 0) + y.shape[1]


def test_the_units_are_those_of_the_literature() -> None:
    file = text(1000)
    nats = float(file.tokens.mean()) / 10
    found = evaluate_stream(lambda x, y, state: (y / 10, None), file, 0, 300)
    assert found.nats == pytest.approx(nats, rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(nats), rel=1e-5)
    assert found.word_perplexity == pytest.approx(math.exp(2 * nats), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / 5 / math.log(2), rel=1e-6)
    assert (found.protocol, found.length, found.n_tokens, found.n_words) == ("stream", 300, 1000, 500)


def test_every_token_counts_once_in_both_protocols_and_of_a_part_as_well() -> None:
    file = text(1003)
    for limit in (None, 1, 250):
        part = file.tokens[:limit].mean()
        for found in (
            evaluate_stream(by_token, file, 0, 64, limit),
            evaluate_windows(by_token, file, 0, 64, 4, limit),
        ):
            assert found.nats == pytest.approx(part, rel=1e-9)
            assert found.n_tokens == (limit or 1003)


def test_the_state_goes_along_the_stream_and_not_into_a_window() -> None:
    seen: list[int | None] = []

    def score(x: Tensor, y: Tensor, state: int | None) -> tuple[Tensor, int]:
        seen.append(state)
        return by_token(x, y, state)

    evaluate_stream(score, text(10), 0, 4)
    assert seen == [None, 4, 8]
    seen.clear()
    evaluate_windows(score, text(10), 0, 4, 1)
    assert seen == [None, None, None]


def test_a_model_that_has_diverged_has_an_infinite_perplexity() -> None:
    assert evaluate_stream(lambda x, y, s: (y * 0 + 1e6, None), text(10), 0, 4).word_perplexity == math.inf


@pytest.mark.parametrize("length", [0, -3])
def test_chunks_and_windows_of_nothing_are_refused(length: int) -> None:
    with pytest.raises(UserError, match=f"chunks of {length} tokens: expected at least 1"):
        evaluate_stream(by_token, text(10), 0, length)
    with pytest.raises(UserError, match=f"windows of {length} tokens: expected at least 1"):
        evaluate_windows(by_token, text(10), 0, length)


@pytest.mark.parametrize("mixer", ["s4d", "s4", "attention"])
def test_the_length_of_a_chunk_changes_no_perplexity(mixer: str) -> None:
    """On real text; attention sees its window, whatever the chunk."""
    tokenizer = prepare_tokenizer("wikitext-mini", "word", 900, progress=False)
    assert isinstance(tokenizer, WordTokenizer)
    file = open_split("wikitext-mini", "test", tokenizer, progress=False)
    model = begun(recipe(mixer)).model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = [
        evaluate_stream(model.score, file, 0, chunk, limit).perplexity
        for chunk, limit in ((64, 3000), (1000, 3000), (3000, 3000))
    ]
    assert found == pytest.approx([found[0]] * 3, abs=1e-3)
    short = evaluate_windows(model.score, file, 0, 20, 16, 3000).perplexity
    assert abs(short - found[0]) > 1e-3


@pytest.mark.data
def test_the_counts_of_wikitext_2_are_the_published_ones() -> None:
    tokenizer = prepare_tokenizer("wikitext-2", "word", progress=False)
    assert tokenizer.vocab == 33_278
    for split, n in (("train", 2_088_628), ("validation", 217_646), ("test", 245_569)):
        file = open_split("wikitext-2", split, tokenizer, progress=False)
        assert len(file) == file.words == n
