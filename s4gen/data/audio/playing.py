"""Clips that sound a little different each time they are read, so that a classifier learns what does not matter.

Speed and loudness are changed as in "Audio augmentation for speech recognition" (Ko et al., Interspeech 2015).
"""

from __future__ import annotations

import numpy as np
import soxr  # type: ignore[import-untyped]

from s4gen.config.layouts import AudioLayout
from s4gen.data.audio.format import Codes, format_of


def played(codes: Codes, layout: AudioLayout, draws: np.random.Generator, speed: float, gain: float) -> Codes:
    """Return a clip's codes (L,), L >= 1, as codes (M,), M >= 1, played faster or slower, and louder or quieter.

    The factor of the speed is drawn from 1 - speed to 1 + speed (0 <= speed < 1), and M = L / factor; the gain is
    drawn from -gain to +gain decibels. What goes beyond full scale is clipped.
    """
    factor = draws.uniform(1 - speed, 1 + speed)
    scale = 10 ** (draws.uniform(-gain, gain) / 20)
    quantiser = format_of(layout).quantiser
    samples = quantiser.decode(codes)
    if speed:
        # A clip of a few samples may become none at all; then it stays as it is.
        samples = found if len(found := soxr.resample(samples, factor, 1.0, "LQ")) else samples
    return quantiser.encode(samples * np.float32(scale))
