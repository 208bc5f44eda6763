"""How many parts should a run have? Simulate workers of unequal speed that sometimes die.

Bulk work (docs/scale.md) is cut into parts. Whoever is free takes the next one. A part whose worker dies is taken
again, and goes on behind its last finished block. With few parts, everybody waits for the slowest worker at the end;
with many, each pays again for starting a process and loading the model. This program draws runs at random and prints
how much longer they take than if the work could be dealt out in any pieces.

    python -m s4gen.examples.stragglers --workers 100 --hours 2 --start 10 --spread 0.3 --deaths 0.05
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from s4gen.cli.arguments import number, whole
from s4gen.examples.arguments import Parser

PER_WORKER = (1, 2, 4, 8, 16, 32, 64)


def finish(
    workers: int, parts: int, work: float, start: float, spread: float, deaths: float, random: np.random.Generator
) -> float:
    """Return the seconds until the last of all parts is done, in one run drawn at random.

    Args:
        workers: how many there are.
        parts: how many equal parts the work is cut into.
        work: seconds that all of it takes a worker of the usual speed.
        start: seconds that each beginning costs, whether of a new part or of one that goes on.
        spread: standard deviation of the logarithm of the workers' speeds (the median is 1).
        deaths: how often a worker dies in an hour, on average. It is back at once, and goes on with another part.
        random: the source of chance.
    """
    speeds = np.exp(spread * random.standard_normal(workers))
    waiting = [work / parts] * parts  # seconds of work that each part still needs
    free = [(0.0, number) for number in range(workers)]
    heapq.heapify(free)
    last = 0.0
    while waiting:
        now, number = heapq.heappop(free)
        left = waiting.pop()
        needed = start + left / speeds[number]
        dies = random.exponential(3600 / deaths) if deaths else np.inf
        if dies < needed:
            # Blocks that were finished stay; what was done of the last one is too little to count.
            done = max(0.0, dies - start) * speeds[number]
            waiting.append(left - done)
            needed = dies
        else:
            last = max(last, now + needed)
        heapq.heappush(free, (now + needed, number))
    return last


def ideal(workers: int, work: float, spread: float, random: np.random.Generator) -> float:
    """Return the seconds that the work takes if it is dealt out in any pieces, and nobody dies or has to start."""
    return float(work / np.exp(spread * random.standard_normal(workers)).sum())


def table(workers: int, hours: float, start: float, spread: float, deaths: float, runs: int, seed: int) -> list[str]:
    """Return the lines of a table: parts per worker, and the time over the ideal, mean and worst of `runs`."""
    work = hours * 3600 * workers
    lines = ["parts per worker  time / ideal (mean)  (worst)"]
    for per_worker in PER_WORKER:
        found = []
        for run in range(runs):
            # Both draw the speeds first, so they have the same workers.
            best = ideal(workers, work, spread, np.random.default_rng([seed, run]))
            random = np.random.default_rng([seed, run])
            found.append(finish(workers, per_worker * workers, work, start, spread, deaths, random) / best)
        lines.append(f"{per_worker:>16}  {np.mean(found):>19.2f}  {max(found):>7.2f}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    positive = number("a number greater than 0", lambda value: 0 < value <= 1e6)
    some = number("0, or a number greater than that", lambda value: 0 <= value <= 1e6)
    few = number("0 to 3", lambda value: 0 <= value <= 3)
    parser = Parser(description="Simulate bulk work by workers of unequal speed that sometimes die.")
    parser.add_argument("--workers", type=whole(1), default=100)
    parser.add_argument("--hours", type=positive, default=2.0, help="of work for each worker of the usual speed")
    parser.add_argument("--start", type=some, default=10.0, help="seconds that it takes to begin a part")
    parser.add_argument(
        "--spread", type=few, default=0.3, help="of speeds: with 0.3 most are within a third of the usual"
    )
    parser.add_argument("--deaths", type=few, default=0.05, help="of a worker in an hour")
    parser.add_argument("--runs", type=whole(1), default=20)
    parser.add_argument("--seed", type=whole(0), default=0)
    args = parser.parse_args(argv)
    if args.start > 600 or args.workers > 10_000:
        return parser.refuse("expected at most 10,000 workers, and at most 600 seconds to begin a part")
    print("\n".join(table(args.workers, args.hours, args.start, args.spread, args.deaths, args.runs, args.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
