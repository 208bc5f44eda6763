"""Training: `run` trains a recipe into a folder, or resumes what is there; `follow` is for the other ranks."""

from s4gen.train.loop import follow, run
from s4gen.train.tasks import Sampler

__all__ = ["Sampler", "follow", "run"]
