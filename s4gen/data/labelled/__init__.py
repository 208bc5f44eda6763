"""Make or read data for predictors: examples of classes and numbers, and series to forecast.

    generated   listops, pathfinder (with draws, paddles, the cache)
    read        images, sound, texts and arrays as examples; CSV files as series
    shared      rows that are made when they are asked for; which of them are for training, validation and test

`open_examples` and `open_series` are the doors.
"""

from s4gen.data.labelled.opening import open_examples
from s4gen.data.labelled.series import open_series

__all__ = ["open_examples", "open_series"]
