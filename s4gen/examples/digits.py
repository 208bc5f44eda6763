"""Train and measure a classifier of spoken digits: S4D layers in both directions over a log spectrum.

    python -m s4gen.examples.digits [--dataset fsdd|fsdd-mini] [--steps N] -o DIR

The classifier is there to judge generated speech, so it has to bear what generated clips have and recordings lack.
Every training clip is therefore shifted, followed by silence up to a second in all, and made louder or quieter; half of
the clips get noise, and half are rounded to 8-bit mu-law codes. The program prints how many clips of the test split are
recognised, as they are and after each such change.
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
from numpy.typing import NDArray
from torch import Tensor

from s4gen.checkpoint import check_target, save_checkpoint
from s4gen.cli.arguments import whole
from s4gen.cli.output import shows_progress
from s4gen.config import Answers, AudioLayout, ModelConfig, OptimConfig, PredictorConfig, SSMConfig, TaskConfig
from s4gen.data.audio import AudioFormat, AudioSet, Quantiser, open_split
from s4gen.data.audio.batches import TrainingBatches
from s4gen.errors import UserError
from s4gen.evaluate.recognition import Classifier
from s4gen.examples.arguments import Parser
from s4gen.machine.memory import keep_freed_memory
from s4gen.models.predictor import Predictor
from s4gen.showing.progress import progress_bar
from s4gen.train.optim import build_optimizers, schedule, set_learning_rate, update_mean

FORMAT = AudioFormat(8000, "linear", 16)
"""The format in which the recordings are read: as they were made, linear in 16 bits."""

MODEL = ModelConfig(mixer="s4d", d_model=64, n_layers=4, d_ff=64, dropout=0.1)
SSM = SSMConfig(d_state=16, init="lin", dt_min=0.02, dt_max=0.5)  # a word is some 40 frames
TASK = TaskConfig("classify", reader="spectrum", bidirectional=True)
OPTIM = OptimConfig(lr=4e-3, ssm_lr=2e-3, weight_decay=0.05, warmup_steps=100, ema_decay=0.998)
BATCH, STEPS = 32, 3000

Clip = NDArray[np.float32]


class Accuracy(NamedTuple):
    """The share of clips that a classifier recognises."""

    right: int
    """Clips that were recognised."""
    n: int
    """Clips that it listened to."""

    def __str__(self) -> str:
        """Return per cent and standard error.

        The error is that of (right + 1/2) of (n + 1) clips, which is not 0 where all are right.
        """
        share = (self.right + 0.5) / (self.n + 1)
        error = math.sqrt(share * (1 - share) / self.n)
        return f"{100 * self.right / self.n:.1f} ± {100 * error:.1f} % ({self.right} of {self.n})"


def augment(samples: Tensor, lengths: Tensor, rate: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Change clips r(B, L) of `lengths` as a generator might have spoken them; return r(B, L') and their lengths.

    Silence is zeros that count in the lengths: up to 0.1 s before a clip; behind it, in half of the clips as much as
    makes a second in all, in the others a random part of that. Peaks end 0 to 30 dB below full scale, noise 20 to 50 dB
    below the peak.
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
    """Round samples to 8-bit mu-law codes and back."""
    quantiser = Quantiser("mu-law", 8)
    return quantiser.decode(quantiser.encode(samples))


def to_one_second(clip: Clip) -> Clip:
    """Add silence behind a clip, up to one second in all."""
    return np.pad(clip, (0, max(0, FORMAT.rate - len(clip))))


def with_noise(clip: Clip) -> Clip:
    """Add white noise 30 dB below the peak, the same every time."""
    noise = np.random.default_rng(0).standard_normal(len(clip), np.float32)
    return clip + np.float32(10**-1.5) * np.abs(clip).max() * noise


CHANGES: dict[str, Callable[[Clip], Clip]] = {
    "as they are": lambda clip: clip,
    "8-bit mu-law": through_codes,
    "silence to 1 s": to_one_second,
    "noise at -30 dB": with_noise,
    "all three": lambda clip: through_codes(with_noise(to_one_second(clip))),
}
"""The changes of the test clips under which recognition is measured."""


def train(audio: AudioSet, steps: int, progress: bool = False) -> Predictor:
    """Train a classifier on these clips; return it with the running mean of its weights, in evaluation mode.

    Raises:
        UserError: the loss is no longer finite.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    layout = AudioLayout(FORMAT.rate, FORMAT.law, FORMAT.bits, FORMAT.normalise)
    model = Predictor(PredictorConfig(layout, MODEL, SSM, TASK, Answers(audio.classes))).train()
    optimizers, batches = build_optimizers(model, OPTIM), TrainingBatches(audio, None, BATCH, seed=0)
    mean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with progress_bar(steps, "step", progress, desc="training") as bar:
        for step in range(steps):
            set_learning_rate(optimizers, schedule(step, steps, OPTIM.warmup_steps))
            batch = batches.at(step)
            assert batch.labels is not None  # both data sets have them
            spoken = torch.from_numpy(FORMAT.quantiser.decode(batch.codes.numpy()))
            heard, lengths = augment(spoken, batch.lengths, FORMAT.rate, generator)
            loss = model.losses(heard[..., None], batch.labels, lengths).mean()
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


