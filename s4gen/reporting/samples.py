"""Show the samples that a run drew at its evaluations as figures in one row of a page, the earliest step first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s4gen.errors import UserError
from s4gen.files.folders import says_why
from s4gen.files.reading import read_bounded
from s4gen.reporting.records import Record
from s4gen.showing.report import Block, Captioned, Code, Picture, Sound, Strip, Text
from s4gen.showing.words import plural

CLIPS = 4
"""Clips of sound that are shown of each step."""
_MOST_STEPS = 12
_MOST_LETTERS = 1_500
"""Letters of text that are shown of each step."""
_PNG, _RIFF = b"\x89PNG\r\n\x1a\n", b"RIFF"
"""The bytes that pictures and wav files begin with."""


def samples_by_step(record: Record, budget: int) -> list[Block]:
    """Return one row of figures, each of what was drawn at one step, and a line on what is left out of it.

    At most twelve steps are shown, the first and the last among them, and fewer where their files have more than
    `budget` bytes together. What cannot be read is left out and noted in the record.
    """
    sizes = {step: _size(path) for step, path in record.samples}
    most = _MOST_STEPS
    while most > 1 and sum(sizes[step] for step, _ in spread(record.samples, most)) > budget:
        most -= 1
    chosen = spread(record.samples, most)
    if sum(sizes[step] for step, _ in chosen) > budget:
        chosen = []
    figures = [figure for step, path in chosen if (figure := _figure(record, step, path)) is not None]
    blocks: list[Block] = [Strip(figures)] if figures else []
    if len(figures) < len(record.samples):
        blocks.append(Text(f"{len(figures)} of {plural(len(record.samples), 'step')} with samples are shown."))
    return blocks


def spread(items: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    """Return at most `most` items, evenly spread from the first to the last; of one alone, the last."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _clips(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".wav")[:CLIPS]


def _size(path: Path) -> int:
    """Return how many bytes of a step's samples a page would hold."""
    try:
        return sum(clip.stat().st_size for clip in _clips(path)) if path.is_dir() else path.stat().st_size
    except OSError:
        return 0  # reading it will say why


def _figure(record: Record, step: int, path: Path) -> Block | None:
    """Return what was drawn at a step; None if it cannot be read."""
    caption = f"step {step:,}"
    try:
        if path.is_dir():
            clips = [read_bounded(clip) for clip in _clips(path)]
            players = [Sound(clip, f"clip {i + 1}") for i, clip in enumerate(clips) if clip.startswith(_RIFF)]
            return Captioned(players, caption) if players else None
        content = read_bounded(path)
    except UserError as error:
        record.notes.append(str(error))
        return None
    except OSError as error:
        record.notes.append(says_why(error))
        return None
    if path.suffix == ".txt":
        text = content.decode("utf-8", "replace")
        return Captioned([Code(text[:_MOST_LETTERS] + (" …" if len(text) > _MOST_LETTERS else ""))], caption)
    if not content.startswith(_PNG):
        record.notes.append(f"{path} is no PNG file, so it is left out")
        return None
    return Picture(content, f"Sampled at {caption}", pixels=True)
