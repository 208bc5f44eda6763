"""Training: loop, optimiser, schedule, running mean, checkpoints to resume from."""

from s4gen.train.loop import follow, run
from s4gen.train.tasks import Sampler

__all__ = ["Sampler", "follow", "run"]
