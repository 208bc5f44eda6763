"""Sounds for the tests of audio, and the files that hold them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile


def tone(n: int, frequency: float = 440.0, rate: int = 8000, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency / rate * np.arange(n))


def noise(n: int, seed: int = 0) -> np.ndarray:
    """Sixteen-bit values, so that every lossless 16-bit file holds them exactly."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, n) / 32768


def put(path: Path, samples: np.ndarray, rate: int = 8000, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype)
    return path


def encoded(samples: np.ndarray, rate: int = 8000, kind: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()
