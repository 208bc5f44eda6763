"""Autoregressive generative modelling with state space models: train by convolution, sample by recurrence."""

__version__ = "0.1.0"
