"""`python -m tests.fuzz.images [--images N]`: attribution of guest memory that is damaged in many ways.

`--number N` runs the image with one number again, and prints details. A number gives the same image in every run.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from tests.fuzz.images import runner
from tests.fuzz.images.bases import KERNELS, image

NICENESS: Final = 15


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.images", description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000, help="how many (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--number", type=int, action="append", help="only this one, and what is known of it")
    parser.add_argument("--worker", nargs=4, metavar=("KERNEL", "FIRST", "LAST", "FILE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    if arguments.worker:
        kernel, first, last, file = arguments.worker
        runner.work(kernel, range(int(first), int(last)), file)
        return 0
    for kernel in KERNELS:
        image(kernel)
    if arguments.number is not None:
        return max(runner.again(number) for number in arguments.number)
    os.nice(NICENESS)
    summary = runner.run(range(arguments.first, arguments.first + arguments.images), arguments.workers)
    return int(summary.found > 0 or summary.total < arguments.images)


if __name__ == "__main__":
    sys.exit(main())
