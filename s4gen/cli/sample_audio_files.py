"""Clips to files while they are drawn; then a picture of them, and what is known of each."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.output import shows_progress
from s4gen.config.names import WRITTEN_SOUND
from s4gen.showing.progress import progress_bar
from s4gen.showing.words import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from s4gen.sampling.audio import ClipRequest

PICTURED = 20
"""Clips in a picture, at most: drawing it would take longer than the clips."""


def picture_of(out: Path) -> Path:
    """Where the picture goes: beside the one file, or into the folder."""
    return out.with_suffix(".png") if is_file(out) else out / "picture.png"


def is_file(out: Path) -> bool:
    """Whether this is the name of one clip, and not of a folder."""
    return out.suffix.lower() in WRITTEN_SOUND


def write_clips(request: ClipRequest, n: int, out: Path) -> None:
    """Draw all clips of the request, and write n of them: all, or those selected."""
    from s4gen.data.audio.write import sample_paths, write_audio
    from s4gen.sampling.audio import select

    names = [re.sub(r"[^\w.-]+", "_", request.name(i) or "") for i in range(n)] if request.classes else None
    paths = [out] if is_file(out) else sample_paths(out, n, labels=names)
    selects = len(request.begins) > n
    began = time.perf_counter()
    try:
        clips, drawn = _drawn(request, [] if selects else paths)
    except KeyboardInterrupt:
        if not selects and out.exists():
            print(f"s4gen: what was drawn so far is in {out}", file=sys.stderr)
        raise
    speed = request.speed(drawn, time.perf_counter() - began)
    bits = request.bits_per_sample(clips)
    chosen = select(request.begins, bits, n) if selects else list(range(n))
    sounds = [request.sound(clips[i]) for i in chosen]
    if selects:
        for path, sound in zip(paths, sounds, strict=True):
            write_audio(path, sound, request.format.rate)
    records = [
        {
            "file": path.name,
            "class": request.name(i),
            "recognised": heard,
            "seconds": len(sound) / request.format.rate,
            "bits_per_sample": bits[i],
            "seed": request.seed,
            "sequence": i,
        }
        for path, i, sound, heard in zip(paths, chosen, sounds, recognised(request, sounds), strict=True)
    ]
    _write_about(request, records, sounds, out)
    print(_summary(records, out) + (f", chosen from {len(clips)}" if selects else ""))
    print(speed)
    print(_verdict(records))


def _drawn(request: ClipRequest, paths: Sequence[Path]) -> tuple[list[Tensor], int]:
    """Draw all clips; return their codes (L_i,), and how many samples were drawn.

    Each clip that has a path is written there while it grows. Ctrl-C keeps what there is.
    """
    import torch

    from s4gen.data.audio.write import open_writers

    small = torch.uint8 if request.format.bits <= 8 else torch.int32
    clips: list[Tensor] = []
    drawn = 0
    with progress_bar(len(request.begins) * request.samples, "sample", shows_progress(), desc="sampling") as bar:
        for members, chunks in request.draw():
            parts = [[request.prompt(i).to(small)] for i in members]
            endings = request.endings(len(members))
            with open_writers(paths[members.start : members.stop], request.format.rate) as writers:
                for writer, i in zip(writers, members, strict=False):
                    writer.append(request.sound(request.prompt(i)))
                for chunk in chunks:
                    counts = endings.counts(chunk)
                    for part, codes, count in zip(parts, chunk.to(small), counts, strict=True):
                        part.append(codes[:count])
                    for writer, codes, count in zip(writers, chunk, counts, strict=False):
                        writer.append(request.sound(codes[:count]))
                    drawn += chunk.numel()
                    bar.update(chunk.numel())
                    if endings.all_over:
                        break
            clips += [torch.cat(part) for part in parts]
    return clips, drawn


def recognised(request: ClipRequest, sounds: Sequence[NDArray[np.float32]]) -> list[str | None]:
    """Return the class that a classifier hears each clip as; None if there is none of the model's classes."""
    from s4gen.evaluate.recognition import find_classifier

    classifier = find_classifier(request.classes, request.format.rate) if request.classes else None
    if classifier is None:
        return [None] * len(sounds)
    return [classifier.classes[number] for number in classifier.recognise(sounds)]


def _write_about(
    request: ClipRequest, records: Sequence[dict[str, Any]], sounds: Sequence[NDArray[np.float32]], out: Path
) -> None:
    from s4gen.data.audio.write import draw_clips
    from s4gen.files.atomic import write_file_atomic

    titles = [_title(record) for record in records[:PICTURED]]
    write_file_atomic(picture_of(out), draw_clips(sounds[:PICTURED], request.format.rate, titles))
    if not is_file(out):
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        write_file_atomic(out / "samples.json", f"[\n{lines}\n]\n".encode())


def _title(record: dict[str, Any]) -> str:
    """Over a clip in the picture."""
    heard = f", heard as {record['recognised']}" if record["recognised"] else ""
    return f"{record['file']}{heard}\n{record['bits_per_sample']:.2f} bits/sample"


def _summary(records: Sequence[dict[str, Any]], out: Path) -> str:
    shortest, longest = (end(record["seconds"] for record in records) for end in (min, max))
    seconds = f"{longest:.2f} s" if shortest == longest else f"{shortest:.2f} to {longest:.2f} s"
    return f"{plural(len(records), 'clip')} of {seconds} in {out}"


def _verdict(records: Sequence[dict[str, Any]]) -> str:
    mean = sum(record["bits_per_sample"] for record in records) / len(records)
    text = f"{mean:.3f} bits/sample"
    if records[0]["recognised"] is None:
        return text
    right = sum(record["recognised"] == record["class"] for record in records)
    return f"{text}; recognised: {right} of {len(records)} as the class asked for"
