"""The native engine comes to any machine: the target is right, a compiler is found, and only safe files are loaded."""

from __future__ import annotations

import grp
import os
import platform
import pwd
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from processes import running

from s4gen.cli import main, sample_images, sample_text
from s4gen.compiling import compiler, loading, targets, waiting
from s4gen.compiling.compiler import Compiler, NativeUnavailable, find_compiler
from s4gen.errors import UserError
from s4gen.files.folders import stranger_of
from s4gen.sampling.convert import RecurrentModel
from s4gen.sampling.engines import Engine
from s4gen.sampling.engines.eager import EagerEngine
from s4gen.sampling.engines.native import build
from s4gen.sampling.filters import Filters

try:
    HERE: Compiler | None = find_compiler()
except NativeUnavailable:
    HERE = None

needs_compiler = pytest.mark.skipif(HERE is None, reason="no C++ compiler")
ROOT = Path(__file__).resolve().parents[1]
CPUINFO = """processor\t: 0
model name\t: One
flags\t\t: fpu pni cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx

processor\t: 1
model name\t: Two
flags\t\t: fpu pni cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3
"""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace the engine's source by one that compiles at once, in an empty cache; return its path."""
    source = tmp_path / "source" / "engine.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int s4_open() { return 0; }')
    monkeypatch.setattr(loading, "SOURCE", source)
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "cache"))
    return source


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes s4gen believe in a processor of another kind with the given features."""

    def become(machine: str, *features: str) -> None:
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(targets, "_features", lambda: frozenset(features))

    return become


def fake_compiler(tmp_path: Path, script: str, name: str = "cxx") -> Path:
    """Write an executable Python program that plays the compiler, and return its path."""
    program = tmp_path / name
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}")
    program.chmod(0o755)
    return program


# Targets


def test_an_x86_processor_runs_the_levels_for_which_it_has_everything(processor: Callable[..., None]) -> None:
    processor("x86_64", *targets._V3, "avx512f")
    assert targets.runnable() == ("x86-64-v3", "x86-64-v2")
    assert targets.in_turn("native") == ["native", "x86-64-v3", "x86-64-v2", "baseline"]
    assert targets.in_turn("x86-64-v2") == ["x86-64-v2", "baseline"]
    assert targets.in_turn("baseline") == ["baseline"]
    assert targets.missing("x86-64-v4") == ["avx512bw", "avx512cd", "avx512dq", "avx512vl"]


def test_a_processor_of_which_nothing_is_known_runs_the_baseline(processor: Callable[..., None]) -> None:
    processor("AMD64")
    assert (targets.kind(), targets.runnable()) == ("x86_64", ())
    processor("arm64")
    assert (targets.kind(), targets.runnable()) == ("aarch64", ("armv8-a",))
    processor("riscv64")
    assert (targets.known(), targets.in_turn("native")) == (("native", "baseline"), ["native", "baseline"])


def test_a_feature_that_one_of_the_cores_lacks_is_none() -> None:
    assert "avx" not in targets.features_of_cpuinfo(CPUINFO)
    assert targets.features_of_cpuinfo(CPUINFO) >= targets._V2
    assert targets.features_of_cpuinfo("processor : 0\nBogoMIPS : 50\n") == frozenset()


def test_a_mac_says_the_same_in_other_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = "SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT FMA MOVBE AVX1.0 F16C\nBMI1 AVX2 BMI2\nSYSCALL LAHF LZCNT"
    fake_compiler(tmp_path, f"print({told!r})", "sysctl")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert targets.features_of_a_mac() >= targets._V3
    assert not targets.features_of_a_mac() >= targets._V4
    monkeypatch.setenv("PATH", "")
    assert targets.features_of_a_mac() == frozenset()


@pytest.mark.parametrize(
    ("machine", "target", "message"),
    [
        (
            "x86_64",
            "x86-64-v5",
            "S4GEN_TARGET = 'x86-64-v5' is no target on x86_64; there are native, x86-64-v4, x86-64",
        ),
        ("x86_64", "armv8-a", "S4GEN_TARGET = 'armv8-a' is no target on x86_64; there are native, x86-64-v4"),
        ("aarch64", "x86-64-v3", "S4GEN_TARGET = 'x86-64-v3' is no target on aarch64; there are native, armv8-a, base"),
        ("x86_64", "x86-64-v3", "S4GEN_TARGET = x86-64-v3 needs what this processor lacks (abm avx avx2 bmi1 bmi2 "),
    ],
)
def test_a_target_that_cannot_be_is_one_line(
    machine: str,
    target: str,
    message: str,
    processor: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the check, the first instruction that the processor lacks would end the program without a message."""
    processor(machine, *targets._V2)
    monkeypatch.setenv("S4GEN_TARGET", target)
    assert main(["sample", "mnist-small", "-n", "1", "-o", str(tmp_path / "one.png")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"s4gen: error: {message}") and printed.count("\n") == 1


def test_a_target_can_be_named_in_a_call(processor: Callable[..., None]) -> None:
    processor("x86_64", *targets._V2)
    with pytest.raises(UserError, match=r"^x86-64-v4 needs what .*; choose x86-64-v2$"):
        build.library("x86-64-v4")


@needs_compiler
def test_each_target_has_a_library_of_its_own(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in (*targets.runnable()[-1:], "baseline", "native"):
        monkeypatch.setenv("S4GEN_TARGET", target)
        assert Path(loading.load(targets.wanted())._name).name.startswith(f"engine-{target}-")
    assert len(list(Path(os.environ["S4GEN_CACHE"]).iterdir())) == 3 if targets.runnable() else 2


# Compilers


def test_without_a_compiler_the_reason_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(NativeUnavailable, match=r"no C\+\+ compiler here; .* or pip install ziglang"):
        loading.load(None)


def test_the_compiler_is_cxx_then_the_system_s_then_zig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gxx, own = (fake_compiler(tmp_path, "", name) for name in ("g++", "own"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "own --with words")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang")
    assert find_compiler().command == (str(own), "--with", "words")
    for words in ("own -m ziglang c++", str(fake_compiler(tmp_path, "", "zig")) + " c++"):
        monkeypatch.setenv("CXX", words)
        assert find_compiler().is_zig
    monkeypatch.delenv("CXX")
    assert find_compiler() == Compiler((str(gxx),))
    gxx.unlink()
    assert find_compiler() == Compiler((sys.executable, "-m", "ziglang", "c++"), is_zig=True)


def test_zig_has_its_own_names_for_targets(processor: Callable[..., None]) -> None:
    processor("x86_64", *targets._V4)
    zig, gcc = Compiler(("zig",), is_zig=True), Compiler(("g++",))
    assert gcc.options("x86-64-v3")[0] == "-march=x86-64-v3" and gcc.options("baseline") == []
    assert zig.options("x86-64-v3")[1] == "-mcpu=x86_64_v3" and zig.options("baseline") == ["-s", "-mcpu=baseline"]
    assert zig.options("native") == ["-s", "-mcpu=native", "-mprefer-vector-width=512"]
    processor("aarch64")
    assert gcc.options("armv8-a") == ["-march=armv8-a"] and gcc.options("native") == ["-mcpu=native"]
    assert zig.options("armv8-a") == ["-s", "-mcpu=generic"]


@needs_compiler
def test_a_compiler_that_fails_is_quoted(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-fno-such-flag"))
    with pytest.raises(NativeUnavailable, match="no-such-flag"):
        loading.load(None)
    assert not list((tmp_path / "cache").iterdir())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit('ld: final link failed: No space left on device')", "there is no room on the disk"),
        ("sys.exit('c++: fatal error: Killed signal terminated program cc1plus')", "was killed while it compiled"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed while it compiled"),
    ],
)
def test_a_compiler_that_was_stopped_is_not_asked_for_less(
    script: str, message: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A narrower target would be stopped too, and if it were not, the slower library would be used for ever."""
    count = tmp_path / "calls"
    counting = f"open({str(count)!r}, 'a').write('x' * ('-shared' in sys.argv))\nif '-shared' in sys.argv: "
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, counting + script)))
    with pytest.raises(NativeUnavailable, match=message):
        loading.load(None)
    assert count.read_text() == "x" and not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("command", "message"),
    [("'unbalanced", "CXX = .* is no command: No closing quotation"), ("", "cannot be started: Exec format error")],
)
def test_what_is_no_compiler_is_one_line(
    command: str, message: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "cxx"
    program.write_bytes(b"\x7fELF nothing")
    program.chmod(0o755)
    monkeypatch.setattr(compiler.Compiler, "version", lambda self: "")
    monkeypatch.setenv("CXX", command or str(program))
    with pytest.raises(NativeUnavailable, match=message):
        loading.load(None)


@needs_compiler
def test_what_a_compilation_left_behind_is_removed_after_a_while(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o700)
    old, new = (tmp_path / "cache" / f"engine-unfinished-{name}.so" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    loading.load(None)
    assert not old.exists() and new.exists()


@needs_compiler
def test_a_flag_that_the_compiler_does_not_know_is_left_out_with_one_line(
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Compilers older than the levels' names fail like this, and so do those that know no `native`."""
    assert HERE
    script = (
        "import subprocess\n"
        "if any(word.startswith(('-march=', '-mcpu=')) for word in sys.argv):\n"
        "    sys.exit('cxx: error: that value of -march is unknown')\n"
        f"sys.exit(subprocess.call([*{HERE.command!r}, *sys.argv[1:]]))"
    )
    cxx = fake_compiler(tmp_path, script)
    monkeypatch.setenv("CXX", str(cxx))
    loading.load(None)
    line = (
        f"s4gen: {cxx} failed: cxx: error: that value of -march is unknown; the native engine is compiled for baseline"
    )
    assert capsys.readouterr().err == f"{line} instead\n"
    loading.load(None)
    assert capsys.readouterr().err == ""


def test_waiting_is_said_after_a_while(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    quick, slow = ([sys.executable, "-c", f"import time; time.sleep({t}); print('done')"] for t in (0, 0.3))
    monkeypatch.setattr(waiting, "PATIENCE", 30.0)
    assert waiting.run_visibly(quick, "working ...").stdout == "done\n"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(waiting, "PATIENCE", 0.05)
    assert waiting.run_visibly(slow, "working ...").stdout == "done\n"
    assert capsys.readouterr().err == "working ...\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    waiting.run_visibly(slow, "working ...")
    shown = capsys.readouterr().err
    assert shown.startswith("\rworking ... |\rworking ... /") and shown.endswith("\rworking ... 0 s\n")


# The cache


def test_a_cache_that_cannot_be_written_is_a_reason(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("S4GEN_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(loading, "find_compiler", lambda: Compiler(("no-such-compiler",)))
    with pytest.raises(NativeUnavailable, match="could not be written"):
        loading.load(None)


@needs_compiler
@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o775, "a group")])
def test_no_code_is_run_from_a_folder_that_others_write_to(
    mode: int, who: str, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("s4gen.files.folders._is_private", lambda *_: False)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    with pytest.raises(NativeUnavailable, match=f"not safe to run code from, {who} can write to it; set S4GEN_CACHE"):
        loading.load(None)
    assert not list((tmp_path / "cache").iterdir())


def test_a_group_of_the_user_s_own_is_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Many systems give every user a group of the same name, which may write to all of that user's files."""
    tmp_path.chmod(0o775)
    user = pwd.struct_passwd(("me", "x", os.getuid(), 1, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    for group, members, stranger in (
        ("me", [], ""),
        ("me", ["me"], ""),
        ("me", ["you"], "a group"),
        ("us", [], "a gr"),
    ):
        found = grp.struct_group((group, "x", tmp_path.stat().st_gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, found=found: found)
        assert stranger_of(tmp_path).startswith(stranger) and bool(stranger_of(tmp_path)) == bool(stranger)


@needs_compiler
@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_what_belongs_to_somebody_else_is_not_run(tiny: Path, tmp_path: Path) -> None:
    ours = Path(loading.load(None)._name)
    inode = ours.stat().st_ino
    os.chown(ours, 12345, -1)
    assert Path(loading.load(None)._name) == ours and ours.stat().st_uid == 0 and ours.stat().st_ino != inode
    os.chown(tmp_path / "cache", 12345, -1)
    with pytest.raises(NativeUnavailable, match="not safe to run code from, it belongs to somebody else"):
        loading.load(None)


@needs_compiler
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_damaged_library_is_built_again(kept: float, tiny: Path, tmp_path: Path) -> None:
    """The check runs in another process, because a truncated library may load and then crash whoever calls it."""
    path = Path(loading.load(None)._name)
    whole = path.read_bytes()
    path.unlink()  # this process has it in its memory
    path.write_bytes(whole[: int(kept * len(whole))])
    with start(tiny) as process:
        assert process.communicate()[0] == f"{path}\n"
    assert path.read_bytes() == whole


def test_what_a_killed_build_left_is_removed_and_what_another_has_in_hand_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, folder, young = (tmp_path / f"engine-unfinished-{name}" for name in ("old.so", "zig", "young.so"))
    for path in (old, young):
        path.write_bytes(b"half")
    (folder / "inner").mkdir(parents=True)
    for path in (old, folder):
        os.utime(path, (0, 0))
    monkeypatch.setattr(loading, "compile_library", lambda compiler, source, target, out: out.write_bytes(b"whole"))
    made = loading._made(Compiler(("c++",)), targets.BASELINE, tmp_path, "engine-0")
    assert set(tmp_path.iterdir()) == {young, made}


@needs_compiler
def test_two_processes_that_start_at_once_both_get_a_whole_library(tiny: Path, tmp_path: Path) -> None:
    with start(tiny) as one, start(tiny) as other:
        said = [process.communicate()[0] for process in (one, other)]
    assert said[0] == said[1] and Path(said[0].strip()).parent == tmp_path / "cache"
    assert len(list((tmp_path / "cache").iterdir())) == 1


@needs_compiler
def test_without_a_home_folder_it_is_built_in_a_private_one(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("S4GEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    with start(tiny, HOME=str(tmp_path / "file"), TMPDIR=str(tmp_path)) as process:
        out = Path(process.communicate()[0].strip())
    assert out.parent == tmp_path / f"s4gen-cache-{os.getuid()}" and out.parent.stat().st_mode & 0o777 == 0o700


def start(source: Path, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start a process that loads the library of another source and prints the library's path."""
    script = (
        "from pathlib import Path; from s4gen.compiling import loading; import sys; "
        "loading.SOURCE = Path(sys.argv[1]); print(loading.load(None)._name)"
    )
    command = [sys.executable, "-c", script, str(source)]
    return running(command, env={**os.environ, **environment}, cwd=ROOT)


# Clocks


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (sample_images, ["mnist-small", "-n", "1"]),
        (sample_text, ["wikitext2-small", "--max-tokens", "2"]),
    ],
)
def test_no_clock_runs_while_the_engine_is_made(
    verb: ModuleType, options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events: list[str] = []

    def make(_: str, recurrent: RecurrentModel, filters: Filters, tokens: int) -> Engine:
        events.append("engine")
        return EagerEngine(recurrent, filters)

    def clock() -> float:
        events.append("clock")
        return time.perf_counter()

    monkeypatch.setattr("s4gen.sampling.engines.make_engine", make)
    monkeypatch.setattr(verb, "time", SimpleNamespace(perf_counter=clock))
    name = "out.png" if verb is sample_images else "out.txt"
    assert main(["sample", *options, "-o", str(tmp_path / name)]) == 0
    assert events == ["engine", "clock", "clock"]
