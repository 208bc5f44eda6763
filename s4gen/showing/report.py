"""Write a report as one HTML file that holds its pictures, its sound and its style, and loads nothing from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from s4gen.files.atomic import write_file_atomic

_GENERATOR = '<meta name="generator" content="s4gen">'
_STYLE = """
:root { color-scheme: light dark;
        --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --page: #ffffff; --card: #f9fafb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --page: #111827; --card: #1f2937; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem;
       background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; padding: .5rem; background: #ffffff;
             border: 1px solid var(--line); border-radius: .5rem; }
figure img.pixels { image-rendering: pixelated; }
figcaption, caption { color: var(--soft); font-size: .9rem; text-align: left; padding: .4rem 0; }
figure svg { display: block; width: 100%; height: auto; }
figure audio { display: block; width: 100%; min-width: 15rem; margin-bottom: .5rem; }
.beside { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.strip { display: flex; gap: .8rem; overflow-x: auto; align-items: flex-start; padding-bottom: .5rem; }
.strip > figure { flex: 0 0 auto; width: 17rem; max-width: 85%; margin: .5rem 0; }
.strip img { width: 100%; }
.strip pre { max-height: 24rem; overflow-y: auto; margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; margin: .5rem 0; padding: 0;
          font-size: .9rem; overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 1.1rem; height: .25rem; margin-right: .4rem; vertical-align: middle; }
details { margin: 1rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
p { max-width: 46rem; }
h1, h2, p { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line);
         text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .8rem; background: var(--card);
      border-radius: .5rem; font-size: .85rem; }
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
class Drawing:
    """A picture of lines as SVG, made by `showing.plots`, which takes the colours of the page, light or dark."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Sound:
    """A clip as the bytes of a wav file, with a player; a screen reader says the caption."""

    wav: bytes
    caption: str


@dataclass(frozen=True)
class Legend:
    """Names, each beside the colour (#rrggbb) in which pictures draw it."""

    colours: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Captioned:
    """Several blocks below one caption."""

    blocks: Sequence[Block]
    caption: str


@dataclass(frozen=True)
class Beside:
    """Blocks in columns, or below each other where the page is narrow."""

    blocks: Sequence[Block]


@dataclass(frozen=True)
class Strip:
    """Figures in one row, which scrolls by itself where it is wider than the page."""

    blocks: Sequence[Block]


@dataclass(frozen=True)
class Folded:
    """Blocks that are hidden until their title is clicked."""

    title: str
    blocks: Sequence[Block]


Block = Text | Code | Table | Picture | Drawing | Sound | Legend | Captioned | Beside | Strip | Folded


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it."""

    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the report to `path`; if anything goes wrong, an earlier report there stays as it was.

    Raises:
        UserError: the file cannot be written.
    """
    write_file_atomic(path, render(title, sections).encode("utf-8"))


def is_report(path: Path, title: str = "") -> bool:
    """Tell whether a file is a report that `write_report` has written; with `title`, one of this title."""
    if not path.is_file():
        return False
    mark = f"<title>{escape(title)}</title>" if title else _GENERATOR
    with path.open("rb") as file:
        return mark.encode() in file.read(1024)


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the whole HTML document."""
    body = "\n".join(
        f"<section>\n<h2>{escape(section.title)}</h2>\n{_all(section.blocks)}</section>" for section in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{_GENERATOR}\n<title>{escape(title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    """Return a block as HTML. All text is escaped, since names of data sets may hold any character."""
    match block:
        case Text(text):
            return f"<p>{escape(text)}</p>\n"
        case Code(text):
            return f"<pre>{escape(text)}</pre>\n"
        case Picture(png, caption, pixels):
            style = ' class="pixels"' if pixels else ""
            return _figure(f'<img{style} alt="{escape(caption)}" src="{_data("image/png", png)}">', caption)
        case Drawing(svg, caption):
            return _figure(svg, caption)
        case Sound(wav, caption):
            source = _data("audio/wav", wav)
            return f'<audio controls preload="none" aria-label="{escape(caption)}" src="{source}"></audio>\n'
        case Legend(colours):
            items = (f'<li><i style="background:{escape(colour)}"></i>{escape(name)}</li>' for name, colour in colours)
            return f'<ul class="legend">{"".join(items)}</ul>\n'
        case Captioned(blocks, caption):
            return f"<figure><figcaption>{escape(caption)}</figcaption>{_all(blocks)}</figure>\n"
        case Beside(blocks):
            return f'<div class="beside">\n{_all(blocks)}</div>\n'
        case Strip(blocks):
            return f'<div class="strip">\n{_all(blocks)}</div>\n'
        case Folded(title, blocks):
            return f"<details><summary>{escape(title)}</summary>\n{_all(blocks)}</details>\n"
        case Table(header, rows, caption):
            title = f"<caption>{escape(caption)}</caption>" if caption else ""
            head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
            body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
            table = f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
            return f'<div class="scroll">{table}</div>\n'  # a wide table scrolls by itself, the page does not


def _all(blocks: Sequence[Block]) -> str:
    return "".join(map(_block, blocks))


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>\n"


def _data(kind: str, content: bytes) -> str:
    """Return a URL that holds its content, so that nothing is requested."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
