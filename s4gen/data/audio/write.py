"""Sound to wav and flac files, whole or while it is made, and to raw PCM; always 16 bit, mono."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.data.audio.quantise import Samples
from s4gen.errors import UserError, WriteError

SUFFIXES = (".wav", ".flac")
_OTHERS = (".ogg", ".mp3", ".m4a", ".aac", ".opus", ".aif", ".aiff", ".raw", ".pcm", ".webm")


def to_pcm16(samples: Samples) -> NDArray[np.int16]:
    """round(32768 x), clipped to what 16 bits hold. Read back it is x to within 2^-16, and codes of 8 bits exactly."""
    return np.rint(np.asarray(samples, np.float64) * 32768).clip(-32768, 32767).astype(np.int16)


class AudioWriter:
    """One file that grows while sound is made: `with AudioWriter("a.wav", 8000) as out: out.append(samples)`.

    Under a temporary name until the end of the block, then in its place. Ctrl-C keeps what there is so far, as a file
    that plays; after any other failure all is as it was before.

    Raises:
        UserError: the name ends in neither .wav nor .flac; it cannot be written, or the disk is full.
    """

    def __init__(self, path: str | Path, rate: int) -> None:
        self.path = Path(os.path.realpath(path))
        self.samples = 0
        """Samples written so far."""
        if self.path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: sound is written to names that end in {' or '.join(SUFFIXES)}")
        self._temporary = self.path.with_name(f".{self.path.name}.writing-{secrets.token_hex(4)}")
        self._rate = rate
        self._file: Any = None

    def __enter__(self) -> AudioWriter:
        import soundfile  # type: ignore[import-untyped]

        kind = self.path.suffix[1:].upper()
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = soundfile.SoundFile(os.fsencode(self._temporary), "w", self._rate, 1, "PCM_16", format=kind)
        return self

    def append(self, samples: Samples) -> None:
        """Write the next samples (n,), -1 to 1; what lies beyond is clipped."""
        with self._explained():
            self._file.write(to_pcm16(samples))
        self.samples += len(samples)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        keep = kind is None or (issubclass(kind, KeyboardInterrupt) and self.samples > 0)
        with self._explained():
            try:
                self._file.close()
                if keep:
                    _sync(self._temporary)
                    os.replace(self._temporary, self.path)
                    _sync(self.path.parent)
            finally:
                self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import soundfile

        try:
            yield
        # A short write, on a full disk, fails an assertion inside soundfile.
        except (OSError, soundfile.SoundFileError, AssertionError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or "is the disk full?"
            raise WriteError(f"cannot write {self.path}: {reason}") from error


@contextmanager
def open_writers(paths: Sequence[Path], rate: int) -> Iterator[list[AudioWriter]]:
    """A writer for each path; all of them end as one does."""
    with ExitStack() as stack:
        yield [stack.enter_context(AudioWriter(path, rate)) for path in paths]


def write_audio(path: str | Path, samples: Samples, rate: int) -> None:
    """All samples (n,) to one file, whole or not at all.

    Raises:
        UserError: as `AudioWriter`.
    """
    with AudioWriter(path, rate) as writer:
        writer.append(samples)


def write_pcm(stream: BinaryIO, samples: Samples) -> None:
    """Samples (n,) as raw signed 16-bit little-endian PCM, at once: for a player at the other end of a pipe."""
    stream.write(to_pcm16(samples).astype("<i2").tobytes())
    stream.flush()


def sample_paths(
    folder: str | Path, n: int, suffix: str = ".wav", labels: Sequence[object] | None = None
) -> list[Path]:
    """Names for n samples in a folder: 000.wav, 001.wav, ..., or with labels 000-LABEL.wav."""
    width = max(3, len(str(n - 1)))
    ends = [suffix] * n if labels is None else [f"-{label}{suffix}" for label in labels]
    return [Path(folder) / f"{index:0{width}d}{end}" for index, end in enumerate(ends)]


def check_audio_output(out: Path, n: int, force: bool) -> None:
    """Refuse a place for n samples that cannot or should not be written to, before any work.

    NAME.wav and NAME.flac take one sample, any other name is a folder.

    Raises:
        UserError: it exists and `force` is not set; it is of the wrong kind; its folder is not writable.
    """
    suffix = out.suffix.lower()
    if suffix in _OTHERS:
        raise UserError(f"{out}: sound is written as wav or flac; use a name that ends in .wav or .flac, or a folder")
    is_file = suffix in SUFFIXES
    if is_file and n > 1:
        raise UserError(f"{out} is one file for {n} samples; give a folder, or ask for one sample")
    if out.exists():
        if out.is_dir() == is_file:
            raise UserError(f"{out} is a {'folder' if is_file else 'file'}; choose another name")
        if not force and (is_file or any(out.iterdir())):
            raise UserError(f"{out} exists; choose another name, or write over it with --force")
    above = next(path for path in ([out] if out.is_dir() else out.parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"cannot write {out}: {above} is a file")
    if not os.access(above, os.W_OK):
        raise UserError(f"cannot write {out}: no permission to write to {above}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
