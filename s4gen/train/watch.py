"""Who of the ranks is lost: every rank tells the store each second that it lives, and one that does not ends them all.

A collective operation waits for ever for a rank that hangs. So each rank has a thread that counts its *beats* in the
store of the launcher. Rank 0 looks at the beats of all, the others at that of rank 0, so that a second of many ranks
costs the store a number of requests in proportion to their number. Whoever finds out that a rank is lost says so in one
line, once, and ends its own process; `torchrun` ends the others.

Everything is counted in beats, not in seconds, so that processes which were all stopped and go on do not miss anyone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

TIMEOUT = "S4GEN_RANK_TIMEOUT"
"""The environment variable that says after how many seconds without a sign of life a rank is lost."""
DEFAULT_TIMEOUT = 30.0
_PATIENCE = 15
"""A rank that lives, and whose step takes so many times the timeout, hangs all the same."""
_SOON = 6
"""Beats that a rank may miss once a message between the ranks has failed, so that one of them is known to be lost."""
_LOST = 2
"""The exit code: the user can go on from the last checkpoint."""


class Watch:
    """The beats of this rank, and an eye on the others'."""

    def __init__(self, rank: int, world: int, connect: Callable[[], Store], timeout: float) -> None:
        """`connect` makes a connection to the store for this object alone, since one that waits blocks its other users.

        `timeout` is in seconds.
        """
        self._rank, self._world, self._store, self._timeout = rank, world, connect(), timeout
        self._interval = min(1.0, timeout / 8)
        self._limit = timeout / self._interval
        self.step, self._apart, self._beats, self._resume = 0, True, 0, ""
        self._silent = 0  # beats since the store has answered last
        self._since_step = 0
        self._seen: dict[int, tuple[dict[str, Any], int]] = {}  # a rank's last beat, and how long ago, in own beats
        self._saving, self._stopped = threading.RLock(), threading.Event()
        self._asked = self._failing = self._ended = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._listen)]

    def start(self) -> None:
        """Begin to beat and to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the watch; the others see that this rank has ended by itself."""
        self._ended = True
        with contextlib.suppress(RuntimeError):  # the store may be gone, because the launcher ends
            self._tell()
        self._stopped.set()

    def reached(self, step: int) -> None:
        """Take note of the number of steps that this rank has done."""
        self.step, self._since_step, self._apart = step, 0, False

    def goes_on(self, command: str) -> None:
        """Take note of the command by which the run can go on, for the line about a lost rank."""
        self._resume = command

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Mark work other than steps, which may take longer; as long as the process beats, nobody ends it."""
        self._apart = True
        try:
            yield
        finally:
            self._apart, self._since_step = False, 0

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Hold back the end of this process, for `timeout` seconds at most."""
        with self._saving:
            yield

    def fail(self, code: int) -> bool:
        """Tell the others that this rank ends with an error; returns whether it is the first one, which says why."""
        self._failing = True
        first = self._first(code)
        self._stopped.set()
        return first

    def judge(self, error: Exception) -> None:
        """Wait a while for the watch to find out which rank is lost; it then ends this process, and this never returns.

        Does nothing where the error is not that a message between the ranks has failed.
        """
        if self._asked or not _is_between_ranks(error):
            return
        self._asked = True
        time.sleep((_SOON + 10) * self._interval)

    def _first(self, code: int) -> bool:
        """Let all ranks end with this code; returns whether no other rank has asked for that before."""
        try:
            first = self._store.add("said", 1) == 1
            if first:
                self._store.set("failed", str(code))
            return first
        except RuntimeError:  # there is no store any more, so that nobody else can say it
            return True

    def _beat(self) -> None:
        while not self._stopped.wait(self._interval):
            self._beats += 1
            self._since_step += 1
            try:
                self._tell()
                failed = int(self._store.get("failed")) if self._store.check(["failed"]) else None
                self._look()
            except RuntimeError:
                continue
            self._silent = 0
            if self._failing or self._ended:
                continue
            if failed is not None:
                self._end("", failed)
            self._judge_others()

    def _tell(self) -> None:
        beat = {"n": self._beats, "step": self.step, "apart": self._apart, "ended": self._ended}
        place = {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname(), "machine": _machine()}
        self._store.set(f"beat/{self._rank}", json.dumps(beat | place))

    def _look(self) -> None:
        others = [r for r in (range(self._world) if self._rank == 0 else (0,)) if r != self._rank]
        names = [f"beat/{rank}" for rank in others]
        for rank, name in zip(others, names, strict=True):
            if rank not in self._seen and not self._store.check([name]):
                names.remove(name)
        found = self._store.multi_get(names) if names else []
        for name, text in zip(names, found, strict=True):
            rank, beat = int(name.removeprefix("beat/")), json.loads(text)
            known = self._seen.get(rank)
            fresh = known is None or known[0]["n"] != beat["n"] or beat["ended"]
            self._seen[rank] = (beat, 0 if fresh else known[1] + 1)  # type: ignore[index]

    def _judge_others(self) -> None:
        for rank, (beat, age) in self._seen.items():
            if beat["ended"]:
                continue
            here = beat["machine"] == _machine()
            if here and age > 1 and _has_ended(beat["pid"]):
                self._lost(rank, beat, "has ended without a word, as a killed process does")
            if age > (min(self._limit, _SOON) if self._asked else self._limit):
                self._lost(rank, beat, f"has not answered for {age * self._interval:.0f} s", here)
        if self._rank == 0 and not self._apart and self._since_step > _PATIENCE * self._limit:
            behind = min((beat["step"], rank) for rank, (beat, _) in self._seen.items())
            if behind[0] <= self.step and not self._seen[behind[1]][0]["apart"]:
                seconds = _PATIENCE * self._timeout
                self._lost(behind[1], self._seen[behind[1]][0], f"has not ended its step in {seconds:.0f} s")

    def _lost(self, rank: int, beat: dict[str, Any], what: str, hangs_here: bool = False) -> NoReturn:
        if hangs_here and beat["parent"] == os.getppid():
            # torchrun asks a process politely to end, which one that is stopped does not hear for 30 seconds.
            with contextlib.suppress(OSError):
                os.kill(beat["pid"], signal.SIGKILL)
        step = max(self.step, beat["step"])
        where = f"rank {rank} (process {beat['pid']} on {beat['host']})"
        self._end(f"{where} {what}: it had done {beat['step']} steps, and step {step + 1} waits for it", _LOST)

    def _listen(self) -> None:
        """End this process when the store, by which all ranks know of each other, is out of reach."""
        while not self._stopped.wait(self._interval):
            self._silent += 1
            if self._silent > self._limit + 1:
                message = (
                    f"rank {self._rank} on {socket.gethostname()} has had no contact with the launcher of rank 0 for "
                    f"{self._timeout:.0f} s: the network is cut, or that host is down"
                )
                self._end(message, _LOST, alone=True)

    def _end(self, message: str, code: int, alone: bool = False) -> NoReturn:
        """Say why the run ends, if no other rank has said it, and end this process, whatever it waits for."""
        held = self._saving.acquire(timeout=self._timeout)
        if message and (alone or self._first(code)):
            more = f"; {self._resume}" if self._resume else ""
            with contextlib.suppress(OSError):
                print(f"\ns4gen: error: {message}{more}", file=sys.stderr, flush=True)
        del held
        os._exit(code)


def _is_between_ranks(error: Exception) -> bool:
    """Whether a message between the ranks has failed. Gloo and NCCL say so by errors of several types."""
    words = ("gloo", "nccl", "connection", "process group", "collective")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _machine() -> str:
    """Something that two processes have in common if they can see each other's process numbers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return socket.gethostname()


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return Path("/proc/self/stat").exists()
    except OSError:
        return False
