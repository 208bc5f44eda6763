"""Clips to files while they are drawn; then a picture of them, and what is known of each."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.output import shows_progress
from s4gen.cli.shards import check_range, check_replaced, merged_name
from s4gen.config import AudioLayout
from s4gen.config.names import WRITTEN_SOUND
from s4gen.errors import UserError
from s4gen.showing.progress import progress_bar
from s4gen.showing.words import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from s4gen.bulk.block_files import Arrays
    from s4gen.bulk.dealing import Piece
    from s4gen.bulk.part import Part
    from s4gen.data.audio import AudioFormat
    from s4gen.sampling.audio import Begin, ClipRequest

PICTURED = 20
"""Clips in a picture, at most: drawing it would take longer than the clips."""


def picture_of(out: Path) -> Path:
    """Where the picture goes: beside the one file, or into the folder."""
    return out.with_suffix(".png") if is_file(out) else out / "picture.png"


def is_file(out: Path) -> bool:
    """Whether this is the name of one clip, and not of a folder."""
    return out.suffix.lower() in WRITTEN_SOUND


@dataclass(frozen=True)
class About:
    """The facts about the clips of a run that are needed to write them and their records."""

    format: AudioFormat
    classes: tuple[str, ...]
    begins: list[Begin]
    """How each clip that was drawn begins."""
    n: int
    """How many clips are wanted; if more were drawn, the best are chosen."""
    seed: int

    @property
    def selects(self) -> bool:
        """Whether more clips are drawn than are wanted."""
        return len(self.begins) > self.n

    def name(self, clip: int) -> str | None:
        """Return the name of the class of a clip, or None for a model without classes."""
        label = self.begins[clip].label
        return None if label is None else self.classes[label]

    def sound(self, codes: Tensor) -> NDArray[np.float32]:
        """Decode the codes of a clip (L,)."""
        return self.format.quantiser.decode(codes.numpy())

    def paths(self, out: Path) -> list[Path]:
        """Return where each of the n clips is written: the file `out`, or files in a folder."""
        from s4gen.data.audio.write import sample_paths

        if is_file(out):
            return [out]
        names = [re.sub(r"[^\w.-]+", "_", self.name(i) or "") for i in range(self.n)] if self.classes else None
        return sample_paths(out, self.n, labels=names)


def write_clips(request: ClipRequest, n: int, out: Path) -> None:
    """Draw all clips of the request, and write n of them: all, or those selected."""
    about = About(request.format, request.classes, request.begins, n, request.seed)
    paths, selects = about.paths(out), about.selects
    began = time.perf_counter()
    try:
        clips, drawn = draw_all(request, request.batches, [] if selects else paths)
    except KeyboardInterrupt:
        if not selects and out.exists():
            print(f"s4gen: what was drawn so far is in {out}", file=sys.stderr)
        raise
    speed = request.speed(drawn, time.perf_counter() - began)
    verdict = finish(about, clips, request.bits_per_sample(clips), out, written=not selects)
    print(_found(about, verdict, len(clips), out))
    print(speed)
    print(_verdict(verdict))


def finish(
    about: About, clips: Sequence[Tensor], bits: Sequence[float], out: Path, written: bool
) -> list[dict[str, Any]]:
    """Choose among clips (L_i,), write those that are not `written` yet, a picture, and what is known of each.

    `bits` are the bits per sample of each clip. Returns what is known of those that were chosen.
    """
    from s4gen.data.audio.write import write_audio
    from s4gen.sampling.audio import select

    chosen = select(about.begins, bits, about.n) if about.selects else list(range(about.n))
    paths, sounds = about.paths(out), [about.sound(clips[i]) for i in chosen]
    if not written:
        for path, sound in zip(paths, sounds, strict=True):
            write_audio(path, sound, about.format.rate)
    records = [
        {
            "file": path.name,
            "class": about.name(i),
            "recognised": heard,
            "seconds": len(sound) / about.format.rate,
            "bits_per_sample": bits[i],
            "seed": about.seed,
            "sequence": i,
        }
        for path, i, sound, heard in zip(paths, chosen, sounds, recognised(about, sounds), strict=True)
    ]
    _write_about(about, records, sounds, out)
    return records


def merge(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Write the clips of parts as the single run would have."""
    from s4gen.data.audio.write import check_audio_output
    from s4gen.files.atomic import write_atomic

    about = _about(parts[0])
    merged_name(args.out, WRITTEN_SOUND, folder=True)
    check_audio_output(args.out, about.n, args.force)
    check_replaced(args.out, args.force, ("*.wav", "picture.png", "samples.json"))
    clips, bits = _clips_of(parts, about)
    if is_file(args.out):
        records = finish(about, clips, bits, args.out, written=False)
    else:
        found: list[dict[str, Any]] = []
        write_atomic(args.out, lambda folder: found.extend(finish(about, clips, bits, folder, written=False)))
        records = found
    print(_found(about, records, len(clips), args.out))
    print(_verdict(records))
    return 0


