"""Two hosts on this machine: network namespaces with a name of their own, joined by a cable that can be cut.

It takes Linux, root and `ip`. As a script it trains on both, cuts the cable, and goes on:

    python tests/two_hosts.py
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from processes import running

PORT = 29517
FIRST = "10.213.7.1"


class TwoHosts:
    """Their names are those of the namespaces, host-N-0 and host-N-1."""

    def __init__(self, number: int) -> None:
        self.names = [f"host-{number}-{i}" for i in range(2)]
        self.ends = [f"s4v{number % 100_000}{i}" for i in range(2)]

    def connect(self) -> None:
        _ip("link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1])
        for i, (name, end) in enumerate(zip(self.names, self.ends, strict=True)):
            _ip("netns", "add", name)
            folder = Path("/etc/netns", name)  # what is in it is in /etc for who is in the namespace
            folder.mkdir(parents=True)
            lines = [f"{FIRST[:-1]}{j + 1} {other}" for j, other in enumerate(self.names)]
            (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            _ip("link", "set", end, "netns", name)
            _ip("-n", name, "addr", "add", f"{FIRST[:-1]}{i + 1}/24", "dev", end)
            _ip("-n", name, "link", "set", end, "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def cut(self) -> None:
        _ip("-n", self.names[1], "link", "set", self.ends[1], "down")

    def mend(self) -> None:
        _ip("-n", self.names[1], "link", "set", self.ends[1], "up")

    def remove(self) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)

    @contextlib.contextmanager
    def training(self, *command: str | Path, per_host: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
        """torchrun on both hosts, started as on two machines; returns both launchers."""
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(
                    running(self._command(i, per_host, command), env=os.environ | {"OMP_NUM_THREADS": "1"})
                )
                for i in range(2)
            ]

    def _command(self, i: int, per_host: int, command: tuple[str | Path, ...]) -> list[str | Path]:
        host = ["ip", "netns", "exec", self.names[i], "unshare", "--uts", "sh", "-c"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", str(per_host)]
        meeting = ["--node-rank", str(i), "--master-addr", FIRST, "--master-port", str(PORT)]
        named = [f'hostname {self.names[i]}; exec "$@"', "sh"]
        return [*host, *named, *torchrun, *meeting, "-m", "s4gen", "train", *command]


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    hosts = TwoHosts(os.getpid())
    try:
        hosts.connect()
        yield hosts
    finally:
        hosts.remove()


def possible() -> bool:
    return os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("unshare") is not None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def cut_and_go_on(recipe: Path, out: Path, steps: int) -> tuple[float, list[str]]:
    """Train on two hosts, cut the cable after `steps` steps, wait for both to end, and go on for two steps.

    Returns how many seconds the run went on without the cable, and what each host has written on standard error.
    """
    from s4gen.train.metrics import read_metrics

    with two_hosts() as hosts:
        with hosts.training(recipe, "--out", out) as launchers:
            while len(read_metrics(out)) < steps:
                assert all(launcher.poll() is None for launcher in launchers), [x.communicate() for x in launchers]
                time.sleep(0.1)
            hosts.cut()
            began = time.monotonic()
            said = [launcher.communicate(timeout=100)[1] for launcher in launchers]
            seconds = time.monotonic() - began
            assert all(launcher.returncode for launcher in launchers)
        hosts.mend()
        step = re.search(r'"step": (\d+)', (out / "checkpoint" / "training.json").read_text())
        assert step is not None
        more = ("--resume", out, "--set", f"train.steps={int(step[1]) + 2}")
        with hosts.training(*more) as launchers:
            ends = [launcher.communicate(timeout=100)[1] for launcher in launchers]
            assert not any(launcher.returncode for launcher in launchers), ends
    return seconds, said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "recipe.toml")
        settings.write_text(Path(sys.argv[1]).read_text())
        ended, words = cut_and_go_on(settings, Path(folder, "out"), 5)
        print(f"without the cable both hosts ended after {ended:.1f} s, and the run went on afterwards")
        for one in words:
            print("\n".join(line for line in one.splitlines() if "s4gen: " in line))
