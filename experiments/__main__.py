"""`python -m experiments`, run by `make study`: boot the matrix, study the traces, write docs/analysis/study.md."""

from __future__ import annotations

import argparse
import fcntl
import shutil
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import libvirt

from experiments.build import image
from experiments.cell_run import FieldError, Place, overlay, run_cell
from experiments.guest import Boot, debian_cmdline
from experiments.matrix import MATRIX, Cell, select_cells
from experiments.payload import pack
from experiments.recipe import recipe
from experiments.report import write
from experiments.tracing import Samepaged, write_config
from tests.support.libvirtd import private_libvirtd
from tests.support.vm.recipe import PROJECT
from tests.support.vm.steps import LabError, need, say

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT: Final = PROJECT / ".cache" / "field"
FAILED, NOTHING = 1, 10


def main() -> int:
    """Build and boot missing cells, then write the report. Returns 1 if a cell failed, 10 if no cell could start."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description="Run the study on real guests.")
    parser.add_argument("--work", type=Path, default=DEFAULT, metavar="DIR", help="images, traces and results")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="guests that run at the same time")
    parser.add_argument("--report", action="store_true", help="write the report from existing traces")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="prefixes of names (default: all)")
    words = parser.parse_args()
    libvirt.registerErrorHandler(lambda *_: None, None)
    # A run of an hour may be in the background, with SIGINT ignored by the shell: both signals end it, guests first.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    words.work.mkdir(parents=True, exist_ok=True)
    place = Place(words.work.resolve())
    try:
        with (place.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            failed = 0
            if not words.report:
                cells = [cell for cell in select_cells(MATRIX, words.cells) if not place.outcome(cell).exists()]
                failed = boot_all(cells, place, words.at_once)
            write(place)
            return FAILED if failed else 0
    except LabError as error:
        print(f"field: {error}", file=sys.stderr)  # noqa: T201  # a program that people run
        return NOTHING
    except KeyboardInterrupt:
        return 130


def boot_all(cells: Sequence[Cell], place: Place, at_once: int) -> int:
    """Run the cells in their order, `at_once` at a time. Returns the number of failures; the other cells continue."""
    need({"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"})
    images = {}
    for cell in cells:
        made_of = recipe(cell.release, cell.architecture, cell.setup)
        if made_of not in images:
            images[made_of] = image(place.root / "images", made_of)
    stopping = threading.Event()
    # Names of sockets are limited (unix(7): 108 bytes), regardless of the work directory.
    with tempfile.TemporaryDirectory(prefix="spf-") as short, private_libvirtd(Path(short) / "libvirt") as daemon:
        tracer = Samepaged(write_config(Path(short), daemon.uri))
        layers = place.root / "layers"
        shutil.rmtree(layers, ignore_errors=True)  # left by a killed run
        layers.mkdir()
        payload = pack(layers / "payload.tar", Path(short))

        def one(cell: Cell) -> bool:
            if stopping.is_set():
                return False
            made = images[recipe(cell.release, cell.architecture, cell.setup)]
            over = layers / f"{cell.name}.qcow2"
            say(f"{cell.name}: booting")
            try:
                boot = Boot(made.kernel, made.initramfs, debian_cmdline(cell.words), overlay(made.disk, over), payload)
                outcome = run_cell(cell, boot, place, daemon.uri, tracer, stopping)
            except (FieldError, libvirt.libvirtError, OSError) as error:
                say(f"{cell.name}: FAILED: {error}")
                return False
            finally:
                over.unlink(missing_ok=True)
            say(f"{cell.name}: done in {outcome.seconds:.0f} s, {outcome.marks + 1} traces")
            return True

        with ThreadPoolExecutor(max_workers=at_once) as pool:
            try:
                return list(pool.map(one, cells)).count(False)
            finally:
                stopping.set()


if __name__ == "__main__":
    sys.exit(main())
