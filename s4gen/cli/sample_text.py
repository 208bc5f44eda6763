"""`s4gen sample` of a language model: to the terminal as it is written, or to a file."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s4gen.cli.filters import filters_of
from s4gen.cli.output import shows_progress
from s4gen.data.text.reading import WIDE_MARKS
from s4gen.errors import UserError, printable, shortened
from s4gen.files.parsing import json_value, reason
from s4gen.files.reading import LARGE, read_bounded
from s4gen.machine.device import best_device
from s4gen.showing.progress import progress_bar

if TYPE_CHECKING:
    from s4gen.checkpoint import Checkpoint
    from s4gen.data.text import Tokenizer
    from s4gen.sampling.convert import RecurrentModel
    from s4gen.sampling.text import Text

MAX_TOKENS = 200
UNKNOWN = "<unk>"


def run(args: argparse.Namespace, checkpoint: Checkpoint) -> int:
    from s4gen.sampling import text
    from s4gen.sampling.convert import recurrent_of

    if args.prompt is not None and args.prompts is not None:
        raise UserError("--prompt and --prompts are two ways to give prompts; leave one out")
    given = [as_utf8(prompt) for prompt in args.prompt or ()] or (
        [""] if args.prompts is None else read_prompts(args.prompts)
    )
    prompts = [given[i % len(given)] for i in range(args.count or len(given))]
    tokenizer = checkpoint.tokenizer()
    _say_what_is_unknown(tokenizer, given)
    recurrent = recurrent_of(checkpoint).to(best_device())
    filters = filters_of(args)
    if filters.eager_only and args.engine != "eager":
        print("s4gen: with a repetition penalty, going on with the eager engine", file=sys.stderr)
    max_tokens = args.max_tokens or MAX_TOKENS
    pieces = text.write(
        recurrent,
        tokenizer,
        prompts,
        seed=args.seed,
        max_tokens=max_tokens,
        stop=[unescaped(string) for string in args.stop or ()],
        filters=filters,
        engine=args.engine,
        batch_size=args.batch,
    )
    show = _Terminal(tokenizer, len(prompts)) if args.out is None else None
    texts: list[Text] = []
    began = time.perf_counter()
    with progress_bar(len(prompts), "text", show is None and shows_progress(), desc="writing") as bar:
        for found, piece in pieces:
            if show is not None:
                show(found, piece)
            if not piece:
                texts.append(found)
                bar.update(1)
    seconds = time.perf_counter() - began
    drawn = sum(len(found.tokens) for found in texts)
    if args.out is not None:
        texts.sort(key=lambda found: found.number)
        _save(args.out, recurrent, tokenizer, texts, args.seed)
        print(f"{len(texts)} texts in {args.out}")
    print(f"s4gen: {drawn} tokens in {seconds:.2f} s: {drawn / seconds:,.0f} tokens/s", file=sys.stderr)
    return 0


class _Terminal:
    """One text appears as it is written; of several, each as a whole, with its number, when it has ended."""

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
    """Prompt, as the model read it, and continuation."""
    return (tokenizer.decode(text.prompt.tolist()) + text.text).lstrip(" ")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: lines, or records with "prompt" or "text".

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
    """An argument of the command line, which Python has read in the locale's encoding, as the UTF-8 that it is."""
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


def _save(out: Path, recurrent: RecurrentModel, tokenizer: Tokenizer, texts: list[Text], seed: int) -> None:
    from s4gen.files.atomic import write_file_atomic
    from s4gen.sampling.text import log_probabilities

    if out.suffix.lower() == ".txt":
        content = "\n\n".join(f"--- {text.number + 1} ---\n{whole(tokenizer, text)}" for text in texts) + "\n"
    else:
        records = [
            {
                "number": text.number,
                "seed": seed,
                "prompt": tokenizer.decode(text.prompt.tolist()),
                "text": text.text,
                "ended": text.ended,
                "tokens": text.tokens,
                "log_probabilities": log_probabilities(recurrent, text),
            }
            for text in texts
        ]
        content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_file_atomic(out, content.encode("utf-8"))
