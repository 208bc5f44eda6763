"""`s4gen eval` of a language model: perplexity of a split, as one stream or in windows."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from s4gen.cli.dataset import dataset_of
from s4gen.cli.opening import open_text
from s4gen.cli.output import print_json, shows_progress
from s4gen.device import best_device
from s4gen.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.models.density import DensityModel
    from s4gen.sampling.convert import RecurrentModel
    from s4gen.sampling.engines import Engine
    from s4gen.text_evaluation import Score

CHUNK = 8192


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    from s4gen.sampling.convert import recurrent_of
    from s4gen.sampling.engines import make_engine
    from s4gen.text_evaluation import evaluate_stream, evaluate_windows

    if args.chunk is not None and args.windows is not None:
        raise UserError("--chunk is of the stream, --windows is the other protocol; leave one out")
    dataset = args.dataset or dataset_of(checkpoint)
    text = open_text(checkpoint, dataset, args.split)
    start, device = checkpoint.model.bos, best_device()
    about: dict[str, Any] = {"mode": args.mode}
    about |= {"split": args.split, "dataset": dataset, "checkpoint": args.checkpoint}
    engine = None
    if args.mode == "conv":
        score = by_convolution(checkpoint.model.to(device))
    else:
        recurrent = recurrent_of(checkpoint).to(device)
        engine = make_engine(args.engine or "eager", recurrent, tokens=args.limit or len(text))
        score = by_engine(recurrent, engine)
    if args.windows is None:
        found = evaluate_stream(score, text, start, args.chunk or CHUNK, args.limit, shows_progress())
    else:
        found = evaluate_windows(score, text, start, args.windows, args.batch, args.limit, shows_progress())
    if engine is not None:  # asked last: an engine that fails goes on as another
        about["engine"] = engine.name
    if args.json:
        print_json(dataclasses.asdict(found) | about)
        return 0
    way = "as one stream" if args.windows is None else f"in windows of {found.length}"
    mode = f"{args.mode} mode" + (f", {engine.name} engine" if engine else "")
    print(
        f"{args.checkpoint} on {dataset} {args.split}, {way}: perplexity {found.word_perplexity:.2f} per word, "
        f"{found.perplexity:.2f} per token, {found.bits_per_byte:.4f} bits/byte "
        f"({found.n_tokens:,} tokens, {found.n_words:,} words, {mode}, {found.seconds:.1f} s)"
    )
    return 0


def by_convolution(model: DensityModel) -> Score:
    """Scores of chunks of tokens at once, for which every layer builds its kernel only once."""
    from s4gen.sampling.baselines import keep_kernels

    keep_kernels(model)

    def score(x: Tensor, y: Tensor, state: Any) -> tuple[Tensor, Any]:
        return model.score(x.to(model.device), y.to(model.device), state)

    return score


def by_engine(recurrent: RecurrentModel, engine: Engine) -> Score:
    """Scores token by token in this engine; the state is its session."""
    import torch

    def score(x: Tensor, y: Tensor, session: Any) -> tuple[Tensor, Any]:
        session = session or engine.begin(recurrent.initial_state(len(x)))
        columns = zip(x.to(recurrent.device).unbind(1), y.to(recurrent.device).unbind(1), strict=True)
        nats = [
            -session.feed(token).double().log_softmax(-1).gather(1, wanted[:, None])[:, 0] for token, wanted in columns
        ]
        return torch.stack(nats, 1), session

    return score
