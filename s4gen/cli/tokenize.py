"""Prepare a text: make its tokeniser and tokenise its splits, so that training and evaluation find them ready."""

from __future__ import annotations

import argparse
from typing import Any

from s4gen.cli.arguments import whole
from s4gen.cli.output import print_json
from s4gen.config import DataConfig, is_text, load_recipe
from s4gen.config.names import SPLITS, TOKENIZERS
from s4gen.errors import UserError

SUMMARY = "Prepare a text: make its tokeniser and tokenise its splits, so that training and evaluation find them ready."
"""The sentence that `-h` shows; not `__doc__`, which `python -OO` removes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a TOML file, or the name of a shipped recipe")
    parser.add_argument(
        "--dataset", metavar="NAME", help="wikitext-2, a .txt or .jsonl file, or a folder of them, instead of a recipe"
    )
    parser.add_argument("--tokenizer", choices=TOKENIZERS, help="with --dataset: the tokeniser (default: word)")
    parser.add_argument(
        "--vocab-size",
        metavar="V",
        type=whole(1),
        help="with --dataset: size of the vocabulary (default for word: all words)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    data = _data(args)
    from s4gen.data.text import open_corpus, open_split, prepare_tokenizer
    from s4gen.data.text.prepared import tokenizer_path

    tokenizer = prepare_tokenizer(data.dataset, data.tokenizer, data.vocab_size)
    facts: dict[str, Any] = {"dataset": data.dataset, "tokenizer": tokenizer.kind, "vocab": tokenizer.vocab}
    if tokenizer.kind != "bytes":
        facts["file"] = str(tokenizer_path(open_corpus(data.dataset, "train"), data.tokenizer, data.vocab_size))
    files = {split: open_split(data.dataset, split, tokenizer) for split in SPLITS}
    facts["splits"] = {
        split: {"tokens": len(file), "words": file.words, "bytes": file.text_bytes, "file": str(file.path)}
        for split, file in files.items()
    }
    if args.json:
        print_json(facts)
    else:
        print("\n".join(_table(facts)))
    return 0


def _data(args: argparse.Namespace) -> DataConfig:
    """Return the data that the command line names.

    Raises:
        UserError: the command line names nothing, both a recipe and a data set, or no text.
    """
    if args.recipe is not None:
        given = [name for name in ("dataset", "tokenizer", "vocab_size") if getattr(args, name) is not None]
        if given:
            raise UserError(f"a recipe says which text and tokeniser: leave out --{given[0].replace('_', '-')}")
        data = load_recipe(args.recipe).data
    elif args.dataset is not None:
        data = DataConfig(args.dataset, tokenizer=args.tokenizer or "word", vocab_size=args.vocab_size or 0)
    else:
        raise UserError("tokenize needs a RECIPE or --dataset NAME (see s4gen tokenize -h)")
    if not is_text(data.dataset):
        raise UserError(f"{data.dataset} is not a text, and only texts need a tokeniser; name a text")
    return data


def _table(facts: dict[str, Any]) -> list[str]:
    where = f" ({facts['file']})" if "file" in facts else ""
    lines = [f"tokeniser: {facts['tokenizer']}, {facts['vocab']:,} tokens{where}"]
    for split, found in facts["splits"].items():
        per_word = found["tokens"] / found["words"]
        lines.append(
            f"{split:<10} {found['tokens']:>12,} tokens  {found['words']:>12,} words  {found['bytes']:>14,} bytes  "
            f"{per_word:.3f} tokens/word"
        )
    return lines
