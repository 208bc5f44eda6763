"""Write a report as one HTML file that holds its images and its style and loads nothing from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from s4gen.files.atomic import write_file_atomic

_STYLE = """
:root { color-scheme: light dark;
        --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --page: #ffffff; --card: #f9fafb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --page: #111827; --card: #1f2937; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 46rem;
       background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; padding: .5rem; background: #ffffff;
             border: 1px solid var(--line); border-radius: .5rem; }
figure img.pixels { image-rendering: pixelated; }
figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; padding: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
         text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { overflow-x: auto; padding: .8rem; background: var(--card); border-radius: .5rem; font-size: .85rem; }
""".strip()


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines that are shown as they are, in a fixed-width font."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column is aligned to the left, the others to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG with a caption, which a screen reader says as well; `pixels` keeps enlarged pixels sharp."""

    png: bytes
    caption: str
    pixels: bool = False


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: Sequence[Text | Code | Table | Picture]


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the report to `path`; if anything goes wrong, an earlier report there stays as it was.

    Raises:
        UserError: the file cannot be written.
    """
    write_file_atomic(path, render(title, sections).encode("utf-8"))


def is_report(path: Path, title: str) -> bool:
    """Tell whether a file is a report of this title that `write_report` has written."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f"<title>{escape(title)}</title>".encode() in file.read(1024)


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the whole HTML document."""
    body = "\n".join(
        f"<section>\n<h2>{escape(section.title)}</h2>\n{''.join(map(_block, section.blocks))}</section>"
        for section in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Text | Code | Table | Picture) -> str:
    """Return a block as HTML. All text is escaped, since names of data sets may hold any character."""
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>\n"
        case Code(text):
            return f"<pre>{escape(text)}</pre>\n"
        case Picture(png, caption, pixels):
            data = base64.b64encode(png).decode("ascii")
            style = ' class="pixels"' if pixels else ""
            image = f'<img{style} alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>\n"
        case Table(header, rows, caption):
            title = f"<caption>{escape(caption)}</caption>" if caption else ""
            head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
            table = f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
            return f'<div class="scroll">{table}</div>\n'  # a wide table scrolls by itself, the page does not
