"""Whatever interrupts a write, either the old content or the new one is there, complete."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import dies, points

from s4gen.cli.output import check_file
from s4gen.data.audio.write import AudioWriter
from s4gen.errors import UserError, WriteError
from s4gen.files.atomic import current, discard, read_consistent, recover, write_atomic, write_file_atomic
from s4gen.files.unfinished import remove_leftovers, unfinished


def fill_with(text: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "a").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "b").write_text(text)

    return fill


def fill_half_then(error: BaseException) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "a").write_text("half")
        raise error

    return fill


def content(path: Path) -> tuple[str, str]:
    return (path / "a").read_text(), (path / "inner" / "b").read_text()


def test_a_directory_is_made_with_its_parents_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y"
    write_atomic(path, fill_with("old"))
    (path / "extra").write_text("of the old one")
    write_atomic(path, fill_with("new"))
    assert content(path) == ("new", "new")
    assert sorted(os.listdir(path)) == ["a", "inner"]
    assert os.listdir(path.parent) == ["y"]


def test_a_link_to_a_directory_goes_on_pointing_at_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "real", fill_with("old"))
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", fill_with("new"))
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == ("new", "new")


def test_nothing_is_written_through_a_link_to_nothing(tmp_path: Path) -> None:
    """As with cp: who planted the link would choose where a file appears."""
    (tmp_path / "link").symlink_to(tmp_path / "planted")
    for write in (lambda path: write_file_atomic(path, b"x"), lambda path: write_atomic(path, fill_with("x"))):
        with pytest.raises(WriteError, match=r"is a link to .*planted, which does not exist"):
            write(tmp_path / "link")
    with pytest.raises(UserError, match="is a link to"):
        check_file(tmp_path / "link", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_device_or_a_pipe_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    """Root may rename over anything: /dev/null would become a file, and every program that uses it would fail."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "link.wav").symlink_to("pipe.wav")
    writers = (
        lambda path: write_file_atomic(path, b"x"),
        lambda path: write_atomic(path, fill_with("x")),
        lambda path: AudioWriter(path, 8000),
    )
    for write in writers:
        for name in ("pipe.wav", "link.wav"):
            with pytest.raises(UserError, match=r"\.wav is neither a file nor a folder"):
                write(tmp_path / name)
    assert (tmp_path / "pipe.wav").is_fifo() and sorted(os.listdir(tmp_path)) == ["link.wav", "pipe.wav"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug"), SystemExit(1)])
@pytest.mark.parametrize("existing", [True, False])
def test_any_failure_leaves_the_old_directory_and_nothing_else(
    error: BaseException, existing: bool, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if existing:
        write_atomic(path, fill_with("old"))
    with pytest.raises(type(error)):
        write_atomic(path, fill_half_then(error))
    assert os.listdir(tmp_path) == (["x"] if existing else [])
    assert not existing or content(path) == ("old", "old")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_the_old_directory_stays(code: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    full = OSError(code, os.strerror(code))
    with pytest.raises(UserError, match=r"^disk full while writing .*x: free some space .*nothing was left"):
        write_atomic(path, fill_half_then(full))
    assert os.listdir(tmp_path) == []
    write_atomic(path, fill_with("old"))
    with pytest.raises(UserError, match=r"^disk full .*; the previous checkpoint is untouched$"):
        write_atomic(path, fill_half_then(full))
    assert os.listdir(tmp_path) == ["x"]
    assert content(path) == ("old", "old")


def test_a_disk_that_fills_up_when_syncing_counts_as_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems report a full disk or quota only when the data leave the cache."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomic(tmp_path / "x", fill_with("old"))
    monkeypatch.setattr(os, "fsync", fsync)
    for write in (
        lambda: write_atomic(tmp_path / "x", fill_with("new")),
        lambda: write_file_atomic(tmp_path / "x" / "a", b"new"),
    ):
        with pytest.raises(UserError, match="disk full"):
            write()
        assert content(tmp_path / "x") == ("old", "old")


def test_a_write_that_really_runs_out_of_room_leaves_the_old_content(tmp_path: Path) -> None:
    """The system lets the process write 4 kB per file; it writes plain bytes, and through torch.save."""
    write_atomic(tmp_path / "x", fill_with("old"))
    program = f"""
import io, resource, torch
from pathlib import Path
from s4gen.files.atomic import write_atomic, write_file_atomic
from s4gen.cli.output import check_file
from s4gen.errors import UserError, WriteError
from s4gen.files.unfinished import remove_leftovers, unfinished
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
path = Path({str(tmp_path / "x")!r})
def torch_fill(folder):
    with open(folder / "state.pt", "wb") as file:
        torch.save(dict(a=torch.zeros(9999)), file)
for write in (
    lambda: write_atomic(path, lambda folder: (folder / "a").write_bytes(bytes(9999)) and None),
    lambda: write_atomic(path, torch_fill),
    lambda: write_file_atomic(path / "a", bytes(9999)),
):
    try:
        write()
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    messages = done.stdout.splitlines()
    assert [message.split()[:2] for message in messages] == [["disk", "full"]] * 3, done
    assert content(tmp_path / "x") == ("old", "old")
    assert os.listdir(tmp_path) == ["x"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for write in (
        lambda: write_atomic(tmp_path / "file" / "x", fill_with("new")),
        lambda: write_file_atomic(tmp_path / "file" / "x", b"new"),
    ):
        with pytest.raises(UserError, match=r"^cannot write .*x: "):
            write()


def test_a_failed_second_rename_brings_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_atomic(path, fill_with("old"))
    rename, calls = os.rename, []

    def failing(source: Path, target: Path) -> None:
        calls.append((source, target))
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, fill_with("new"))
    assert len(calls) == 3
    assert os.listdir(tmp_path) == ["x"]
    assert content(path) == ("old", "old")


def test_a_process_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, fill_with("old"))
    program = f"""
import os
from pathlib import Path
from s4gen.files.atomic import write_atomic
rename = os.rename
def killed(source, target):
    rename(source, target)
    os._exit(9)
os.rename = killed
write_atomic({str(path)!r}, lambda folder: (folder / "a").write_text("new") and None)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 9
    assert not path.exists()
    found = current(path)
    assert found is not None
    assert content(found) == ("old", "old")
    write_atomic(path, fill_with("newer"))
    assert current(path) == path
    assert content(path) == ("newer", "newer")
    assert not found.exists()


@pytest.mark.parametrize("folder", [True, False])
def test_what_killed_writers_left_is_removed_and_what_live_ones_have_in_hand_is_not(
    folder: bool, tmp_path: Path
) -> None:
    dead, other = tmp_path / ".x.writing-aaaaaaaa", tmp_path / ".y.writing-bbbbbbbb"
    for leftover in (dead, other):
        leftover.mkdir()
    with unfinished(tmp_path / "x", folder) as live:
        assert not dead.exists()
        assert other.exists(), "it is of something else"
        if folder:
            write_atomic(tmp_path / "x", fill_with("new"))
        else:
            write_file_atomic(tmp_path / "x", b"new")
        assert live.exists()
    assert not live.exists()


def test_a_writer_whose_beginning_was_taken_for_a_leftover_begins_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may tidy up after the new directory is made and before it is locked."""
    path, made = tmp_path / "x", []
    mkdir = os.mkdir

    def tidied(name: str | Path, *arguments: Any, **settings: Any) -> None:
        mkdir(name, *arguments, **settings)
        made.append(name)
        if len(made) == 1:
            remove_leftovers(path)

    monkeypatch.setattr(os, "mkdir", tidied)
    write_atomic(path, fill_with("new"))
    assert sum(Path(name).parent == tmp_path for name in made) == 2
    assert content(path) == ("new", "new")
    assert os.listdir(tmp_path) == ["x"]


def test_a_reader_beside_a_busy_writer_never_sees_a_mixture(tmp_path: Path) -> None:
    """Without the checks in `read_consistent` the reader would meet mixtures and missing files.

    Reader and writer take turns as fast as Python lets them; with the usual 5 ms the writer would mostly wait.
    """
    path = tmp_path / "x"
    write_atomic(path, fill_with("0"))
    done = threading.Event()
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add(read_consistent(path, content))

    reader = threading.Thread(target=read)
    turn = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    reader.start()
    try:
        for i in range(1, 60):
            write_atomic(path, fill_with(str(i)))
    finally:
        done.set()
        reader.join()
        sys.setswitchinterval(turn)
    assert len(seen) > 1
    assert all(a == b for a, b in seen), seen


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_consistent(tmp_path / "x", content)
    (tmp_path / "x").mkdir()
    with pytest.raises(FileNotFoundError):
        read_consistent(tmp_path / "x", content)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x"
    write_file_atomic(path, b"old")
    write_file_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["x"]


def test_wherever_a_writer_dies_the_old_directory_or_the_new_one_is_there_and_the_next_tidies_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "0" / "x"
    write_atomic(path, fill_with("old"))
    places = points(tmp_path, lambda: write_atomic(path, fill_with("new")))
    assert {name for _, name, _ in places} >= {"mkdir", "write", "fsync", "rename", "unlink", "rmdir"}
    for i, (at, name, when) in enumerate(places, 1):
        path = tmp_path / str(i) / "x"
        write_atomic(path, fill_with("old"))
        dies(tmp_path, at, when, lambda path=path: write_atomic(path, fill_with("new")))  # type: ignore[misc]
        assert read_consistent(path, content) in (("old", "old"), ("new", "new")), (at, name, when)
        found = read_consistent(path, content)
        recover(path)
        assert content(path) == found, (at, name, when)
        write_atomic(path, fill_with("newer"))
        assert os.listdir(path.parent) == ["x"], (at, name, when)
        assert content(path) == ("newer", "newer")


def test_wherever_a_writer_of_a_file_dies_the_old_one_or_the_new_one_is_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_file_atomic(path, b"old")
    for at, name, when in points(tmp_path, lambda: write_file_atomic(path, b"new")):
        write_file_atomic(path, b"old")
        dies(tmp_path, at, when, lambda: write_file_atomic(path, b"new"))
        assert path.read_bytes() in (b"old", b"new"), (at, name, when)
    write_file_atomic(path, b"newer")
    assert os.listdir(tmp_path) == ["x"]


def test_what_is_discarded_is_gone_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, fill_with("old"))
    for at, name, when in points(tmp_path, lambda: discard(path)):
        write_atomic(path, fill_with("old"))
        dies(tmp_path, at, when, lambda: discard(path))
        assert not path.exists() or content(path) == ("old", "old"), (at, name, when)
    recover(path)
    assert set(os.listdir(tmp_path)) <= {"x"}