def _about(part: Part) -> About:
    """Return what a part says of its run's clips.

    Raises:
        UserError: part.json is damaged.
    """
    from s4gen.bulk.merging import layout_of, shown
    from s4gen.data.audio import format_of
    from s4gen.sampling.audio import in_turn, with_candidates

    layout = layout_of(part)
    assert isinstance(layout, AudioLayout)
    n, prompts, rate = (shown(part, name, int) for name in ("clips", "prompts", "rate"))
    chosen, selects, seed = shown(part, "classes", list), shown(part, "select", bool), part.run.options.get("seed")
    known = range(len(layout.classes))
    if not (1 <= n <= part.run.rows and prompts > 0 and all(label in known for label in chosen) and type(seed) is int):
        raise UserError(f"{part.path} is damaged: it names no clips of its model")
    begins = in_turn(n, prompts, chosen)
    begins = with_candidates(begins) if selects else begins
    if len(begins) != part.run.rows:
        raise UserError(f"{part.path} is damaged: its run cannot have {part.run.rows} clips")
    return About(replace(format_of(layout), rate=rate), layout.classes, begins, n, seed)


def _clips_of(parts: Sequence[Part], about: About) -> tuple[list[Tensor], list[float]]:
    """Return the codes (L_i,) of all clips of parts, and their bits per sample.

    Raises:
        UserError: a block holds something else.
    """
    import torch

    from s4gen.bulk.merging import all_arrays, column

    clips: list[Tensor] = []
    bits: list[float] = []
    for rows, block in all_arrays(parts):
        lengths, costs = column(rows, block, "lengths", "int64"), column(rows, block, "bits", "float64")
        codes = block.get("codes")
        if codes is None or codes.ndim != 1 or (lengths < 1).any() or codes.size != sum(lengths.tolist()):
            raise UserError(f"the block of the rows {rows.start} to {rows.stop} does not hold their clips")
        check_range(parts[0], "codes", codes, 1 << about.format.bits)
        clips += torch.from_numpy(codes).split(lengths.tolist())
        bits += costs.tolist()
    return clips, bits


def part_of(request: ClipRequest, piece: Piece) -> Arrays:
    """Draw the clips of a piece; return their codes one behind another, their lengths, and their bits per sample."""
    import numpy as np
    import torch

    clips = draw_all(request, [piece.computed], [])[0][piece.extra :]
    return {
        "codes": torch.cat(clips).numpy(),
        "lengths": np.array([len(clip) for clip in clips], np.int64),
        "bits": np.array(request.bits_per_sample(clips, piece.own.start), np.float64),
    }


def draw_all(request: ClipRequest, batches: Sequence[range], paths: Sequence[Path]) -> tuple[list[Tensor], int]:
    """Return the codes of the clips of these batches (L_i,), and how many samples were drawn.

    Each clip is written to its path, if there are any, while it grows; Ctrl-C keeps what there is.
    """
    import torch

    from s4gen.data.audio.write import may_be_open, open_writers, write_audio

    def write_rest(parts: list[list[Tensor]], places: Sequence[Path], written: int) -> None:
        for path, part in zip(places[written:], parts[written:] if places else (), strict=True):
            write_audio(path, request.sound(torch.cat(part)), request.format.rate)

    small = torch.uint8 if request.format.bits <= 8 else torch.int32
    clips: list[Tensor] = []
    drawn = 0
    with progress_bar(sum(map(len, batches)) * request.samples, "sample", shows_progress(), desc="sampling") as bar:
        for members, chunks in request.draw(batches):
            parts = [[request.prompt(i).to(small)] for i in members]
            endings = request.endings(len(members))
            places = paths[members.start : members.stop]
            # Those that cannot grow, because so many files may not be open at a time, are written at the end.
            grow = may_be_open(len(places))
            try:
                with open_writers(places[:grow], request.format.rate) as writers:
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
            except KeyboardInterrupt:
                write_rest(parts, places, grow)
                raise
            write_rest(parts, places, grow)
            clips += [torch.cat(part) for part in parts]
    return clips, drawn


def recognised(about: About, sounds: Sequence[NDArray[np.float32]]) -> list[str | None]:
    """Return the class that a classifier hears each clip as; None if there is none of the model's classes."""
    from s4gen.evaluate.recognition import find_classifier

    classifier = find_classifier(about.classes, about.format.rate) if about.classes else None
    if classifier is None:
        return [None] * len(sounds)
    return [classifier.classes[number] for number in classifier.recognise(sounds)]


def _write_about(
    about: About, records: Sequence[dict[str, Any]], sounds: Sequence[NDArray[np.float32]], out: Path
) -> None:
    from s4gen.data.audio.write import draw_clips
    from s4gen.files.atomic import write_file_atomic

    titles = [_title(record) for record in records[:PICTURED]]
    write_file_atomic(picture_of(out), draw_clips(sounds[:PICTURED], about.format.rate, titles))
    if not is_file(out):
        lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
        write_file_atomic(out / "samples.json", f"[\n{lines}\n]\n".encode())


def _title(record: dict[str, Any]) -> str:
    """Over a clip in the picture."""
    heard = f", heard as {record['recognised']}" if record["recognised"] else ""
    return f"{record['file']}{heard}\n{record['bits_per_sample']:.2f} bits/sample"


def _found(about: About, records: Sequence[dict[str, Any]], drawn: int, out: Path) -> str:
    return _summary(records, out) + (f", chosen from {drawn}" if about.selects else "")


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
