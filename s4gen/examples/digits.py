"""A classifier of spoken digits, trained and measured: S4D layers in both directions over a log spectrum.

    python -m s4gen.examples.digits [--dataset fsdd|fsdd-mini] [--steps N] -o DIR

It is to judge generated speech, so it learns what that has and recordings have not: every clip is moved, followed by
silence up to a second in all, made louder or quieter, and in half of the cases covered with noise, and in half rounded
to 8-bit mu-law codes. What it says of the test split is printed for the clips as they are and for each such change.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from s4gen.checkpoint import check_target
from s4gen.classify import Classifier, save_classifier
from s4gen.cli.arguments import whole
from s4gen.cli.output import shows_progress
from s4gen.config import AudioLayout, DensityConfig, ModelConfig, OptimConfig, SSMConfig
from s4gen.data.audio import AudioFormat, AudioSet, load_audio
from s4gen.data.audio.batches import TrainingBatches
from s4gen.data.audio.quantise import Quantiser
from s4gen.errors import UserError
from s4gen.examples.arguments import Parser
from s4gen.memory import keep_freed_memory
from s4gen.models.classifier import ClassifierModel
from s4gen.progress import progress_bar
from s4gen.train.optim import build_optimizers, schedule, set_learning_rate, update_mean

FORM = AudioFormat(8000, "linear", 16)
"""The recordings as they are."""

MODEL = ModelConfig(mixer="s4d", d_model=64, n_layers=4, d_ff=64, dropout=0.1)
SSM = SSMConfig(d_state=16, init="lin", dt_min=0.02, dt_max=0.5)  # a word is some 40 frames
OPTIM = OptimConfig(lr=4e-3, ssm_lr=2e-3, weight_decay=0.05, warmup_steps=100, ema_decay=0.998)
BATCH, STEPS = 32, 3000

Clip = NDArray[np.float32]


class Score(NamedTuple):
    """How many of n clips were recognised."""

    right: int
    n: int

    def __str__(self) -> str:
        """Per cent, with a standard error that is not 0 where all are right: that of half a clip more, of one more."""
        share = (self.right + 0.5) / (self.n + 1)
        error = math.sqrt(share * (1 - share) / self.n)
        return f"{100 * self.right / self.n:.1f} ± {100 * error:.1f} % ({self.right} of {self.n})"


def augment(samples: Tensor, lengths: Tensor, rate: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips r(B, L) of `lengths` as a generator might have spoken them, r(B, L'), and their lengths.

    Silence is real zeros within the lengths: up to 0.1 s before; behind, in half of the clips as much as makes a second
    of it, otherwise any less. Peaks are 0 to 30 dB below full scale, noise 20 to 50 dB below the peak.
    """
    n = len(samples)
    before, behind, quiet, noisy = torch.rand(4, n, generator=generator)
    padded, noised, coded = torch.rand(3, n, 1, generator=generator) < 0.5
    start = (0.1 * rate * before).long()
    room = (rate - start - lengths).clamp_min(0)
    ends = start + lengths + torch.where(padded[:, 0], room, (room * behind).long())
    position = torch.arange(int(ends.max())) - start[:, None]
    spoken = (position >= 0) & (position < lengths[:, None])
    moved = torch.where(spoken, samples.gather(1, position.clamp(0, samples.shape[1] - 1)), 0)
    peak = 10 ** (-1.5 * quiet)[:, None]
    moved = moved * (peak / moved.abs().amax(1, keepdim=True).clamp_min(1e-8))
    noise = peak * 10 ** (-1 - 1.5 * noisy)[:, None] * torch.randn(moved.shape, generator=generator)
    moved = torch.where(noised, moved + noise, moved)
    return torch.where(coded, torch.from_numpy(through_codes(moved.numpy())), moved), ends


def through_codes(samples: Clip) -> Clip:
    """What 8-bit mu-law leaves of samples."""
    quantiser = Quantiser("mu-law", 8)
    return quantiser.decode(quantiser.encode(samples))


def to_one_second(clip: Clip) -> Clip:
    """Silence behind a clip, up to one second in all."""
    return np.pad(clip, (0, max(0, FORM.rate - len(clip))))


def with_noise(clip: Clip) -> Clip:
    """White noise 30 dB below the peak, always the same."""
    noise = np.random.default_rng(0).standard_normal(len(clip), np.float32)
    return clip + np.float32(10**-1.5) * np.abs(clip).max() * noise


CHANGES: dict[str, Callable[[Clip], Clip]] = {
    "as they are": lambda clip: clip,
    "8-bit mu-law": through_codes,
    "silence to 1 s": to_one_second,
    "noise at -30 dB": with_noise,
    "all three": lambda clip: through_codes(with_noise(to_one_second(clip))),
}
"""Of the test clips."""


