"""Several processes that make the images of Pathfinder, chunk by chunk; the images are those that one would make."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import s4gen
from s4gen.data.labelled.contours import Definition
from s4gen.data.labelled.pathfinder import CHUNK, examples
from s4gen.errors import UserError

Labelled = Generator[tuple[NDArray[np.uint8], int], None, None]
"""Pixels (L,) and classes; closing it ends the processes."""


def rows(definition: Definition, seed: int, count: int, first: int = 0, processes: int | None = None) -> Labelled:
    """Yield the pixels (L,) of the images `first` to `count` - 1, and perhaps of some more, with their classes.

    `processes` (default: one for each processor that this one may use) share the work where there are enough images.
    """
    chunks = range(first // CHUNK, -(-count // CHUNK))
    processes = min(len(chunks), processes or _processors())
    if processes < 2:
        found = examples(definition, seed, itertools.count(chunks.start))
        made: Labelled = ((example.image.reshape(-1), example.label) for example in found)
    else:
        made = _shared(definition, seed, chunks, processes)
    return _without(made, first % CHUNK)


def _without(made: Labelled, n: int) -> Labelled:
    """Yield all but the first n images; closing this closes `made`."""
    with contextlib.closing(made):
        yield from itertools.islice(made, n, None)


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shared(definition: Definition, seed: int, chunks: range, processes: int) -> Labelled:
    """Deal out the chunks to the processes in turn; read one chunk of each in turn.

    A process that has made a chunk waits until it is read. So none runs far ahead, and when this one dies, whatever
    kills it, the others end with an error of their pipe as soon as they are done with a chunk.
    """
    workers = [_start(definition, seed, chunks[number::processes]) for number in range(processes)]
    size = definition.size**2
    try:
        for number in range(len(chunks)):
            pipe = workers[number % processes].stdout
            assert pipe is not None
            content = pipe.read(CHUNK * size)
            if len(content) < CHUNK * size:
                raise UserError(
                    "a process that makes images ended too early, most likely for want of memory: try again"
                )
            for place, image in enumerate(np.frombuffer(content, np.uint8).reshape(CHUNK, size)):
                yield image, place % 2
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _start(definition: Definition, seed: int, chunks: range) -> subprocess.Popen[bytes]:
    """Start a process that writes the pixels of these chunks to its standard output."""
    order = json.dumps([asdict(definition), seed, [chunks.start, chunks.stop, chunks.step]])
    # A new process of Python rather than one of `multiprocessing`, which would run the user's program once more.
    folder = str(Path(s4gen.__file__).parent.parent)
    paths = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve()", order],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,  # Ctrl-C is for the process that started this one: it ends both
    )


def serve() -> None:
    """Do what `_start` asks for; only a process that it started calls this."""
    fields, seed, chunks = json.loads(sys.argv[1])
    definition = Definition(**{**fields, "margins": tuple(fields["margins"])})
    made = examples(definition, seed, range(*chunks))
    try:
        while chunk := b"".join(example.image.tobytes() for example in itertools.islice(made, CHUNK)):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(1)  # nobody reads any more; without a word, and without an attempt to write what is left
