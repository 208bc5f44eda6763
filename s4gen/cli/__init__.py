"""The command line: `s4gen VERB ...`, one module for each verb.

The modules of the verbs import nothing heavy before `run`, so that `-h` answers at once.
What the exit codes mean is said in README.md.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

from s4gen import __version__
from s4gen.cli import (
    bench,
    cache,
    completion,
    compress,
    convert,
    decompress,
    demo,
    evaluate,
    export,
    import_,
    info,
    merge,
    predict,
    report,
    sample,
    score,
    serve,
    tokenize,
    train,
)
from s4gen.cli.parser import Parser, examples
from s4gen.cli.process import Interrupts, flush_output, forget, prepare_streams, watched_interrupts
from s4gen.errors import UserError
from s4gen.files.folders import says_why

VERBS = {
    "demo": demo,
    "tokenize": tokenize,
    "train": train,
    "eval": evaluate,
    "score": score,
    "convert": convert,
    "import": import_,
    "export": export,
    "sample": sample,
    "merge": merge,
    "predict": predict,
    "compress": compress,
    "decompress": decompress,
    "serve": serve,
    "bench": bench,
    "info": info,
    "report": report,
    "cache": cache,
    "completion": completion,
}


def make_parser() -> Parser:
    """Return the parser of the whole command line; what it parses has the verb's function as attribute `run`.

    The attribute `parser` is the parser of the verb, and `program` that of the whole command line.
    """
    parser = Parser(
        prog="s4gen",
        description="Density models of images, text and sound from state space layers: train by convolution, sample by "
        "recurrence.",
        epilog="A path or a shipped name is accepted wherever a recipe, preset or checkpoint is expected.\n\n"
        + examples([module.EXAMPLES[0] for module in VERBS.values()]),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"s4gen {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, module in VERBS.items():
        verb = verbs.add_parser(name, help=module.SUMMARY, description=module.SUMMARY, allow_abbrev=False)
        module.add_arguments(verb)
        verb.epilog = "\n\n".join([*([verb.epilog] if verb.epilog else []), examples(module.EXAMPLES)])
        verb.set_defaults(run=module.run, parser=verb, program=parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command (default: that of `sys.argv`) and return its exit code."""
    prepare_streams()
    try:
        with watched_interrupts() as interrupts:
            code = _run(argv, interrupts)
        lost = flush_output()
    except BrokenPipeError:
        # The reader, such as `head`, has had enough.
        forget(sys.stdout)
        return 141
    except KeyboardInterrupt:  # pressed while something else was being reported
        return _interrupted()
    return code if lost is None or code else _report(_output_lost(lost))


def _run(argv: Sequence[str] | None, interrupts: Interrupts) -> int:
    try:
        args = make_parser().parse_args(argv)
        code: int = args.run(args)
    except UserError as error:
        return _report(str(error))
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        raise
    except SystemExit as done:  # argparse ends -h and --version this way
        return int(done.code or 0)
    except Exception as error:
        if interrupts.seen:
            return _interrupted()
        if isinstance(error, OSError) and error.errno is not None:
            lost = flush_output()
            return _report(says_why(error) if lost is None else _output_lost(lost))
        if _is_out_of_memory(error):
            return _report("out of memory: choose a smaller batch, fewer images or a smaller model")
        traceback.print_exc()
        return 1
    return code


def _interrupted() -> int:
    print("s4gen: interrupted", file=sys.stderr)
    return 130


def _output_lost(error: OSError) -> str:
    return f"standard output cannot be written to ({error.strerror}), so the result is lost; send it elsewhere"


def _report(message: str) -> int:
    try:
        print(f"s4gen: error: {message}", file=sys.stderr, flush=True)
    except OSError:  # standard error is full: the exit code has to do
        forget(sys.stderr)
    return 2


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out; torch says so on a CPU by a plain RuntimeError."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
