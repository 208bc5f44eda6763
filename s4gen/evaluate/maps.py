"""Pictures of what each pixel, sample or token of one sequence cost, over the sequence itself."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from s4gen.evaluate.scores import Costs
from s4gen.showing.plots import new_figure, png_of

SHADES = 16
"""Strengths of the colour behind a word."""
STRONGEST = 16.0
"""Bits from which on the colour behind a word is the strongest one."""
_RED = "220, 38, 38"


def image_map(pixels: NDArray[np.uint8], bits: NDArray[np.float64]) -> bytes:
    """Draw an image, and beside it the same in grey under the cost of each pixel; return the bytes of a PNG.

    Args:
        pixels: (H, W, 1 or 3), as they are shown, from 0 to 255.
        bits: (H, W), what each pixel cost with all its channels.
    """
    height, width = bits.shape
    figure = new_figure(min(8.0, 0.6 + 2.6 * height / width))
    left, right = figure.subplots(1, 2)
    shown = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    left.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    left.set_title("image", fontsize=9)
    # Half of the range of grey, so that the colour over it is told from white as well as from black.
    grey = 0.25 + 0.5 * pixels.mean(axis=-1) / 255
    right.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    most = max(float(bits.max()), 1e-9)
    colours = right.imshow(
        bits, cmap="hot", vmin=0, vmax=most, alpha=np.sqrt(bits.clip(0) / most), interpolation="nearest"
    )
    right.set_title(f"cost: {bits.sum():,.1f} bits", fontsize=9)
    for axes in (left, right):
        axes.set_axis_off()
    figure.colorbar(colours, ax=right, label="bits of a pixel", shrink=0.8)
    return png_of(figure)


class SoundMap:
    """The waveform of a recording and what its samples cost, in so few columns that any length can be drawn."""

    MOST = 2048
    """An even number: when there are so many columns, neighbours become one."""

    def __init__(self) -> None:
        self._each = 1  # samples of a column
        self._columns = np.zeros((0, 4))  # lowest and highest sample, sum of the costs in bits, highest cost
        self._rest: NDArray[np.float64] = np.zeros((0, 2))  # samples and costs that fill no column yet

    def add(self, samples: NDArray[np.float32], bits: NDArray[np.float64]) -> None:
        """Take the next samples (n,), from -1 to 1, and what they cost (n,)."""
        self._rest = np.concatenate((self._rest, np.stack((samples.astype(np.float64), bits), axis=1)))
        while len(self._rest) >= self._each:
            taken = self._each * min(len(self._rest) // self._each, self.MOST - len(self._columns))
            self._columns = np.concatenate((self._columns, _columns(self._rest[:taken], self._each)))
            self._rest = self._rest[taken:]
            if len(self._columns) == self.MOST:
                a, b = self._columns[::2].T, self._columns[1::2].T
                joined = (np.minimum(a[0], b[0]), np.maximum(a[1], b[1]), a[2] + b[2], np.maximum(a[3], b[3]))
                self._columns, self._each = np.stack(joined, axis=1), 2 * self._each

    def png(self, rate: int) -> bytes:
        """Draw all samples that were added, at least one, at `rate` samples per second; return the bytes of a PNG."""
        columns = self._columns
        if len(self._rest):
            last = _columns(self._rest, len(self._rest))
            last[:, 2] *= self._each / len(self._rest)
            columns = np.concatenate((columns, last))
        seconds = (np.arange(len(columns)) + 0.5) * self._each / rate
        mean = columns[:, 2] / self._each
        figure = new_figure(4.4)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.2])
        strength = mean / max(float(mean.max()), 1e-9)
        colours = [(0.15 + 0.75 * s, 0.25 * (1 - s), 0.85 * (1 - s)) for s in strength.clip(0, 1)]
        loudest = max(float(np.abs(columns[:, :2]).max()), 0.01)
        lines = np.maximum(columns[:, 1] - columns[:, 0], 0.006 * loudest)  # silence is a line, too
        thick = max(0.8, 400 / len(columns))  # points: as wide as a column, or one that can be seen
        top.vlines(seconds, columns[:, 0], columns[:, 0] + lines, colors=colours, linewidth=thick)
        top.set_ylabel("sample")
        top.set_ylim(-1.05 * loudest, 1.05 * loudest)
        bottom.fill_between(seconds, columns[:, 3], color="#fca5a5", linewidth=0, step="mid", label="highest")
        bottom.plot(seconds, mean, color="#b91c1c", linewidth=1, drawstyle="steps-mid", label="mean")
        bottom.set_ylabel("bits of a sample")
        bottom.set_xlabel("seconds; the waveform is red where samples cost much")
        bottom.set_ylim(bottom=0)
        bottom.legend(frameon=False, fontsize=8, loc="upper right")
        for axes in (top, bottom):
            axes.grid(color="#e5e7eb", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
        return png_of(figure)


def _columns(values: NDArray[np.float64], each: int) -> NDArray[np.float64]:
    """Return a column (., 4) for every `each` samples and costs (n, 2), of which n is a multiple."""
    samples, bits = values[:, 0].reshape(-1, each), values[:, 1].reshape(-1, each)
    return np.stack((samples.min(1), samples.max(1), bits.sum(1), bits.max(1)), axis=1)


def text_map(title: str, words: Sequence[tuple[str, float]], summary: str, note: str = "") -> str:
    """Return a page, one HTML document that loads nothing, with every word on a colour as strong as its cost.

    Args:
        title: the name of the text.
        words: pieces of the text in order, and what each cost in bits; see `shown_words`.
        summary: a line about the whole.
        note: a line that stands below the text, such as that only its beginning is shown.
    """
    shades = "\n".join(f".c{i} {{ background: rgba({_RED}, {0.8 * i / (SHADES - 1):.3f}); }}" for i in range(1, SHADES))
    scale = "".join(
        f'<span class="c{i}">&nbsp;{STRONGEST * i / (SHADES - 1):.0f}&nbsp;</span>' for i in range(0, SHADES, 3)
    )
    body = "".join(_span(word, bits) for word, bits in words)
    below = f"<p>{html.escape(note)}</p>\n" if note else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n"
        "body { margin: 0 auto; padding: 1rem; max-width: 50rem; font: 16px/1.7 system-ui, sans-serif;\n"
        "       background: #ffffff; color: #111827; }\n"
        "pre { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }\n"
        f"span {{ border-radius: .15rem; }}\n{shades}\n</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(summary)}</p>\n<p>bits: {scale} and more; a word shows "
        f"its own when the pointer rests on it</p>\n<pre>{body}</pre>\n{below}</body>\n</html>\n"
    )


def _span(word: str, bits: float) -> str:
    shade = min(SHADES - 1, max(0, round(bits / STRONGEST * (SHADES - 1))))
    return f'<span class="c{shade}" title="{bits:.2f} bits">{html.escape(word)}</span>'


def shown_words(
    pieces: Sequence[bytes], tokens: Sequence[int], nats: Costs | Sequence[float]
) -> Iterator[tuple[str, float]]:
    """Yield the parts of a text that can be shown, and what each cost in bits.

    A part is what one token writes, or what several write that share a character, as bytes may. `pieces` are the bytes
    that each token of the vocabulary writes. What is not UTF-8 becomes U+FFFD.
    """
    import codecs

    decoder, waiting = codecs.getincrementaldecoder("utf-8")("replace"), 0.0
    for token, cost in zip(tokens, nats, strict=True):
        waiting += float(cost) / math.log(2)
        if word := decoder.decode(pieces[token]):
            yield word, waiting
            waiting = 0.0
    word = decoder.decode(b"", final=True)
    if word or waiting:  # the end of a document writes nothing, and costs something all the same
        yield word or "∎", waiting
