"""`s4gen sample` of a language model: to the terminal as it is written, or to a file."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.bulk.block_files import Arrays
from s4gen.bulk.part import Part, Run
from s4gen.cli.bounds import BOOKKEEPING, check_kept
from s4gen.cli.filters import filters_of
from s4gen.cli.output import check_file, shows_progress
from s4gen.cli.prompt_cache import prompt_cache_of
from s4gen.cli.shards import digest_of, merged_name, sampling_options, write_part
from s4gen.config.names import WRITTEN_TEXTS
from s4gen.data.text.reading import WIDE_MARKS
from s4gen.errors import UserError, printable, shortened
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import LARGE, read_bounded
from s4gen.machine.device import best_device
from s4gen.showing.progress import progress_bar
from s4gen.showing.words import plural

if TYPE_CHECKING:
    from s4gen.bulk.dealing import Piece
    from s4gen.checkpoint import Checkpoint
    from s4gen.data.text import Tokenizer
    from s4gen.sampling.convert import RecurrentModel
    from s4gen.sampling.text import Text, TextRequest

MAX_TOKENS = 200
UNKNOWN = "<unk>"
BYTES_OF_A_TOKEN = 40
"""Bytes that Python takes for a token in a list, and for the text that it stands for."""
BYTES_OF_A_PROMPT = 24
"""Bytes that a character of a prompt takes while prompts are made one array, at most one token for each byte."""


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    from s4gen.sampling.converted import recurrent_of
    from s4gen.sampling.engines import make_engine
    from s4gen.sampling.text import TextRequest

    if args.prompt is not None and args.prompts is not None:
        raise UserError("--prompt and --prompts are two ways to give prompts; leave one out")
    given = [as_utf8(prompt) for prompt in args.prompt or ()] or (
        [""] if args.prompts is None else read_prompts(args.prompts)
    )
    n, max_tokens = args.count or len(given), args.max_tokens or MAX_TOKENS
    check_texts(n, max_tokens, given, args.batch, kept=args.shard is None)
    prompts, cache = [given[i % len(given)] for i in range(n)], prompt_cache_of(args)
    tokenizer = checkpoint.tokenizer()
    _say_what_is_unknown(tokenizer, given)
    recurrent = recurrent_of(checkpoint).to(best_device())
    filters = filters_of(args)
    if filters.eager_only and args.engine != "eager":
        print("s4gen: with a repetition penalty, going on with the eager engine", file=sys.stderr)
    stop = [unescaped(string) for string in args.stop or ()]
    engine = make_engine(args.engine, recurrent, filters, len(prompts) * max_tokens)
    request = TextRequest(recurrent, engine, tokenizer, prompts, args.seed, max_tokens, stop, args.batch, cache)
    if args.shard is not None:
        options = sampling_options(args, engine.name)
        options |= {"max_tokens": max_tokens, "stop": stop, "prompts": digest_of(prompts)}
        run = Run("sample", "text", checkpoint.digest(), options, {}, len(prompts))
        write_part(args, run, request.batches, lambda piece: _block(recurrent, request, piece))
        return 0
    show = _Terminal(tokenizer, len(prompts)) if args.out is None else None
    texts: list[Text] = []
    began = time.perf_counter()
    with progress_bar(len(prompts), "text", show is None and shows_progress(), desc="writing") as bar:
        for batch in request.pieces():
            for found, piece in request.write(batch):
                if show is not None:
                    show(found, piece)
                if not piece:
                    texts.append(found)
                    bar.update(1)
    seconds = time.perf_counter() - began
    drawn = sum(len(found.tokens) for found in texts)
    if args.out is not None:
        texts.sort(key=lambda found: found.number)
        is_jsonl = args.out.suffix.lower() != ".txt"
        save(args.out, (record(recurrent, tokenizer, found, args.seed, with_costs=is_jsonl) for found in texts))
        print(f"{plural(len(texts), 'text')} in {args.out}")
    print(f"s4gen: {plural(drawn, 'token')} in {seconds:.2f} s: {drawn / seconds:,.0f} tokens/s", file=sys.stderr)
    return 0


def check_texts(n: int, max_tokens: int, prompts: Sequence[str], batch: int, kept: bool) -> None:
    """Refuse more and longer texts than there is room for; `kept`: all of them are held until the last one has ended.

    Raises:
        UserError: there is no room.
    """
    check_kept(n, BOOKKEEPING + (BYTES_OF_A_TOKEN * max_tokens if kept else 0), f"texts of {max_tokens:,} tokens")
    rows = min(n, batch)
    check_kept(rows, BYTES_OF_A_TOKEN * max_tokens, "texts side by side", "choose a smaller --max-tokens or --batch")
    longest = max(map(len, prompts), default=0)
    remedy = "choose shorter prompts or a smaller --batch"
    check_kept(max(4, rows), BYTES_OF_A_PROMPT * longest, f"prompts of {longest:,} characters", remedy)


class _Terminal:
    """Show texts: one appears as it is written. Several are printed whole, numbered, as each ends."""

    def __init__(self, tokenizer: Tokenizer, n: int) -> None:
        self._tokenizer, self._n, self._begun = tokenizer, n, False

    def __call__(self, text: Text, piece: str) -> None:
        if self._n > 1:
            if not piece:
                print(f"--- {text.number + 1} of {self._n} ---\n{whole(self._tokenizer, text)}\n", flush=True)
            return
        if not self._begun:
            prompt = self._tokenizer.decode(text.prompt.tolist())
            piece, self._begun = (prompt + piece).lstrip(" "), True
        print(piece, end="" if piece else "\n", flush=True)


def whole(tokenizer: Tokenizer, text: Text) -> str:
    """Return the prompt, as the model read it, and its continuation."""
    return (tokenizer.decode(text.prompt.tolist()) + text.text).lstrip(" ")


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file: lines, or records with "prompt" or "text".

    Raises:
        UserError: it is not there, not UTF-8, empty, or not such records.
    """
    try:
        content = decoded(read_bounded(path, LARGE, pipes=True))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; convert it") from None
    lines = re.split(r"\r\n|\r|\n", content)
    lines = lines if lines[-1] else lines[:-1]
    jsonl = path.suffix.lower() == ".jsonl"
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip() or not jsonl]
    if not numbered:
        raise UserError(f"{path} is empty; expected a prompt in each line")
    if not jsonl:
        return lines
    return [_prompt_of(line, f"{path}, line {number}") for number, line in numbered]


