"""Commands of a user who is not root and has no home folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PROGRAM = """
import contextlib, importlib, io, json, os, pkgutil, sys
import s4gen
for module in pkgutil.walk_packages(s4gen.__path__, "s4gen."):  # nobody may not read every Python
    program = module.name.endswith("__main__") or ".exporting.run_" in module.name
    if not program and ".examples" not in module.name:
        importlib.import_module(module.name)
import PIL.Image, soundfile, soxr, tqdm, tokenizers, torch._dynamo
PIL.Image.init()
"".encode("utf-8-sig")
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
from s4gen.cli import main
found = []
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = main(command.split())
    found.append((code, said.getvalue()))
print(json.dumps(found))
"""


def as_nobody(commands: Sequence[str], folder: Path, **environment: str) -> list[tuple[int, str]]:
    """Exit code and standard error of each command, given in `folder`."""
    package = Path(__file__).resolve().parent.parent
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    known |= {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(commands))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**known, **environment})
    assert done.returncode == 0, done.stderr
    return [tuple(pair) for pair in json.loads(done.stdout)]
