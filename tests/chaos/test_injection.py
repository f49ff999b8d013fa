"""Every open, socket and mmap of a scan fails once, one at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import libvirt
import pytest

from tests.chaos.figures import at_most
from tests.chaos.injection import build
from tests.chaos.scale import FULL, RANDOM
from tests.support.guests import Spec, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.conftest import Host
    from tests.support.command import Samepaged

ROOT: Final = Path(__file__).parents[2]
MEMFD: Final = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
NAMES: Final = ["samepaged-chaos-plain", "samepaged-chaos-memfd"]
WAYS: Final = {
    "snapshot": "scan: {max_drift: 1, mode: snapshot, reader: process, max_pause: 5s}",
    "sliced": "scan: {max_drift: 1, mode: sliced, reader: process, max_pause: 500ms, max_duty: 0.5}",
    "dump": "scan: {max_drift: 1, mode: snapshot, reader: dump, max_pause: 5s}",
}
# In a short run one of so many opens fails, and one of at most four maps.
STEP: Final = 1 if FULL else 5


@pytest.fixture(scope="module")
def small_guests(host: Host) -> Iterator[None]:
    specs = [
        Spec(NAMES[0], memory=84, cmdline="region=1"),
        Spec(NAMES[1], memory=84, cmdline="region=1", memory_backing=MEMFD),
    ]
    with (
        contextlib.closing(libvirt.open(host.libvirtd.uri)) as connection,
        running(connection, host.root, *specs),
    ):
        yield


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("small_guests")
def test_failed_calls_have_a_reason(host: Host, samepaged: Samepaged, tmp_path: Path, way: str) -> None:
    samepaged.configure(WAYS[way])
    environment = dict(os.environ) | build(tmp_path)
    if not (FULL and way == "snapshot"):
        # libvirt's pid files can be read. Without them all of /proc is: a hundred opens more, of one kind.
        (tmp_path / "libvirt/qemu").mkdir(parents=True)
        (tmp_path / "libvirt/qemu/run").symlink_to(host.libvirtd.root / "run/qemu")
        environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "tests.chaos.injected_scans", str(samepaged.config)]
    done = subprocess.run(
        [*command, str(STEP), str(RANDOM.randrange(STEP)), *NAMES],
        capture_output=True,
        text=True,
        check=False,
        timeout=3000 if FULL else 120,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    tally: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(tally, indent=1))
    at_most(None, f"failed calls injected, {way}", sum(tally["faults"].values()), "faults")
    at_most(0, f"of these, tracebacks, {way}", len(tally["tracebacks"]), "faults")
    at_most(0, f"of these, guests left paused, {way}", len(tally["left_paused"]), "guests")
    at_most(0, f"of these, skipped without cause and remedy, {way}", len(tally["unexplained"]), "faults")
    at_most(0, f"of these, next scan failed as well, {way}", len(tally["not_recovered"]), "faults")
    # else it has shown nothing
    assert tally["faults"]["scanner, OPEN"] > 0
    assert tally["faults"]["scanner, SOCKET"] > 0
    assert "descriptors" in tally["faults"] or (not FULL and way != "snapshot")
