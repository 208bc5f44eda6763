"""The nearest training images, against the plain definition."""

from __future__ import annotations

import numpy as np
import torch

from s4gen.data import nearest as module
from s4gen.data.nearest import nearest


def test_the_nearest_images_are_those_of_the_smallest_distance(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """In chunks of any size, a copy of a training image first, at distance 0."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 256, (50, 4, 3, 3), dtype=np.uint8)
    images = torch.from_numpy(rng.integers(0, 256, (5, 36)))
    images[3] = torch.from_numpy(known[17].reshape(-1).astype(np.int64))
    every = np.sqrt(((images.numpy()[:, None] - known.reshape(50, -1)[None].astype(float)) ** 2).mean(-1))
    for chunk in (7, 50, 1000):
        monkeypatch.setattr(module, "CHUNK", chunk)
        number, distance = nearest(images, known, 4)
        assert number.tolist() == np.argsort(every, axis=1)[:, :4].tolist()
        np.testing.assert_allclose(distance.numpy(), np.sort(every, axis=1)[:, :4], rtol=1e-4, atol=1e-3)
    assert number[3, 0] == 17 and distance[3, 0] == 0
