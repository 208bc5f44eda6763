"""Write sound as wav and flac files, whole or while it is made, as raw PCM (always 16 bit, mono), and as pictures."""

from __future__ import annotations

import io
import math
import os
import resource
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s4gen.config.names import REFUSED_SOUND, WRITTEN_SOUND
from s4gen.data.audio.format import Samples
from s4gen.errors import UserError, WriteError
from s4gen.files.atomic import destination

_COLUMNS = 5
"""Clips side by side in a picture."""
_SPARE_FILES = 32
"""Files that are left for everything else: libraries that are loaded, temporary files, pipes."""
_DECIBELS = 80.0
"""Sound that lies further below the loudest of a picture is black."""


def to_pcm16(samples: Samples) -> NDArray[np.int16]:
    """Return round(32768 x), clipped to what 16 bits hold.

    Read back it is x to within 2^-16, and codes of 8 bits come back exactly.
    """
    return np.rint(np.asarray(samples, np.float64) * 32768).clip(-32768, 32767).astype(np.int16)


class AudioWriter:
    """One file that grows while sound is made: `with AudioWriter("a.wav", 8000) as out: out.append(samples)`.

    Under a temporary name until the end of the block, then in its place. Ctrl-C keeps what there is so far, as a file
    that plays; after any other failure all is as it was before.

    Raises:
        UserError: the name ends in neither .wav nor .flac; it cannot be written, or the disk is full.
    """

    def __init__(self, path: str | Path, rate: int) -> None:
        self.path = destination(path)
        self.samples = 0
        """Samples written so far."""
        if self.path.suffix.lower() not in WRITTEN_SOUND:
            raise UserError(f"{path}: sound is written to names that end in {' or '.join(WRITTEN_SOUND)}")
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
    """Open a writer for each path; all of them end as one does."""
    with ExitStack() as stack:
        yield [stack.enter_context(AudioWriter(path, rate)) for path in paths]


def may_be_open(wanted: int) -> int:
    """Return how many of `wanted` further files this process may open, raising its own limit where it may do that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd")) + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and used + wanted > soft:
        more = used + wanted if hard == resource.RLIM_INFINITY else min(hard, used + wanted)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if soft == resource.RLIM_INFINITY else max(0, min(wanted, soft - used))


def write_audio(path: str | Path, samples: Samples, rate: int) -> None:
    """Write all samples (n,) to one file, whole or not at all.

    Raises:
        UserError: as `AudioWriter`.
    """
    with AudioWriter(path, rate) as writer:
        writer.append(samples)


def write_pcm(stream: BinaryIO, samples: Samples) -> None:
    """Write samples (n,) as raw signed 16-bit little-endian PCM, at once: for a player at the other end of a pipe."""
    stream.write(to_pcm16(samples).astype("<i2").tobytes())
    stream.flush()


def sample_paths(
    folder: str | Path, n: int, suffix: str = ".wav", labels: Sequence[object] | None = None
) -> list[Path]:
    """Return names for n samples in a folder: 000.wav, 001.wav, ..., or with labels 000-LABEL.wav."""
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
    if suffix in REFUSED_SOUND:
        raise UserError(f"{out}: sound is written as wav or flac; use a name that ends in .wav or .flac, or a folder")
    is_file = suffix in WRITTEN_SOUND
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


def draw_clips(clips: Sequence[Samples], rate: int, titles: Sequence[str]) -> bytes:
    """Draw a PNG of all clips (n_i,), n_i >= 1, in reading order, five side by side.

    All have the scales of the longest and of the loudest, so they can be compared.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(clips))
    rows = math.ceil(len(clips) / columns)
    seconds = max(map(len, clips)) / rate
    pictures = [spectrogram(clip, rate) for clip in clips]
    top = max(float(picture.max()) for picture in pictures)
    loudest = max(float(np.abs(clip).max()) for clip in clips) or 1.0
    # Figure without pyplot: no global state, and no window system is ever asked for.
    figure = Figure(figsize=(max(4.0, 2.6 * columns), 2.8 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=[1, 2] * rows)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (clip, picture, title) in enumerate(zip(clips, pictures, titles, strict=True)):
        row, column = divmod(index, columns)
        wave, sound = axes[2 * row, column], axes[2 * row + 1, column]
        wave.set_axis_on()
        sound.set_axis_on()
        wave.plot(np.arange(len(clip)) / rate, clip, color="#2563eb", linewidth=0.5)
        wave.set_ylim(-loudest, loudest)
        wave.set_title(title, fontsize=9)
        wave.tick_params(labelbottom=False, labelleft=False, length=0)
        sound.imshow(
            picture,
            origin="lower",
            aspect="auto",
            extent=(0, len(clip) / rate, 0, rate / 2000),
            vmin=top - _DECIBELS,
            vmax=top,
            cmap="magma",
        )
        sound.set_xlim(0, seconds)
        sound.tick_params(labelsize=7, labelleft=column == 0)
        if column == 0:
            sound.set_ylabel("kHz", fontsize=8)
        if index >= len(clips) - columns:
            sound.set_xlabel("s", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def spectrogram(samples: Samples, rate: int) -> NDArray[np.float32]:
    """Return decibels, (frequencies 0 to rate / 2, frames), of windows of about 32 ms that overlap by 3/4."""
    import torch

    size = 2 ** max(3, round(math.log2(0.032 * rate)))
    spectrum = torch.stft(
        torch.from_numpy(np.asarray(samples, np.float32)),
        n_fft=size,
        hop_length=size // 4,
        window=torch.hann_window(size),
        center=True,
        pad_mode="constant",  # a clip may be shorter than a window
        return_complex=True,
    )
    power: NDArray[np.float32] = (10 * (spectrum.abs().square() / size + 1e-10).log10()).numpy()
    return power


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
