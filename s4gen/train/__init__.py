"""Training: loop, optimiser, schedule, running mean, checkpoints to resume from."""

from s4gen.train.loop import Sampler, run

__all__ = ["Sampler", "run"]
