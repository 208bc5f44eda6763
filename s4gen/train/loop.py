"""The training loop: convolutional mode, one step at a time, resumable at any of them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from s4gen.checkpoint import write_file_atomic
from s4gen.config import ImageLayout, Recipe, recipe_to_toml
from s4gen.data import load_images
from s4gen.data.images import ImageSet, save_grid, split_validation, to_sequence
from s4gen.errors import UserError
from s4gen.evaluation import Evaluation, evaluate
from s4gen.memory import keep_freed_memory
from s4gen.models.density import DensityModel
from s4gen.progress import progress_bar
from s4gen.train import session as sessions
from s4gen.train.card import card
from s4gen.train.metrics import MetricsLog
from s4gen.train.optim import schedule, set_learning_rate, update_mean
from s4gen.train.session import Session
from s4gen.train.stop import stop_on_signal

Sampler = Callable[[DensityModel, int, int], Tensor]
"""(model, number of images, seed) -> int64 (n, L). Handed in, because training does not depend on sampling."""


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

    Writes recipe.toml, metrics.jsonl, metrics.csv, samples/step-N.png and checkpoint/ (s4gen.checkpoint). Returns True
    when all steps are done, False when a signal ended the run early, saved and ready to be resumed.

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
        data = load_images(session.recipe.data.dataset, "train")
    else:
        assert recipe is not None
        data = load_images(recipe.data.dataset, "train")
        session = sessions.start(recipe, data.layout, device)
        write_file_atomic(out / "recipe.toml", recipe_to_toml(recipe).encode())
    training, held_out = split_validation(data, session.recipe.data.validation)
    log = MetricsLog(out, session.step)
    try:
        return _train(session, training, held_out, out, log, sampler, progress)
    finally:
        log.close()


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """Which of n sequences step `step` reads: every epoch is a fresh permutation, cut into whole batches."""
    batch_size = min(batch_size, n)
    epoch, batch = divmod(step, n // batch_size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[batch * batch_size : (batch + 1) * batch_size]


def training_step(session: Session, tokens: Tensor) -> tuple[float, float]:
    """One optimiser step on tokens int64 (B, L); returns loss in bits/dim and the norm of the gradient.

    Raises UserError if the loss is not finite; the weights are then those of the step before.
    """
    config, model = session.recipe, session.model
    set_learning_rate(session.optimizer, schedule(session.step, config.train.steps, config.optim.warmup_steps))
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
        loss = model.nats(tokens).mean()
    session.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip)
    bits, norm_value = loss.item() / math.log(2), norm.item()
    if not (math.isfinite(bits) and math.isfinite(norm_value)):
        raise UserError(
            f"the loss is no longer finite at step {session.step + 1}; the last checkpoint is kept: "
            f"start again with a lower optim.lr (now {config.optim.lr}) or optim.ssm_lr (now {config.optim.ssm_lr})"
        )
    session.optimizer.step()
    update_mean(session.mean, model, config.optim.ema_decay, session.step)
    session.step += 1
    return bits, norm_value


def _train(
    session: Session,
    training: ImageSet,
    held_out: ImageSet,
    out: Path,
    log: MetricsLog,
    sampler: Sampler | None,
    progress: bool,
) -> bool:
    config = session.recipe.train
    device = next(session.model.parameters()).device
    sequences = to_sequence(training.images).to(torch.uint8)
    per_epoch = max(1, len(sequences) // min(config.batch_size, len(sequences)))
    held = to_sequence(held_out.images[: config.eval_limit]).to(device) if len(held_out) else None
    latest: Evaluation | None = None
    session.model.train()
    with stop_on_signal() as stop, progress_bar(config.steps, "step", progress, desc="training") as bar:
        bar.update(session.step)
        bits_sum, since = 0.0, 0
        while session.step < config.steps and not stop:
            began = time.perf_counter()
            index = batch_indices(len(sequences), config.batch_size, config.seed, session.step)
            tokens = sequences[index].long().to(device)
            bits, norm = training_step(session, tokens)
            elapsed = time.perf_counter() - began
            session.seconds += elapsed
            bits_sum, since = bits_sum + bits, since + 1
            bar.update(1)
            bar.set_postfix_str(f"{bits:.3f} bits/dim" + (f", held out {latest.bits_per_dim:.3f}" if latest else ""))
            step = session.step
            done = step == config.steps
            if step % config.log_every == 0 or done:
                row = {"lr": session.optimizer.param_groups[-1]["lr"], "gradient_norm": norm}
                row |= {"tokens_per_second": tokens.numel() / elapsed, "seconds": session.seconds}
                log.write(
                    {
                        "step": step,
                        "epoch": step / per_epoch,
                        "split": "train",
                        "bits_per_dim": bits_sum / since,
                    }
                    | row
                )
                bits_sum, since = 0.0, 0
            if held is not None and (step % config.eval_every == 0 or done):
                latest = _evaluate(session, held, log, step / per_epoch)
                if sampler is not None and config.n_samples:
                    _save_samples(session, sampler, training.layout, out)
            if step % config.save_every == 0 or done:
                _save(session, out, latest)
        if stop:
            _save(session, out, latest)
    if stop and session.step < config.steps:
        print(
            f"stopped and saved at step {session.step} of {config.steps}; go on with: s4gen train --resume {out}",
            file=sys.stderr,
        )
    return session.step == config.steps


def _evaluate(session: Session, held: Tensor, log: MetricsLog, epoch: float) -> Evaluation:
    model = sessions.mean_model(session)
    result = evaluate(model.log_prob, held, session.recipe.train.batch_size, "conv")
    row = {"bits_per_dim": result.bits_per_dim, "stderr": result.stderr, "seconds": session.seconds}
    log.write({"step": session.step, "epoch": epoch, "split": "validation"} | row)
    return result


def _save_samples(session: Session, sampler: Sampler, layout: ImageLayout, out: Path) -> None:
    images = sampler(sessions.mean_model(session), session.recipe.train.n_samples, session.recipe.train.seed)
    save_grid(images, layout, out / "samples" / f"step-{session.step:06d}.png")


def _save(session: Session, out: Path, latest: Evaluation | None) -> None:
    metrics: dict[str, object] = {"step": session.step, "train_seconds": session.seconds}
    if latest is not None:
        metrics["validation"] = {
            "bits_per_dim": latest.bits_per_dim,
            "stderr": latest.stderr,
            "n_sequences": latest.n_sequences,
        }
    sessions.save(session, out, metrics, card(session, metrics))
