"""What clips look like: waveform above spectrogram, as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s4gen.data.audio.quantise import Samples

_COLUMNS = 5
_DECIBELS = 80.0


def draw_clips(clips: Sequence[Samples], rate: int, titles: Sequence[str]) -> bytes:
    """A PNG of all clips (n_i,), n_i >= 1, in reading order, five side by side.

    All have the scales of the longest and of the loudest, so they can be compared.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(clips))
    rows = math.ceil(len(clips) / columns)
    seconds = max(map(len, clips)) / rate
    pictures = [spectrogram(clip, rate) for clip in clips]
    top = max(float(picture.max()) for picture in pictures)
    loudest = max(float(np.abs(clip).max()) for clip in clips) or 1.0
    # Figure without pyplot: no global state, and no window system is ever asked for.
    figure = Figure(figsize=(max(4.0, 2.6 * columns), 2.8 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=[1, 2] * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (clip, picture, title) in enumerate(zip(clips, pictures, titles, strict=True)):
        row, column = divmod(index, columns)
        wave, sound = axes[2 * row, column], axes[2 * row + 1, column]
        wave.set_axis_on()
        sound.set_axis_on()
        wave.plot(np.arange(len(clip)) / rate, clip, color="#2563eb", linewidth=0.5)
        wave.set_ylim(-loudest, loudest)
        wave.set_title(title, fontsize=9)
        wave.tick_params(labelbottom=False, labelleft=False, length=0)
        sound.imshow(
            picture,
            origin="lower",
            aspect="auto",
            extent=(0, len(clip) / rate, 0, rate / 2000),
            vmin=top - _DECIBELS,
            vmax=top,
            cmap="magma",
        )
        sound.set_xlim(0, seconds)
        sound.tick_params(labelsize=7, labelleft=column == 0)
        if column == 0:
            sound.set_ylabel("kHz", fontsize=8)
        if index >= len(clips) - columns:
            sound.set_xlabel("s", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def spectrogram(samples: Samples, rate: int) -> NDArray[np.float32]:
    """Power in decibels, (frequencies 0 to rate / 2, frames), in windows of about 32 ms that overlap by 3/4."""
    import torch

    size = 2 ** max(3, round(math.log2(0.032 * rate)))
    spectrum = torch.stft(
        torch.from_numpy(np.asarray(samples, np.float32)),
        n_fft=size,
        hop_length=size // 4,
        window=torch.hann_window(size),
        center=True,
        pad_mode="constant",  # a clip may be shorter than a window
        return_complex=True,
    )
    power: NDArray[np.float32] = (10 * (spectrum.abs().square() / size + 1e-10).log10()).numpy()
    return power