def train(audio: AudioSet, steps: int, progress: bool = False) -> ClassifierModel:
    """A classifier of these clips: the running mean of the weights, in evaluation mode.

    Raises:
        UserError: the loss is no longer finite.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    layout = AudioLayout(FORM.rate, FORM.law, FORM.bits, FORM.normalise, audio.classes)
    model = ClassifierModel(DensityConfig(layout, MODEL, SSM)).train()
    optimizers, batches = build_optimizers(model, OPTIM), TrainingBatches(audio, None, BATCH, seed=0)
    mean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with progress_bar(steps, "step", progress, desc="training") as bar:
        for step in range(steps):
            set_learning_rate(optimizers, schedule(step, steps, OPTIM.warmup_steps))
            batch = batches.at(step)
            assert batch.labels is not None  # both data sets have them
            spoken = torch.from_numpy(FORM.quantiser.decode(batch.codes.numpy()))
            loss = F.cross_entropy(model(*augment(spoken, batch.lengths, FORM.rate, generator)), batch.labels)
            if not math.isfinite(loss.item()):
                raise UserError(f"the loss is no longer finite at step {step + 1}; try another number of --steps")
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.grad_clip)
            for optimizer in optimizers:
                optimizer.step()
            update_mean(mean, dict(model.named_parameters()), OPTIM.ema_decay, step)
            bar.set_postfix_str(f"{loss.item():.3f} nats")
            bar.update(1)
    averaged = copy.deepcopy(model).eval()
    averaged.load_state_dict(mean, strict=False)
    return averaged


def measure(classifier: Classifier, audio: AudioSet) -> dict[str, Score]:
    """The clips recognised, for each of CHANGES."""
    assert audio.labels is not None
    clips = [audio.form.quantiser.decode(audio.clip(index)) for index in range(len(audio))]
    scores = {}
    for name, change in CHANGES.items():
        found = classifier.recognise([change(clip) for clip in clips])
        scores[name] = Score(int((np.array(found) == audio.labels).sum()), len(audio))
    return scores


CARD = """# {name}: which digit is spoken

A classifier, not a density model: {rate:,} samples per second to unit peak, their log spectrum 100 times a second,
{n_layers} blocks of S4D in both directions (d_model {d_model}, N = {d_state}), mean over time, linear.
{count:,} parameters. `s4gen.classify.load_classifier` loads it; it states which digits it recognises in generated
speech.

Recognised in the test split of {name}, ± the standard error of a share:

| test clips | recognised |
| --- | --- |
{table}

The speakers of both splits are the same: of other voices these numbers say nothing.

Trained on all {clips:,} clips of the train split: {steps:,} steps of {batch} clips, {epochs:.1f} epochs,
{minutes:.0f} minutes on a CPU (threads: {threads}, torch {torch}).

```sh
python -m s4gen.examples.digits --dataset {name} --steps {steps} -o DIR
```

Silence behind a word is part of a clip: in training, real zeros stood behind every clip, in half of the cases up to one
second in all, besides shifts of up to 0.1 s, noise in half of the clips (20 to 50 dB below the peak) and 8-bit mu-law
codes in half. Loudness does not count, and what makes a batch rectangular is not heard at all. It always decides for a
digit, for silence and noise too, so that one in ten is right by chance.

Data: Free Spoken Digit Dataset, Zohar Jackson and contributors, CC BY-SA 4.0.
"""


def card(model: ClassifierModel, scores: dict[str, Score], training: AudioSet, steps: int, minutes: float) -> str:
    """Markdown text."""
    return CARD.format(
        name=training.name,
        rate=FORM.rate,
        n_layers=MODEL.n_layers,
        d_model=MODEL.d_model,
        d_state=SSM.d_state,
        count=sum(parameter.numel() for parameter in model.parameters()),
        table="\n".join(f"| {name} | {score} |" for name, score in scores.items()),
        clips=len(training),
        steps=steps,
        batch=BATCH,
        epochs=steps * BATCH / len(training),
        minutes=minutes,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print the scores, write the classifier, return the exit code: 0, or 2 for what the user can fix."""
    parser = Parser(
        prog="python -m s4gen.examples.digits",
        description="A classifier of spoken digits: S4D layers in both directions over a log spectrum.",
    )
    parser.add_argument("--dataset", choices=("fsdd", "fsdd-mini"), default="fsdd", help="default: fsdd")
    parser.add_argument("--steps", metavar="N", type=whole(1), default=STEPS, help=f"of training (default: {STEPS})")
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="the classifier, a new folder")
    parser.add_argument("--force", action="store_true", help="replace an existing one")
    args = parser.parse_args(argv)
    keep_freed_memory()
    try:
        check_target(args.out, args.force)
        training, test = (load_audio(args.dataset, split, FORM) for split in ("train", "test"))
        began = time.perf_counter()
        model = train(training, args.steps, shows_progress())
        minutes = (time.perf_counter() - began) / 60
        print(f"{args.steps} steps in {minutes:.1f} minutes; recognised of the {len(test)} test clips of {test.name}:")
        scores = measure(Classifier(model), test)
        for name, score in scores.items():
            print(f"{name:>16}  {score}")
        text = card(model, scores, training, args.steps, minutes)
        save_classifier(args.out, model, card=text, overwrite=args.force)
    except UserError as error:
        return parser.refuse(str(error))
    print(f"\nwritten: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