def measure(classifier: Classifier, audio: AudioSet) -> dict[str, Accuracy]:
    """Return how accurately labelled clips are recognised after each of CHANGES, by its name."""
    assert audio.labels is not None
    clips = [audio.format.quantiser.decode(audio.clip(index)) for index in range(len(audio))]
    accuracies = {}
    for name, change in CHANGES.items():
        found = classifier.recognise([change(clip) for clip in clips])
        accuracies[name] = Accuracy(int((np.array(found) == audio.labels).sum()), len(audio))
    return accuracies


CARD = """# {name}: which digit is spoken

A classifier, not a density model. It reads {rate:,} samples per second, scaled to unit peak, as a log spectrum 100
times a second. {n_layers} blocks of S4D in both directions (d_model {d_model}, N = {d_state}) follow, then the mean
over time and a linear layer: {count:,} parameters. It says which digits it recognises in generated speech, and
`s4gen.evaluate.recognition.load_classifier` loads it.

Clips of the test split of {name} that are recognised, ± the standard error of a share:

| test clips | recognised |
| --- | --- |
{table}

The speakers of both splits are the same, so these numbers say nothing about other voices.

Trained on all {clips:,} clips of the train split: {steps:,} steps of {batch} clips, {epochs:.1f} epochs,
{minutes:.0f} minutes on a CPU (threads: {threads}, torch {torch}).

```sh
python -m s4gen.examples.digits --dataset {name} --steps {steps} -o DIR
```

Silence behind a word is part of a clip. In training, zeros stood behind every clip, in half of the cases up to one
second in all; clips were shifted by up to 0.1 s, half of them got noise (20 to 50 dB below the peak), and half were
rounded to 8-bit mu-law codes. Loudness does not count, and the classifier never hears the padding of a batch. It always
names a digit, even for silence and noise, so one in ten is right by chance.

Data: Free Spoken Digit Dataset, Zohar Jackson and contributors, CC BY-SA 4.0.
"""


def card(model: Predictor, accuracies: dict[str, Accuracy], training: AudioSet, steps: int, minutes: float) -> str:
    """Return the text of the classifier's card, as Markdown."""
    return CARD.format(
        name=training.name,
        rate=FORMAT.rate,
        n_layers=MODEL.n_layers,
        d_model=MODEL.d_model,
        d_state=SSM.d_state,
        count=sum(parameter.numel() for parameter in model.parameters()),
        table="\n".join(f"| {name} | {accuracy} |" for name, accuracy in accuracies.items()),
        clips=len(training),
        steps=steps,
        batch=BATCH,
        epochs=steps * BATCH / len(training),
        minutes=minutes,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print the accuracies, write the classifier, return the exit code: 0, or 2 for what the user can fix."""
    parser = Parser(
        prog="python -m s4gen.examples.digits",
        description="A classifier of spoken digits: S4D layers in both directions over a log spectrum.",
    )
    parser.add_argument("--dataset", choices=("fsdd", "fsdd-mini"), default="fsdd", help="default: fsdd")
    parser.add_argument(
        "--steps", metavar="N", type=whole(1), default=STEPS, help=f"steps of training (default: {STEPS})"
    )
    parser.add_argument("-o", "--out", metavar="DIR", type=Path, required=True, help="a new folder for the classifier")
    parser.add_argument("--force", action="store_true", help="replace an existing folder")
    args = parser.parse_args(argv)
    keep_freed_memory()
    try:
        check_target(args.out, args.force)
        training, test = (open_split(args.dataset, split, FORMAT) for split in ("train", "test"))
        began = time.perf_counter()
        model = train(training, args.steps, shows_progress())
        minutes = (time.perf_counter() - began) / 60
        print(f"{args.steps} steps in {minutes:.1f} minutes; recognised of the {len(test)} test clips of {test.name}:")
        accuracies = measure(Classifier(model), test)
        for name, accuracy in accuracies.items():
            print(f"{name:>16}  {accuracy}")
        text = card(model, accuracies, training, args.steps, minutes)
        measured = {"test": {name: accuracy._asdict() for name, accuracy in accuracies.items()}}
        save_checkpoint(args.out, model, recipe=None, metrics=measured, card=text, overwrite=args.force)
    except UserError as error:
        return parser.refuse(str(error))
    print(f"\nwritten: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
