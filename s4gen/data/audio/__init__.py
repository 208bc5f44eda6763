"""Sound files <-> clips <-> codes: data sets of recordings, batches of clips, wav and flac files."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from s4gen.data.audio.clips import AudioSet, Source, build, hold_out
from s4gen.data.audio.format import AudioFormat
from s4gen.data.audio.presets import PRESETS, from_hub
from s4gen.data.audio.report import Report
from s4gen.data.audio.sources import Folder, OneFile, from_tree, is_sound
from s4gen.data.splits import SPLITS
from s4gen.errors import UserError
from s4gen.folders import user_path

__all__ = ["PRESETS", "SPLITS", "AudioFormat", "AudioSet", "Report", "hold_out", "load_audio"]


def load_audio(
    dataset: str,
    split: str,
    form: AudioFormat,
    min_seconds: float = 0.0,
    max_seconds: float = float("inf"),
    progress: bool = False,
) -> AudioSet:
    """One split of a data set of recordings, every usable recording whole, as codes of format `form`.

    Args:
        dataset: one of `PRESETS`, or a folder of sound files (`sources.from_tree` says how it is split) or one such
            file, or a folder of Parquet files (`parquet.from_parquet`), there or in its folder data/.
        split: train, validation or test; fsdd has no validation, see `hold_out`.
        min_seconds, max_seconds: recordings of other lengths are left out.
        progress: count recordings on standard error.

    Returns:
        The clips; `report.lines()` says what was skipped or changed, and is for the user.

    Raises:
        UserError: no such data set or split; no usable recording; neither data nor network.
    """
    if split not in SPLITS:
        raise UserError(f"no split called {split!r}: expected one of {', '.join(SPLITS)}")
    return build(_source(dataset, split), form, min_seconds, max_seconds, progress)


def _source(dataset: str, split: str) -> Source:
    if dataset in ("fsdd", "fsdd-mini"):
        from s4gen.data.audio import fsdd

        return fsdd.full(split) if dataset == "fsdd" else fsdd.mini(split)
    if dataset in PRESETS:
        return from_hub(dataset, split)
    folder = Path(os.path.realpath(user_path(dataset)))
    if folder.is_file() and is_sound(folder.name):
        return from_tree(OneFile(folder), split, dataset, dataset)
    if not folder.is_dir():
        near = get_close_matches(dataset, PRESETS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"{dataset} is no folder and no data set: expected a folder or one of {', '.join(PRESETS)}{hint}"
        )
    for place in (folder, folder / "data"):  # the hub keeps Parquet files in data/
        if any(place.glob("*.parquet")):
            from s4gen.data.audio.parquet import from_parquet

            return from_parquet(place, split, dataset, dataset)
    return from_tree(Folder(folder), split, dataset, dataset)
