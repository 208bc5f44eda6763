"""Make fsdd.zip again:  S4GEN_DATA=FOLDER python -m s4gen.data.audio.mini.make

From the same data the file comes out byte for byte the same.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path, PurePosixPath

from s4gen.data.audio.published import FSDD_SIZES, MINI, fsdd
from s4gen.errors import UserError
from s4gen.files.atomic import write_file_atomic

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


def wanted() -> list[str]:
    """Return the names: for train the first of every speaker and digit, for test the first of two speakers a digit."""
    train = [f"{digit}_{speaker}_5" for digit in range(10) for speaker in SPEAKERS]
    test = [f"{digit}_{SPEAKERS[(digit + turn) % 6]}_0" for digit in range(10) for turn in (0, 3)]
    return sorted(train + test)


def make(path: Path = MINI) -> None:
    """Write the archive: the FLAC files of the data set, unchanged.

    Raises:
        UserError: the data set is not there, or holds wav files.
    """
    recordings = [recording for split in FSDD_SIZES for recording in fsdd(split).recordings()]
    found = {PurePosixPath(recording.name).stem: recording for recording in recordings}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in wanted():
            file = found[name].open()
            if isinstance(file, Path):
                raise UserError(f"{file}: the mini set is made from the FLAC files in fsdd/*.parquet")
            archive.writestr(zipfile.ZipInfo(f"{name}.flac"), file.read())
    write_file_atomic(path, content.getvalue())


if __name__ == "__main__":
    make()
