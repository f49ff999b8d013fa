"""`python -m tests.support.vm`, for `make test-vm`: tests/vm in the lab host. Exits with pytest's status or 10."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.vm.boot import Machine, boot
from tests.support.vm.build import image
from tests.support.vm.payload import pack
from tests.support.vm.recipe import PROJECT
from tests.support.vm.steps import LabError, say

CACHE = PROJECT / ".cache" / "lab"
NO_RESULT = 10
# Time for boot and installation of the wheel, and for the tests' own timeout to expire before the host's.
BEFORE_AND_AFTER = 180


def main() -> int:
    """Build missing parts, boot, and return the exit status of the tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.vm", description="Runs tests/vm in the lab host.")
    parser.add_argument("--memory", type=int, default=Machine.memory, metavar="MIB", help="of the host")
    parser.add_argument("--cpus", type=int, default=Machine.cpus, metavar="N", help="of the host")
    parser.add_argument("--patience", type=int, default=1800, metavar="SECONDS", help="how long the tests may take")
    parser.add_argument("pytest", nargs="*", default=["tests/vm"], metavar="WORD", help="for pytest, after a --")
    words = parser.parse_args()
    python = sys.executable
    CACHE.mkdir(parents=True, exist_ok=True)
    try:
        with (CACHE / "lock").open("w") as lock:
            # One run at a time: a host uses two cores, and only one process may build the image.
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in CACHE.glob("scratch-*"):  # left by a killed run
                shutil.rmtree(left)
            host = image(CACHE, python)
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="scratch-") as scratch:
                payload = Path(scratch) / "payload.tar"
                say("building the wheel, packing it and the tests")
                pack(payload, Path(scratch), python=python, pytest=words.pytest, patience=words.patience)
                say("booting the host")
                machine = Machine(words.cpus, words.memory)
                return boot(host, machine, payload, CACHE / "last", words.patience + BEFORE_AND_AFTER)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)  # output of a command-line program
        return NO_RESULT
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
