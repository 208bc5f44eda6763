"""The training loop: it takes steps in the parallel view, logs, evaluates and saves, and can stop after any step."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s4gen.config import Recipe
from s4gen.errors import UserError
from s4gen.machine.memory import FreedMemory, keep_freed_memory
from s4gen.models.build import build_shapes
from s4gen.showing.progress import progress_bar
from s4gen.showing.words import plural
from s4gen.train import folder, opening, starting, training_run
from s4gen.train.card import card, learning_curve
from s4gen.train.exclusive import one_writer
from s4gen.train.metrics import MetricsLog
from s4gen.train.ranks import Ranks
from s4gen.train.speed import Speed
from s4gen.train.step import training_step
from s4gen.train.steps_in_time import fitted
from s4gen.train.stop import stop_on_signal
from s4gen.train.tasks import Measured, Sampler, Task
from s4gen.train.together import receive_recipe, spread_out
from s4gen.train.training_run import TrainingRun


@one_writer
def run(
    recipe: Recipe | None,
    out: Path,
    *,
    resume: bool = False,
    steps: int | None = None,
    start: str | Path | None = None,
    overwrite: bool = False,
    sampler: Sampler | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
) -> bool:
    """Train a recipe into the folder `out`, or resume the run that is there.

    Writes recipe.toml, metrics.jsonl, metrics.csv, samples/step-N.*, checkpoint/ (s4gen.checkpoint) and, with
    `train.patience`, best/.

    Args:
        recipe: what to train; None with `resume`, because a run keeps its own recipe.
        out: the folder of the run.
        resume: continue the run in `out` from its last checkpoint. If it never wrote one, it begins again.
        steps: with `resume`, another number of steps for the whole run (starting.lengthen).
        start: a checkpoint whose weights a new run begins from (starting.take_weights).
        overwrite: replace a run that is in `out`.
        sampler: draws the samples that are shown at each evaluation; None shows none.
        progress: show bars.
        ranks: the processes that train together; rank 0 calls this, all others call `follow`. None is this one alone.

    Returns:
        True if all steps are done or patience has run out; False if a signal stopped the run, which is then saved and
        can be resumed.

    Raises:
        UserError: `out` holds another run and `overwrite` is not set; data are missing; memory or disk is too small;
        the loss is no longer finite.
    """
    keep_freed_memory()
    ranks = ranks or Ranks()
    if not resume and not overwrite and not folder.is_free(out):
        raise UserError(
            f"{out} exists; choose another --out, go on with it by --resume {out}, or replace it by --force"
        )
    with folder.saying_what_is_left(out):
        if out.is_dir():
            folder.put_right(out)
        if resume and (out / folder.CHECKPOINT).is_dir():
            training, task = opening.go_on(out, steps, ranks, progress)
        elif resume:
            training, task = opening.begin(starting.recipe_again(out, steps), out, ranks, progress)
        else:
            assert recipe is not None
            training, task = opening.begin(recipe, out, ranks, progress, start, is_fitted=False)
        log = MetricsLog(out, training.step, task.measures, task.unit)
        try:
            return _Run(training, task, out, log, sampler).go(progress)
        finally:
            log.close()


def follow(ranks: Ranks) -> bool:
    """Take part in a run as any rank but rank 0, which calls `run`; return what that returns."""
    keep_freed_memory()
    recipe, task, to_fit = receive_recipe(
        ranks, lambda recipe, tokenizer: opening.open_task(recipe, ranks.device, tokenizer, False)
    )
    if to_fit:
        recipe = fitted(recipe, task, ranks.device, ranks)
    training = training_run.start(recipe, task.config(recipe), ranks.build_device, task.tokenizer)
    return _Run(spread_out(training, ranks), task, Path(), None, None).go(progress=False)


@dataclass
class _Run:
    """A run under way: its steps, its log, its evaluations and checkpoints."""

    training: TrainingRun
    task: Task
    out: Path
    """The folder of the run; only rank 0 writes there."""
    log: MetricsLog | None
    """None on all ranks but rank 0."""
    sampler: Sampler | None
    latest: Measured | None = None
    """The last evaluation; None before the first."""

    @property
    def ranks(self) -> Ranks:
        """The processes that take the steps together; one, unless torchrun started more."""
        return self.training.spread.ranks

    def go(self, progress: bool) -> bool:
        """Take steps until the run has ended or a signal asks for a stop; return whether the run has ended."""
        training, train, device = self.training, self.training.recipe.train, self.training.model.device
        training.model.train()
        spread = training.spread
        bar = progress_bar(train.steps, "step", progress, "training", training.step)
        with stop_on_signal() as spread.stop_request, bar, self.ranks.judged():
            speed, silent = self._speed(device)
            total, since, freed = 0.0, 0, FreedMemory()
            while training.step < train.steps and not training.out_of_patience and not spread.must_stop:
                began = time.perf_counter()
                batch = self.task.batch(training.step).to(device)
                loss, norm = training_step(training, batch)
                freed.step_done()
                elapsed = time.perf_counter() - began
                training.seconds += elapsed
                self.ranks.reached(training.step)
                total, since = total + loss, since + 1
                speed.add(batch, elapsed)
                speed.exchanged(spread.exchange, None if silent is None else silent * batch.rows * batch.length)
                bar.update(1)
                bar.set_postfix_str(self._shown(loss, speed))
                if training.step % train.log_every == 0 or training.step == train.steps:
                    self._log_training(total / since, norm, speed)
                    total, since = 0.0, 0
                self._look(train.eval_every, train.save_every)
            if spread.must_stop:
                self._save()
        return self._end()

    def _speed(self, device: torch.device) -> tuple[Speed, float | None]:
        """Return a new counter, and the seconds that a token takes if ranks exchange nothing; None if unknown."""
        training, train = self.training, self.training.recipe.train
        # This rank may hold only parts of the model. Operations are counted from shapes, which need no weights.
        model = training.model if self.ranks.alone else build_shapes(training.model.config)
        speed = Speed(model, device, train.precision, self.task.unit, self.ranks.world)
        batch = self.task.batch(training.step).to(device)
        seconds = training.spread.apart_seconds(batch, training.carried, train.accumulate, train.precision)
        return speed, None if seconds is None else seconds / (batch.rows * batch.length)

    def _shown(self, loss: float, speed: Speed) -> str:
        held = f", held out {self.task.say(self.latest.values)}" if self.latest else ""
        return f"{self.task.say(self.task.measure(loss))}{held}, {speed.say()}"

    def _log_training(self, loss: float, norm: float, speed: Speed) -> None:
        rate = self.training.optimizers[-1].param_groups[-1]["lr"]  # AdamW comes last; its plain group has optim.lr
        row = self._row("train") | {**self.task.measure(loss), "lr": rate, "gradient_norm": norm}
        if self.log is not None:
            self.log.write(row | speed.values() | {"seconds": self.training.seconds})
        speed.reset()

    def _row(self, split: str) -> dict[str, Any]:
        return {"step": self.training.step, "epoch": self.task.epoch(self.training.step), "split": split}

    def _look(self, eval_every: int, save_every: int) -> None:
        """Evaluate and save if either is due after this step; at the last step both are."""
        step, steps = self.training.step, self.training.recipe.train.steps
        if step % eval_every == 0 or step == steps:
            with self.ranks.apart():
                self._evaluate()
                self.ranks.wait()
        if step % save_every == 0 or step == steps or self.training.out_of_patience:
            self._save()

    def _evaluate(self) -> None:
        """Measure the running mean on held-out data, save it if it is the best so far, and draw samples from it."""
        training, train = self.training, self.training.recipe.train
        mean = training_run.mean_model(training)
        found = self.latest = self.task.evaluate(mean, self.ranks)
        if found is None:
            return
        if self.log is not None:
            self.log.write(self._row("validation") | {**found.values, "seconds": training.seconds})
        is_best = train.patience and training.best.improved(found.values[self.task.measures[0]], training.step)
        if is_best and self.ranks.leads:
            training_run.save_best(training, mean, self.out, self._metrics(), card(training, self.task, found))
        if self.sampler is not None:
            self.task.show(mean, self.sampler, train, self.out / folder.SAMPLES_FOLDER / f"step-{training.step:06d}")

    def _metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = {"step": self.training.step, "train_seconds": self.training.seconds}
        if self.latest is not None:
            metrics["validation"] = {**self.latest.values, self.task.counted: self.latest.n}
        return metrics

    def _save(self) -> None:
        """Save the run; at its end also a picture of its learning curve."""
        with self.ranks.apart():
            ended = self._ended() and self.ranks.leads
            curve = learning_curve(self.out, self.task.curve) if ended else None
            text = card(self.training, self.task, self.latest, curve is not None)
            training_run.save(self.training, self.out, self._metrics(), text, curve)
            self.ranks.wait()

    def _ended(self) -> bool:
        return self.training.step == self.training.recipe.train.steps or self.training.out_of_patience

    def _end(self) -> bool:
        """Print one line about how the run ended or stopped, and return whether it has ended."""
        if not self.ranks.leads:
            return self._ended()
        with contextlib.suppress(OSError):  # the terminal may be gone (SIGHUP); the run is saved all the same
            print(self._said(), file=sys.stderr, flush=True)
        return self._ended()

    def _said(self) -> str:
        training, steps = self.training, self.training.recipe.train.steps
        if not self._ended():
            return f"stopped and saved at step {training.step} of {steps}; go on with: s4gen train --resume {self.out}"
        if training.best.value is not None:
            why = f"stopped early at step {training.step}, " if training.out_of_patience else ""
            found = f"{self.task.measures[0]} {training.best.value:.4f} on held-out data"
            return f"{why}best at step {training.best.step} of {steps}, {found}: {self.out / folder.BEST}"
        found = f": {self.task.say(self.latest.values)} on held-out data" if self.latest else ""
        return f"s4gen: trained {plural(training.step, 'step')}{found}; {self.out / folder.CHECKPOINT}"
