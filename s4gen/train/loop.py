"""The training loop: convolutional mode, one step at a time, resumable at any of them."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from s4gen.checkpoint import write_file_atomic
from s4gen.config import Recipe, kind_of, recipe_to_toml
from s4gen.data.text import Tokenizer
from s4gen.errors import UserError
from s4gen.memory import keep_freed_memory
from s4gen.progress import progress_bar
from s4gen.train import session as sessions
from s4gen.train.card import card
from s4gen.train.images import ImageTask
from s4gen.train.metrics import MetricsLog
from s4gen.train.pace import fitted
from s4gen.train.session import Session
from s4gen.train.step import training_step
from s4gen.train.stop import stop_on_signal
from s4gen.train.tasks import Measured, Sampler, Task
from s4gen.train.text import TextTask


def run(
    recipe: Recipe | None,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    sampler: Sampler | None = None,
    progress: bool = True,
) -> bool:
    """Train `recipe` into the folder `out`, or go on with the run there (`resume`: its own recipe, `recipe` is None).

    Writes recipe.toml, metrics.jsonl, metrics.csv, samples/step-N.* and checkpoint/ (s4gen.checkpoint).
    Returns True when all steps are done, False when a signal ended the run early, saved and ready to be resumed.

    Raises:
        UserError: `out` holds another run and `overwrite` is not set; no data; the loss is not finite; disk full.
    """
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not resume and not overwrite and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(
            f"{out} exists; choose another --out, go on with it by --resume {out}, or replace it by --force"
        )
    if resume:
        session = sessions.resume(out, device)
        task = open_task(session.recipe, session.tokenizer, progress)
    else:
        assert recipe is not None
        task = open_task(recipe, shown=progress)
        recipe = fitted(recipe, task, device)
        session = sessions.start(recipe, task.layout, device, task.tokenizer)
        write_file_atomic(out / "recipe.toml", recipe_to_toml(recipe).encode())
    log = MetricsLog(out, session.step, task.measures)
    try:
        return _train(session, task, out, log, sampler, progress)
    finally:
        log.close()


def open_task(recipe: Recipe, tokenizer: Tokenizer | None = None, shown: bool = True) -> Task:
    """The task of a recipe; `tokenizer` is that of a run to go on with; `shown`: the preparation of text has a bar.

    Raises:
        UserError: the data are not there, or not what the recipe says.
    """
    kind = kind_of(recipe.data.dataset)
    if kind == "audio":
        from s4gen.train.audio import AudioTask

        return AudioTask(recipe, shown)
    return TextTask(recipe, tokenizer, shown) if kind == "text" else ImageTask(recipe)


def _train(session: Session, task: Task, out: Path, log: MetricsLog, sampler: Sampler | None, progress: bool) -> bool:
    config, device = session.recipe.train, session.model.device
    latest: Measured | None = None
    session.model.train()
    bar = progress_bar(config.steps, "step", progress, "training", session.step)
    with stop_on_signal() as stop, bar:
        total, since = 0.0, 0
        while session.step < config.steps and not stop:
            began = time.perf_counter()
            batch = task.batch(session.step)
            nats, norm = training_step(session, batch.to(device))
            elapsed = time.perf_counter() - began
            session.seconds += elapsed
            total, since = total + nats, since + 1
            bar.update(1)
            shown = task.say(task.measure(nats)) + (f", held out {task.say(latest.values)}" if latest else "")
            bar.set_postfix_str(shown)
            step, epoch = session.step, task.epoch(session.step)
            done = step == config.steps
            if step % config.log_every == 0 or done:
                row = {"step": step, "epoch": epoch, "split": "train", **task.measure(total / since)}
                row |= {"lr": session.optimizers[-1].param_groups[-1]["lr"], "gradient_norm": norm}
                row |= {"tokens_per_second": batch.tokens.numel() / elapsed, "seconds": session.seconds}
                log.write(row)
                total, since = 0.0, 0
            if step % config.eval_every == 0 or done:
                latest = _evaluate(session, task, log, epoch)
                if latest is not None and sampler is not None and config.n_samples:
                    drawn = sampler(sessions.mean_model(session), config.n_samples, config.seed)
                    task.save_sample(drawn, out / "samples" / f"step-{step:06d}")
            if step % config.save_every == 0 or done:
                _save(session, task, out, latest)
        if stop:
            _save(session, task, out, latest)
    if stop and session.step < config.steps:
        print(
            f"stopped and saved at step {session.step} of {config.steps}; go on with: s4gen train --resume {out}",
            file=sys.stderr,
        )
    return session.step == config.steps


def _evaluate(session: Session, task: Task, log: MetricsLog, epoch: float) -> Measured | None:
    found = task.evaluate(sessions.mean_model(session))
    if found is not None:
        row = {"step": session.step, "epoch": epoch, "split": "validation", **found.values}
        log.write(row | {"seconds": session.seconds})
    return found


def _save(session: Session, task: Task, out: Path, latest: Measured | None) -> None:
    metrics: dict[str, object] = {"step": session.step, "train_seconds": session.seconds}
    if latest is not None:
        metrics["validation"] = {**latest.values, task.counted: latest.n}
    sessions.save(session, out, metrics, card(session, task, latest))
