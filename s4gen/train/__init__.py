"""Training: loop, optimiser, schedule, running mean, checkpoints to resume from."""

from s4gen.train.loop import run
from s4gen.train.tasks import Sampler

__all__ = ["Sampler", "run"]