def as_utf8(argument: str) -> str:
    """Decode again as UTF-8 an argument that Python decoded by the locale."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument


def decoded(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 where a byte order mark says so; the mark is no part of it.

    Raises:
        UnicodeDecodeError: it is none.
    """
    wide = [name for mark, name in WIDE_MARKS.items() if content.startswith(mark)]
    return content.decode(wide[0] if wide else "utf-8-sig")


def unescaped(string: str) -> str:
    """Turn \\n, as somebody writes it on a command line, into a line feed; \\t, \\r and \\\\ likewise."""
    meant = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
    return re.sub(r"\\([ntr\\])", lambda found: meant[found[1]], string)


def _prompt_of(line: str, where: str) -> str:
    try:
        record: Any = json_value(line, LARGE, finite=False)
    except ValueError as error:
        problem = shortened(reason(error))
        raise UserError(f'{where}: expected a JSON object with "prompt" or "text", a string ({problem})') from None
    if isinstance(record, dict):
        for name in ("prompt", "text"):
            if isinstance(found := record.get(name), str):
                return found
    raise UserError(f'{where}: expected a JSON object with "prompt" or "text", a string')


def _say_what_is_unknown(tokenizer: Tokenizer, prompts: list[str]) -> None:
    if tokenizer.kind != "word":
        return
    read = [tokenizer.decode(tokenizer.encode(prompt)).split() for prompt in prompts]
    words = {word for prompt, known in zip(prompts, read, strict=True) for word in set(prompt.split()) - set(known)}
    if words:
        named = shortened(printable(" ".join(sorted(words))))
        print(f"s4gen: not in the vocabulary, so read as {UNKNOWN}: {named}", file=sys.stderr)


def record(
    recurrent: RecurrentModel, tokenizer: Tokenizer, text: Text, seed: int, with_costs: bool
) -> tuple[dict[str, Any], str]:
    """Return what is written about a text to .jsonl, and how it reads in .txt.

    The log-probabilities, which the former has alone, are computed if `with_costs`.
    """
    from s4gen.sampling.text import log_probabilities

    about = {
        "number": text.number,
        "seed": seed,
        "prompt": tokenizer.decode(text.prompt.tolist()),
        "text": text.text,
        "ended": text.ended,
        "tokens": text.tokens,
        "log_probabilities": log_probabilities(recurrent, text) if with_costs else [],
    }
    return about, whole(tokenizer, text)


def save(out: Path, records: Iterable[tuple[dict[str, Any], str]]) -> None:
    """Write the texts of these records, in their order, to `out`, which ends in .txt or .jsonl."""
    from s4gen.files.atomic import write_file_atomic

    if out.suffix.lower() == ".txt":
        content = "\n\n".join(f"--- {about['number'] + 1} ---\n{text}" for about, text in records) + "\n"
    else:
        content = "".join(json.dumps(about, ensure_ascii=False) + "\n" for about, _ in records)
    write_file_atomic(out, content.encode("utf-8"))


def _block(recurrent: RecurrentModel, request: TextRequest, piece: Piece) -> Arrays:
    """Write the texts of a piece; return their records as the bytes of JSON, one line each."""
    import numpy as np

    own = {request.order[row] for row in piece.own}
    texts = [text for text, new in request.write(piece) if not new and text.number in own]
    texts.sort(key=lambda text: text.number)
    records = [record(recurrent, request.tokenizer, text, request.seed, with_costs=True) for text in texts]
    lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in records)
    return {"records": np.frombuffer(lines.encode("utf-8"), np.uint8)}


def merge(args: argparse.Namespace, parts: Sequence[Part]) -> int:
    """Write the texts of parts as the single run would have."""
    from s4gen.bulk.merging import all_arrays

    merged_name(args.out, WRITTEN_TEXTS, folder=False)
    check_file(args.out, args.force)
    found = [pair for rows, block in all_arrays(parts) for pair in _records_in(rows, block)]
    found.sort(key=lambda pair: pair[0]["number"])
    if [about["number"] for about, _ in found] != list(range(parts[0].run.rows)):
        raise UserError("the parts hold some texts twice and others not at all: one of them is damaged")
    save(args.out, found)
    print(f"{len(found)} texts in {args.out}")
    return 0


def _records_in(rows: range, block: Arrays) -> list[tuple[dict[str, Any], str]]:
    """Return the records of a block.

    Raises:
        UserError: it holds something else.
    """
    try:
        pairs = [json_value(line, LARGE) for line in bytes(block["records"]).split(b"\n")[:-1]]
        fits = len(pairs) == len(rows) and all(
            type(about["number"]) is int and isinstance(text, str) for about, text in pairs
        )
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise UserError(f"the block of the rows {rows.start} to {rows.stop} does not hold their texts")
    return [(about, text) for about, text in pairs]
