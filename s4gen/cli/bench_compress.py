"""`s4gen bench compress`: files by a model beside PNG, WebP, JPEG-LS, JPEG XL, FLAC, xz and Zstandard."""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from s4gen.cli.arguments import whole
from s4gen.cli.compress import add_batch
from s4gen.cli.dataset import add_dataset_argument, dataset_of, open_images, open_text
from s4gen.cli.output import print_json, shows_progress
from s4gen.config import ImageLayout
from s4gen.config.names import CODING_ENGINES
from s4gen.errors import UserError
from s4gen.files.folders import user_path

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint

SUMMARY = "Measure how small and how fast files become by s4gen compress, beside other codecs."
COUNT = 10
_HEADING = re.compile(rb"(?m)^ = [^=\n]+ = $")
"""The heading of a page of WikiText."""
_PAGE_TOKENS = 1 << 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or the name of a shipped checkpoint")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=user_path,
        help="what s4gen compress takes (default: some of the test split that the model goes with)",
    )
    parser.add_argument(
        "-n",
        "--count",
        metavar="N",
        type=whole(1),
        default=COUNT,
        help="without FILE: the first N images, or N recordings at equal distances; of text it is the first page "
        f"(default: {COUNT})",
    )
    add_dataset_argument(parser)
    add_batch(parser)
    parser.add_argument("--engine", choices=CODING_ENGINES, default="auto", help="that predicts (default: auto)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Measure compression: `s4gen bench compress`."""
    if args.files and args.dataset:
        raise UserError("FILE and --dataset are two ways to say what is compressed; leave one out")
    from s4gen.bench import compression
    from s4gen.checkpoint import load_checkpoint
    from s4gen.compress.compressor import Coder, contents_of, read_items

    checkpoint = load_checkpoint(args.checkpoint)
    contents = contents_of(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        files = args.files or files_of_test(
            checkpoint, args.dataset or dataset_of(checkpoint), args.count, Path(folder)
        )
        items = read_items(contents, files)
    coder = Coder.choose(checkpoint, args.engine)
    result = compression.run(args.checkpoint, coder, contents, items, args.batch, shows_progress())
    if args.json:
        print_json(result.to_dict())
    else:
        print(result.table())
    return 0


def files_of_test(checkpoint: Checkpoint, dataset: str, n: int, folder: Path) -> list[Path]:
    """Write files of the test split of a data set into a folder; return their paths.

    Raises:
        UserError: there is no such data, or it does not fit the model, or is no published set of recordings.
    """
    layout = checkpoint.config.layout
    if isinstance(layout, ImageLayout):
        from s4gen.data.images import save_each

        return save_each(open_images(checkpoint, dataset, "test", n)[0], layout, folder)
    if layout.kind == "audio":
        return _recordings(dataset, n, folder)
    tokens = open_text(checkpoint, dataset, "test").tokens[:_PAGE_TOKENS].tolist()
    pieces = checkpoint.tokenizer().pieces
    text = b"".join(pieces[token] for token in tokens)
    headings = [found.start() for found in _HEADING.finditer(text)]
    path = folder / "page.txt"
    path.write_bytes(text[: headings[1]] if len(headings) > 1 else text)
    return [path]


def _recordings(dataset: str, n: int, folder: Path) -> list[Path]:
    """Write recordings at equal distances of a published set as wav files of 16 bits."""
    import soundfile  # type: ignore[import-untyped]

    from s4gen.data.audio.published import PUBLISHED

    if dataset not in PUBLISHED:
        raise UserError(f"{dataset} is no published set of recordings; name the files instead")
    recordings = list(PUBLISHED[dataset].open("test").recordings())
    n, paths = min(n, len(recordings)), []
    for number in range(n):
        recording = recordings[number * len(recordings) // n]
        samples, rate = soundfile.read(recording.open(), dtype="int16")
        paths.append(folder / f"{Path(recording.name).stem}.wav")
        soundfile.write(paths[-1], samples, rate, "PCM_16")
    return paths
