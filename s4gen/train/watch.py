"""Find out which rank is lost. Each rank reports every second that it is alive; if one does not, all ranks end.

A collective operation waits for ever for a rank that hangs. So each rank has a thread that counts its *beats* in the
launcher's store. Rank 0 reads the beats of all ranks, and the others read that of rank 0, so the number of requests
grows only in proportion to the number of ranks. The rank that finds out that another one is lost prints one line and
ends its own process; `torchrun` then ends the others.

Everything is counted in beats, not in seconds. If all processes are stopped for a while and continued, none is lost.
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
"""The environment variable that sets after how many seconds without a sign of life a rank counts as lost."""
DEFAULT_TIMEOUT = 30.0
_PATIENCE = 15
"""A rank that beats also counts as lost if a step takes this many times the timeout: its main thread hangs."""
_SOON = 6
"""How many beats a rank may miss once a message between ranks has failed: few, since then some rank is lost."""
_LOST = 2
"""The exit code of a run that lost a rank, as of any error that the user can act on."""


class Watch:
    """A watch that beats for this rank and watches the beats of others, in two threads."""

    def __init__(self, rank: int, world: int, connect: Callable[[], Store], timeout: float) -> None:
        """Prepare the watch of `rank` among `world` ranks.

        Args:
            rank: this rank.
            world: the number of ranks.
            connect: opens a connection to the store for the watch alone, because a connection that waits for an answer
                blocks everyone else who uses it.
            timeout: seconds without a sign of life after which a rank is lost.
        """
        self._rank, self._world, self._store, self._timeout = rank, world, connect(), timeout
        self._interval = min(1.0, timeout / 8)
        self._limit = timeout / self._interval
        self.step, self._apart, self._beats, self._resume = 0, True, 0, ""
        self._silent = 0  # beats since the last answer of the store
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
        """End the watch, after telling the others that this rank has ended by itself."""
        self._ended = True
        with contextlib.suppress(RuntimeError):  # the launcher, and the store with it, may be gone
            self._tell()
        self._stopped.set()

    def reached(self, step: int) -> None:
        """Record how many steps this rank has done, and that it is in the loop."""
        self.step, self._since_step, self._apart = step, 0, False

    def goes_on(self, command: str) -> None:
        """Record how the run can be resumed, for the line about a lost rank."""
        self._resume = command

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Mark work inside the block that is no step and may take any time, as long as this rank beats."""
        self._apart = True
        try:
            yield
        finally:
            self._apart, self._since_step = False, 0

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Delay the end of this process until after the block, by at most `timeout` seconds."""
        with self._saving:
            yield

    def fail(self, code: int) -> bool:
        """Tell the others that this rank ends with an error; return whether it is the first, which may print why."""
        self._failing = True
        first = self._first(code)
        self._stopped.set()
        return first

    def judge(self, error: Exception) -> None:
        """Wait for the watch to find out which rank is lost. It then ends this process, and this does not return.

        It does nothing if the error is not a failed message between ranks, and returns if no rank turns out to be lost.
        """
        if self._asked or not _is_between_ranks(error):
            return
        self._asked = True
        time.sleep((_SOON + 10) * self._interval)

    def _first(self, code: int) -> bool:
        """Ask all ranks to end with this exit code; return whether no other rank has asked before."""
        try:
            first = self._store.add("said", 1) == 1  # atomic: exactly one rank gets 1
            if first:
                self._store.set("failed", str(code))
            return first
        except RuntimeError:  # the store is gone, so no other rank can have said it
            return True

    def _beat(self) -> None:
        """Beat, read the others' beats and judge them, once in each interval; this is a thread of its own."""
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
        """Write this rank's beat to the store, with all that a message about it needs if it is lost."""
        beat = {"n": self._beats, "step": self.step, "apart": self._apart, "ended": self._ended}
        place = {"pid": os.getpid(), "parent": os.getppid(), "host": socket.gethostname(), "machine": _machine()}
        self._store.set(f"beat/{self._rank}", json.dumps(beat | place))

    def _look(self) -> None:
        """Read the beats of the ranks that this one watches, and count for how many own beats each has not changed."""
        others = [r for r in (range(self._world) if self._rank == 0 else (0,)) if r != self._rank]
        names = [f"beat/{rank}" for rank in others]
        for rank, name in zip(others, names, strict=True):
            if rank not in self._seen and not self._store.check([name]):
                names.remove(name)
        # Above, ranks that have not beaten yet are left out, because this waits for keys that are not there.
        found = self._store.multi_get(names) if names else []
        for name, text in zip(names, found, strict=True):
            rank, beat = int(name.removeprefix("beat/")), json.loads(text)
            known = self._seen.get(rank)
            fresh = known is None or known[0]["n"] != beat["n"] or beat["ended"]
            self._seen[rank] = (beat, 0 if fresh else known[1] + 1)  # type: ignore[index]

    def _judge_others(self) -> None:
        """End this process if a rank that it watches has ended, is silent for too long, or hangs in a step."""
        for rank, (beat, age) in self._seen.items():
            if beat["ended"]:
                continue
            here = beat["machine"] == _machine()
            # Wait two beats before the process is looked for. A rank that ends in order says so in its last beat, which
            # may not have been read yet.
            if here and age > 1 and _has_ended(beat["pid"]):
                self._lost(rank, beat, "has ended without a word, as a killed process does")
            if age > (min(self._limit, _SOON) if self._asked else self._limit):
                self._lost(rank, beat, f"has not answered for {age * self._interval:.0f} s", here)
        if self._rank == 0 and not self._apart and self._since_step > _PATIENCE * self._limit:
            # All ranks wait for the one that is furthest behind.
            behind = min((beat["step"], rank) for rank, (beat, _) in self._seen.items())
            if behind[0] <= self.step and not self._seen[behind[1]][0]["apart"]:
                seconds = _PATIENCE * self._timeout
                self._lost(behind[1], self._seen[behind[1]][0], f"has not ended its step in {seconds:.0f} s")

    def _lost(self, rank: int, beat: dict[str, Any], what: str, hangs_here: bool = False) -> NoReturn:
        """Say which rank is lost and `what` it did, and end this process; kill one that hangs on this host."""
        if hangs_here and beat["parent"] == os.getppid():
            # torchrun sends SIGTERM, which a stopped process does not get, and kills it only 30 seconds later.
            with contextlib.suppress(OSError):
                os.kill(beat["pid"], signal.SIGKILL)
        step = max(self.step, beat["step"])
        where = f"rank {rank} (process {beat['pid']} on {beat['host']})"
        done = f"{beat['step']} step{'' if beat['step'] == 1 else 's'}"
        self._end(f"{where} {what}: it had done {done}, and step {step + 1} waits for it", _LOST)

    def _listen(self) -> None:
        """End this process when the store does not answer for `timeout` seconds; this is a thread of its own.

        `_beat` cannot do it, because a request to a store out of reach may never return.
        """
        while not self._stopped.wait(self._interval):
            self._silent += 1
            if self._silent > self._limit + 1:
                message = (
                    f"rank {self._rank} on {socket.gethostname()} has had no contact with the launcher of rank 0 for "
                    f"{self._timeout:.0f} s: the network is cut, or that host is down"
                )
                self._end(message, _LOST, alone=True)

    def _end(self, message: str, code: int, alone: bool = False) -> NoReturn:
        """Print why the run ends, unless another rank has, and end this process, whatever its main thread waits for."""
        held = self._saving.acquire(timeout=self._timeout)
        if message and (alone or self._first(code)):
            more = f"; {self._resume}" if self._resume else ""
            with contextlib.suppress(OSError):
                print(f"\ns4gen: error: {message}{more}", file=sys.stderr, flush=True)
        del held
        os._exit(code)  # `sys.exit` would end only this thread, and leave the main thread in its collective operation


def _is_between_ranks(error: Exception) -> bool:
    """Return whether an error is a failed message between ranks. Gloo and NCCL raise errors of several types for it."""
    words = ("gloo", "nccl", "connection", "process group", "collective")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _machine() -> str:
    """Return a name that two processes share exactly if they can see each other's process numbers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return socket.gethostname()


def _has_ended(pid: int) -> bool:
    """Return whether a process of this machine is gone or a zombie; False where there is no /proc to tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return Path("/proc/self/stat").exists()
    except OSError:
        return False
