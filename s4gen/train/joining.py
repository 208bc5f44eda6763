"""Make a process that torchrun started one of the ranks, and make all ranks end together."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from s4gen.errors import UserError
from s4gen.train.ranks import Ranks
from s4gen.train.stop import HEEDED
from s4gen.train.watch import DEFAULT_TIMEOUT, TIMEOUT, Watch

_FOREVER = timedelta(days=7)
"""The timeout of collective operations. They wait while rank 0 evaluates and saves, which may take any time; the watch,
and not a timeout, finds out that a rank is lost."""
_CONNECTING = timedelta(seconds=120)
"""How long a rank tries to reach the store."""


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Make this process one of the ranks that torchrun has described in the environment, inside the block.

    If the block fails on a rank, all ranks end. The first one to fail says why; the others end silently, with the same
    exit code.

    Raises:
        UserError: the environment is not what torchrun sets, or this host has more ranks than GPUs.
        SystemExit: a UserError was raised here, but another rank has already reported an error.
    """
    place = _place()
    if place.device.type == "cuda":
        torch.cuda.set_device(place.device)
    # With --max-restarts all ranks begin again with the same store: old beats and errors must not be read for new ones.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    run_id = f"s4gen/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}"
    store = _connected(place.rank, place.world)
    # What ranks tell each other is on the CPU and goes by Gloo; gradients are on the GPU, if there is one, by NCCL.
    backend = "cpu:gloo,cuda:nccl" if place.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore(f"{run_id}/group", store), rank=place.rank, world_size=place.world, timeout=_FOREVER
    )

    def connect() -> Store:
        return PrefixStore(f"{run_id}/watch", _connected(place.rank, place.world, serve=False))

    watch = Watch(place.rank, place.world, connect, _timeout())
    watch.start()
    ranks = Ranks(place.rank, place.world, place.local_rank, place.local_world, place.device, watch)
    try:
        yield ranks
        # When torchrun sees the first rank end, it asks the others to end. They are about to end anyway: do not listen.
        for number in HEEDED:
            signal.signal(number, signal.SIG_IGN)
        ranks.wait()
    except UserError:
        if watch.fail(2):
            raise
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        watch.fail(130)
        raise
    except Exception as error:
        watch.judge(error)
        watch.fail(1)
        raise
    watch.stop()
    dist.destroy_process_group()
    del store  # only now: at rank 0 it may be the server that the others still talk to


def _place() -> Ranks:
    """Read this process's place from what torchrun has set, and choose its device."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    found = {name: os.environ.get(name, "") for name in names}
    wrong = [f"{name}={value!r}" for name, value in found.items() if not value.isdecimal()]
    if wrong or not os.environ.get("MASTER_ADDR"):
        raise UserError(
            f"WORLD_SIZE = {found['WORLD_SIZE']} asks for many ranks, but {', '.join(wrong) or 'MASTER_ADDR'} is not "
            "what torchrun sets: start training by torchrun, or unset WORLD_SIZE"
        )
    rank, world, local_rank, local_world = (int(found[name]) for name in names[:4])
    if not torch.cuda.is_available():
        return Ranks(rank, world, local_rank, local_world, torch.device("cpu"))
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"this host has {torch.cuda.device_count()} GPUs for {local_world} ranks: choose --nproc-per-node "
            f"{torch.cuda.device_count()}, or CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    return Ranks(rank, world, local_rank, local_world, torch.device("cuda", local_rank))


def _connected(rank: int, world: int, serve: bool = True) -> TCPStore:
    """Connect to the launcher's store, a table of keys and values that all ranks share; rank 0 serves it if need be."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    serves = serve and rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    return TCPStore(host, port, world, serves, _CONNECTING, wait_for_workers=False)


def _timeout() -> float:
    """Read from the environment after how many seconds without a sign of life a rank is lost.

    Raises:
        UserError: it is no number of at least 1.
    """
    text = os.environ.get(TIMEOUT, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds < math.inf:
        raise UserError(f"{TIMEOUT}={text}: expected a number of seconds, at least 1")
    return seconds
