"""A training run that does not end by itself; started in a process of its own by tests of signals."""

import sys
from pathlib import Path

from s4gen.config import DataConfig, ModelConfig, OptimConfig, Recipe, SSMConfig, TrainConfig
from s4gen.train import run

if __name__ == "__main__":
    model = ModelConfig(d_model=8, n_layers=1, d_ff=0)
    loop = TrainConfig(steps=1_000_000, batch_size=2, log_every=1, save_every=1_000_000, n_samples=0)
    data = DataConfig(dataset="mnist-mini", validation=0)
    run(Recipe(model, SSMConfig(d_state=4), data, OptimConfig(), loop), Path(sys.argv[1]), progress="shown" in sys.argv)
