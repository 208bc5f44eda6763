"""Run the fuzzer and print a table of what became of the files: `python -m fuzz --files 3000 --seed 1`, in tests/."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzz import seeds
from fuzz.kinds import KINDS
from fuzz.runner import PATIENCE, Case, Finding, folder_of, keep, run_cases
from fuzz.verdict import GOOD, VERDICTS

SHOWN = 40
"""Faults that are shown one by one; the others lie beside them."""


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=3000, help="damaged files (default: 3000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other files (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side (default: 1)")
    parser.add_argument("--only", default="", help="kinds of files whose name holds this text (default: all)")
    parser.add_argument(
        "--keep", type=Path, default=Path("runs/fuzz"), help="where files at fault go (default: runs/fuzz)"
    )
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help=f"seconds until a command hangs (default: {PATIENCE:g})"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return 1 if there was a fault, else 0."""
    args = arguments(argv)
    numbers = [number for number, kind in enumerate(KINDS) if args.only in kind.name]
    room = args.keep.absolute()
    shutil.rmtree(room, ignore_errors=True)
    good = make_seeds(room / "seeds")
    began = time.perf_counter()
    cases = itertools.chain(undamaged(numbers), spread(numbers, args.files, args.seed))
    findings = list(watched(run_cases(cases, good, room, args.jobs, args.patience)))
    print(table([each for each in findings if each.case.number >= 0], time.perf_counter() - began, args.seed))
    faults = [
        each for each in findings if each.verdict != "accepted" and (each.case.number < 0 or each.verdict not in GOOD)
    ]
    for finding in faults:
        keep(finding, good, room)
    for finding in faults[:SHOWN]:
        name, folder = KINDS[finding.case.kind].name, folder_of(finding.case, room)
        print(f"{finding.verdict}: {name}: {finding.why[:300]}\n    {folder}/command.txt")
    if not faults:
        shutil.rmtree(room)
    return 1 if faults else 0


def is_fault(finding: Finding) -> bool:
    """A good file has to be accepted, any other may be refused."""
    return finding.verdict not in GOOD or (finding.case.number < 0 and finding.verdict != "accepted")


def make_seeds(folder: Path) -> Path:
    """Make the good files, in a process of its own: threads of libraries must not be there when others are forked."""
    process = multiprocessing.get_context("fork").Process(target=seeds.make_quietly, args=(folder,))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("the good files cannot be made, see above")
    return folder


def undamaged(numbers: Sequence[int]) -> Iterator[Case]:
    """Yield every command with the good file: all of them must succeed."""
    for number in numbers:
        yield from (Case(number, -1 - command, 0) for command in range(len(KINDS[number].commands)))


def spread(numbers: Sequence[int], files: int, seed: int) -> Iterator[Case]:
    """Yield `files` cases, of every kind its share, and all kinds mixed, so that an early end has seen them all."""
    total = sum(KINDS[number].share for number in numbers)
    done = dict.fromkeys(numbers, 0)
    for count in range(1, files + 1):
        number = max(numbers, key=lambda each: count * KINDS[each].share / total - done[each])
        yield Case(number, done[number], seed)
        done[number] += 1


def watched(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Pass findings on, and say at once which are faults."""
    for count, finding in enumerate(findings, 1):
        if finding.verdict not in GOOD:
            print(
                f"{finding.verdict} {KINDS[finding.case.kind].name} {finding.case.number}: {finding.why[:200]}",
                file=sys.stderr,
            )
        if count % 500 == 0:
            print(f"{count} files", file=sys.stderr)
        yield finding


def table(findings: Sequence[Finding], seconds: float, seed: int) -> str:
    """Return a line for each kind: how many files, and what became of them."""
    head = f"{'kind':<24}{'tried':>8}" + "".join(f"{verdict:>10}" for verdict in VERDICTS) + f"{'ms/file':>9}"
    lines = [head, "-" * len(head)]
    for number in [*dict.fromkeys(each.case.kind for each in findings), None]:
        some = [each for each in findings if number in (None, each.case.kind)]
        counts = Counter(each.verdict for each in some)
        name = "all" if number is None else KINDS[number].name
        mean = 1000 * sum(each.seconds for each in some) / max(1, len(some))
        lines.append(
            f"{name:<28}{len(some):>8}" + "".join(f"{counts[verdict]:>10}" for verdict in VERDICTS) + f"{mean:>9.0f}"
        )
    return "\n".join([*lines, f"seed {seed}, {seconds:.0f} s"])


if __name__ == "__main__":
    sys.exit(main())
