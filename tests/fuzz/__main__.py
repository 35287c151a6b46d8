"""`python -m tests.fuzz`: see the package."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

# What the tests share lies one folder up.
sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> int:
    """Exit status 1 if a case shows a fault."""
    from .server import run_cases

    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=sys.modules["tests.fuzz"].__doc__
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--case", type=int, help="run this one, and say what it said")
    parser.add_argument("--all", action="store_true", help="list the cases without faults too")
    parser.add_argument("--keep", type=Path, help="folder for the cases' files")
    given = parser.parse_args()
    numbers = range(given.start, given.start + given.count) if given.case is None else [given.case]
    keep = given.keep or (Path(f"fuzz-{given.case}") if given.case is not None else None)
    began, faulty, count = time.monotonic(), 0, 0
    for case in run_cases(numbers, given.seed, keep=keep and keep.absolute(), jobs=given.jobs):
        count += 1
        if case.faults or given.case is not None:
            print(case, *case.faults, case.said[-3000:], sep="\n  ", flush=True)
        elif given.all:
            print(case, flush=True)
        faulty += bool(case.faults)
    print(f"{count} cases, {faulty} with faults, in {time.monotonic() - began:.0f} s")
    return int(faulty > 0)


if __name__ == "__main__":
    sys.exit(main())
