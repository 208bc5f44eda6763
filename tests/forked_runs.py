"""A process that makes runs in children of its own, which begin at once, because torch is loaded already.

It reads requests, one JSON object in each line: the kind of the run, its folder, and whether Ctrl-C is ignored. It
answers each with the number of the child, and later with a line of the child's number and exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import torch
from fault_cases import begin_or_go_on, recipe

from s4gen.errors import UserError
from s4gen.train import run


def make(request: dict[str, object]) -> int:
    """Make the run that is asked for, or go on with it; return the exit code of `s4gen train`."""
    if request["ignored"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = Path(str(request["out"]))
    settings = recipe(str(request["kind"]), steps=12, eval_every=6, save_every=2)
    try:
        if request["again"]:
            begin_or_go_on(settings, out)
            return 0
        return 0 if run(settings, out, progress=False) else 130
    except UserError as error:
        print(f"s4gen: error: {error}", file=sys.stderr)
        return 2


def answer(*words: object) -> None:
    """Write a line in one piece: lines that threads write by `print` at the same moment may fall into one another."""
    os.write(sys.stdout.fileno(), (" ".join(map(str, words)) + "\n").encode())


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = 1
            try:
                code = make(request)
            finally:
                os._exit(code)
        answer(child)

        def wait(child: int = child) -> None:
            _, status = os.waitpid(child, 0)
            answer(child, os.waitstatus_to_exitcode(status))

        threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
