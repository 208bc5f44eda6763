"""One page about runs and checkpoints: curves, samples by step, speed, differences of configuration, recipes, cards."""
