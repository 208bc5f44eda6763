"""`s4gen sample` of a model of audio: to wav or flac files, or to standard output, while it is drawn."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.bulk.part import Run
from s4gen.cli.bounds import BOOKKEEPING, check_kept, check_written
from s4gen.cli.classes import chosen_classes
from s4gen.cli.filters import filters_of
from s4gen.cli.prompt_cache import prompt_cache_of
from s4gen.cli.rates import at_rate, rate_of
from s4gen.cli.sample_audio_files import is_file, part_of, picture_of, write_clips
from s4gen.cli.shards import digest_of, layout_table, sampling_options, write_part
from s4gen.config import AudioLayout
from s4gen.errors import UserError
from s4gen.machine.device import best_device

if TYPE_CHECKING:
    from torch import Tensor

    from s4gen.checkpoint import Checkpoint
    from s4gen.data.audio import AudioFormat
    from s4gen.sampling.audio import ClipRequest

SECONDS = 1.0
STREAM = Path("-")


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    classes = checkpoint.config.layout.classes  # type: ignore[union-attr]
    chosen = chosen_classes(args.classes, classes, args.checkpoint)
    n = args.count or max(1, len(args.prompt or ()), len(chosen) if args.classes else 0)
    if args.shard is None:
        check_out(args, n)
    request = request_of(args, checkpoint, n, chosen)
    if args.shard is not None:
        run = _run_of(args, checkpoint, request, n, chosen)
        write_part(args, run, request.batches, lambda piece: part_of(request, piece))
    elif args.out == STREAM:
        stream(request)
    else:
        write_clips(request, n, args.out)
    return 0


def _run_of(
    args: argparse.Namespace, checkpoint: Checkpoint, request: ClipRequest, n: int, classes: Sequence[int]
) -> Run:
    """Return the run that the parts of this command belong to."""
    options = sampling_options(args, request.engine.name)
    options |= {
        "samples": request.samples,
        "rate": request.format.rate,
        "ending": request.ending,
        "clips": n,
        "classes": list(classes),
        "select": bool(args.select),
        "prompt": digest_of([prompt.tolist() for prompt in request.prompts]),
    }
    shown = {key: options[key] for key in ("rate", "clips", "classes", "select")}
    shown |= {"layout": layout_table(checkpoint), "prompts": len(request.prompts)}
    return Run("sample", "audio", checkpoint.digest(), options, shown, len(request.begins))


def check_out(args: argparse.Namespace, n: int) -> None:
    """Refuse a place to which n clips cannot or should not be written, before any work."""
    from s4gen.data.audio.write import check_audio_output

    if args.out != STREAM:
        check_audio_output(args.out, n, args.force)
        if is_file(args.out) and (picture := picture_of(args.out)).exists() and not args.force:
            raise UserError(
                f"{picture}, where the picture of {args.out} goes, exists; choose another name, or write over both "
                "with --force"
            )
    elif n > 1:
        raise UserError(f"-o - streams one clip, and {n} are asked for; give a folder, or ask for one clip")
    elif args.select:
        raise UserError("--select chooses among whole clips, so nothing can be streamed; give a file or a folder")
    elif sys.stdout.isatty():
        raise UserError("-o - streams raw sound, and standard output is a terminal; send it to a player or a file")


def request_of(args: argparse.Namespace, checkpoint: Checkpoint, n: int, classes: Sequence[int]) -> ClipRequest:
    """Return the request for n clips that take these classes in turn."""
    from s4gen.data.audio import format_of
    from s4gen.sampling.audio import ClipRequest, in_turn, with_candidates
    from s4gen.sampling.convert import convert
    from s4gen.sampling.converted import recurrent_of
    from s4gen.sampling.engines import make_engine

    layout = checkpoint.config.layout
    assert isinstance(layout, AudioLayout)
    format = format_of(layout)
    if args.rate is None:
        recurrent = recurrent_of(checkpoint)
    else:
        format = replace(format, rate=rate_of(format.rate, args.rate))
        recurrent = convert(at_rate(checkpoint, args.rate))
        print(f"s4gen: {what_a_rate_means(checkpoint, args.rate, format.rate)}", file=sys.stderr)
    cache = prompt_cache_of(args)
    samples = round((args.seconds or SECONDS) * format.rate)
    if args.out != STREAM:
        _check_bounds(args, n, samples, format)
    if not samples:
        raise UserError(f"--seconds {args.seconds:g} holds none of {format.rate:,} samples per second; ask for more")
    prompts = read_prompts(args.prompt or (), format)
    begins = in_turn(n, len(prompts), classes)
    begins = with_candidates(begins) if args.select else begins
    recurrent = recurrent.to(best_device())
    engine = make_engine(args.engine, recurrent, filters_of(args), tokens=len(begins) * samples)
    ending = ending_of(checkpoint, format.rate)
    return ClipRequest(
        recurrent, engine, format, layout.classes, prompts, begins, samples, args.seed, args.batch, ending, cache
    )


def _check_bounds(args: argparse.Namespace, n: int, samples: int, format: AudioFormat) -> None:
    """Refuse more and longer clips than there is room for.

    Raises:
        UserError: there is no room, in memory or on the disk.
    """
    # The codes of all clips are kept, and their sound for the picture and the classifier.
    size = (1 if format.bits <= 8 else 4) + 4
    drawn = 2 * n if args.select else n
    check_kept(drawn, BOOKKEEPING + (size * samples if args.shard is None else 0), f"clips of {samples:,} samples")
    check_kept(min(drawn, args.batch), 16 * samples, "clips side by side", "choose a smaller --seconds or --batch")
    if args.shard is None:
        check_written(args.out, n, 2 * samples, "clips")


def ending_of(checkpoint: Checkpoint, rate: int) -> int:
    """Return the samples of silence that end a clip: half of those behind every training clip; 0: nothing ends it."""
    return 0 if checkpoint.recipe is None else round(checkpoint.recipe.data.tail / 2 * rate)


def what_a_rate_means(checkpoint: Checkpoint, factor: float, rate: int) -> str:
    """Say in one line what is done for another rate, and what is not."""
    layout, pool = checkpoint.config.layout, checkpoint.config.model.pool
    pooled = f"; pooling windows hold as many samples as before, {1 / factor:.3g} times as long" if pool else ""
    return (
        f"--rate {factor:g}: {rate:,} samples per second instead of {layout.length:,}, and every dt of the model times "
        f"{1 / factor:.3g}, so that it remembers for as many seconds{pooled}"
    )


def read_prompts(paths: Sequence[str], format: AudioFormat) -> list[Tensor]:
    """Read recordings as codes int64 (P,), and say what was changed about them; without paths, return an empty one.

    Raises:
        UserError: one of them cannot be used.
    """
    import torch

    from s4gen.data.audio.reading import WANTED, read_prompt

    prompts = []
    for path in paths:
        if not os.path.exists(path):
            raise UserError(f"--prompt {path}: there is no such file; expected {WANTED}")
        codes, notes = read_prompt(path, format)
        prompts.append(torch.from_numpy(codes).to(torch.int64))
        for note in notes:
            print(f"s4gen: {note}", file=sys.stderr)
    return prompts or [torch.empty(0, dtype=torch.int64)]


def stream(request: ClipRequest) -> None:
    """Write one clip as raw PCM to standard output, and nothing else there."""
    from s4gen.data.audio.write import write_pcm

    print(f"s4gen: signed 16-bit little-endian PCM, mono, {request.format.rate} samples per second", file=sys.stderr)
    began, drawn = time.perf_counter(), 0
    write_pcm(sys.stdout.buffer, request.sound(request.prompt(0)))
    for _, chunks in request.draw():
        endings = request.endings(1)
        for chunk in chunks:
            (count,) = endings.counts(chunk)
            write_pcm(sys.stdout.buffer, request.sound(chunk[0, :count]))
            drawn += chunk.numel()
            if endings.all_over:
                break
    print(f"s4gen: {request.speed(drawn, time.perf_counter() - began)}", file=sys.stderr)
