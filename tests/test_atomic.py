"""Whatever interrupts a write, the old content or the new one is there, whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from s4gen.atomic import current, read_consistent, write_atomic, write_file_atomic
from s4gen.errors import UserError


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
    """In a process that the system lets write 4 kB per file, as plain bytes and through torch.save."""
    write_atomic(tmp_path / "x", fill_with("old"))
    program = f"""
import io, resource, torch
from pathlib import Path
from s4gen.atomic import write_atomic, write_file_atomic
from s4gen.errors import UserError
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
from s4gen.atomic import write_atomic
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


def test_what_killed_writers_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, young = tmp_path / ".x.writing-aaaaaaaa", tmp_path / ".x.writing-bbbbbbbb"
    for leftover in (old, young):
        leftover.mkdir()
    os.utime(old, (0, 0))
    write_atomic(tmp_path / "x", fill_with("new"))
    assert not old.exists()
    assert young.exists(), "another process may be writing there"


def test_a_reader_beside_a_busy_writer_never_sees_a_mixture(tmp_path: Path) -> None:
    """Without the checks of `read_consistent` the reader meets mixtures and missing files.

    The two take turns as fast as Python lets them: with its usual turns of 5 ms the writer mostly waits.
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
        for i in range(1, 200):
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
