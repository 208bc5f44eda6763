"""For every processor that can be tried here the engine draws the eager one's tokens, from source and from a wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from engines import model_of

from s4gen.compiling import targets
from s4gen.compiling.compiler import FLAGS, SOURCE, NativeUnavailable, find_compiler
from s4gen.compiling.shipping import tag_of
from s4gen.sampling.convert import RecurrentModel, convert
from s4gen.sampling.engines import make_engine
from s4gen.sampling.engines.native import NativeEngine, NativeSession
from s4gen.sampling.engines.native.pack import WEIGHTS, pack
from s4gen.sampling.filters import KEEP_ALL, Filters
from s4gen.sampling.flatten import flatten

try:
    find_compiler()
except NativeUnavailable:
    pytest.skip("no C++ compiler", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # each of them compiles the engine
ROOT = Path(__file__).resolve().parents[1]
MODELS = ("s4d", "s4", "h3", "sashimi", "pixels", "pixels, channels")
HERE = [*targets.runnable(), targets.BASELINE]
ROWS, STEPS = 5, 24
DRIVER_FILTERS = (Filters(), Filters(temperature=0.7, top_k=2, top_p=0.9, min_p=0.01), Filters(temperature=0))
"""Those of native_driver.cpp, in its order; it draws `DRIVER_STEPS` tokens with each."""
DRIVER_STEPS = 5


def recurrent_of(name: str) -> RecurrentModel:
    return convert(model_of(name))


def drawn_by(recurrent: RecurrentModel, engine: str = "eager") -> torch.Tensor:
    """The tokens of ROWS sequences, (ROWS, STEPS)."""
    u = torch.rand(ROWS, STEPS, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    session = make_engine(engine, recurrent).begin(recurrent.initial_state(ROWS))
    return session.advance(torch.full((ROWS,), recurrent.bos), u)


@pytest.mark.parametrize("target", HERE)
def test_every_target_draws_the_eager_engine_s_tokens(target: str) -> None:
    u = torch.rand(ROWS, STEPS, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        for name in MODELS:
            recurrent = recurrent_of(name)
            bos, state = torch.full((ROWS,), recurrent.bos), recurrent.initial_state(ROWS)
            engine = NativeEngine(recurrent, KEEP_ALL, target=target)
            for lanes in (0, 8, 16, 32):
                assert torch.equal(NativeSession(engine, state, lanes).advance(bos, u), drawn_by(recurrent)), name
            for weights in WEIGHTS[1:]:
                small = NativeEngine(recurrent, KEEP_ALL, weights, target)
                one, many = (NativeSession(small, state, lanes).advance(bos, u) for lanes in (0, 8))
                assert torch.equal(one, many), name


def driver_s(recurrent: RecurrentModel) -> list[int]:
    """What native_driver.cpp prints of each of its forms, by the eager engine: the last token with each filter."""
    state, last = recurrent.initial_state(ROWS), []
    u = torch.full((ROWS, DRIVER_STEPS), 0.37, dtype=torch.float64)
    for filters in DRIVER_FILTERS:
        session = make_engine("eager", recurrent, filters).begin(state)
        last.append(int(session.advance(torch.full((ROWS,), recurrent.bos), u)[-1, -1]))
        state = session.state()
    return last


def test_on_arm_it_draws_the_eager_engine_s_tokens(tmp_path: Path) -> None:
    """In an emulator, all forms and numbers of threads."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if not compiler or not emulator:
        pytest.skip("neither cross-compiler nor emulator for ARM: g++-aarch64-linux-gnu and qemu-user-static")
    program, source = tmp_path / "driver", Path(__file__).with_name("native_driver.cpp")
    options = [*FLAGS, "-march=armv8-a", "-static", f"-I{SOURCE.parent}"]
    subprocess.run([compiler, *options, str(source), "-o", str(program)], check=True)
    with torch.inference_mode():
        for name in MODELS:
            recurrent = recurrent_of(name)
            (tmp_path / "plan").write_bytes(pack(flatten(recurrent)).numpy().tobytes())
            done = subprocess.run([emulator, program, tmp_path / "plan", "0"], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            forms = [int(token) for token in done.stdout.splitlines()[0].split()]
            assert forms == driver_s(recurrent) * 12, name


SAMPLE = """
import torch
from s4gen.sampling.converted import load_recurrent
from s4gen.sampling.generate import generate
from s4gen.sampling.engines import make_engine
recurrent = load_recurrent("mnist-small")
runner = make_engine("native", recurrent)
print(runner.name, *(generate(recurrent, 1, seed=3, engine=engine).sum().item() for engine in (runner, "eager")))
print(runner._native._name)
"""


def sample(site: Path, cache: Path, **environment: str) -> tuple[str, str, str]:
    """The engine's name and the sums of its tokens and the eager one's, its library, and what was said."""
    nothing = cache / "nothing"
    nothing.mkdir(parents=True)
    known = {"PATH": str(nothing), "PYTHONPATH": str(site), "S4GEN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAMPLE]
    done = subprocess.run(command, env={**known, **environment}, cwd=cache, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens, library = done.stdout.splitlines()
    return tokens, library, done.stderr


def test_a_wheel_needs_no_compiler_where_it_is_installed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    libraries = sorted((site / "s4gen" / "_engine").iterdir())
    assert len(libraries) == len(targets.levels()) and f"-{tag_of(libraries)}." in wheel.name
    for asked in ("", "native"):
        tokens, library, said = sample(site, tmp_path / f"cache{asked}", S4GEN_TARGET=asked)
        name, native, eager = tokens.split()
        assert (name, native) == ("native", eager)
        assert Path(library).parent == site / "s4gen" / "_engine" and f"-{targets.runnable()[0]}-" in library
        assert said.count("\n") == bool(asked)
    assert said.endswith("going on with the native engine that came with s4gen\n")


def test_ziglang_is_a_compiler_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        import ziglang
    except ImportError:
        pytest.skip("ziglang is not installed")
    assert ziglang
    tokens, library, _ = sample(ROOT, tmp_path / "cache")
    name, native, eager = tokens.split()
    assert (name, native) == ("native", eager) and Path(library).parent == tmp_path / "cache"
