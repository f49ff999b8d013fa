"""Guests that are large enough to stand still for a while, and a daemon that scans them without rest."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import libvirt
import pytest

from tests.chaos.figures import LINES
from tests.chaos.scale import SCALE, SEED
from tests.chaos.witness import Witness
from tests.support.command import Samepaged
from tests.support.fixtures import root
from tests.support.guests import Spec, Writer, running
from tests.support.libvirtd import Libvirtd, private_libvirtd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["root"]

NAMES: Final = [f"samepaged-chaos-{letter}" for letter in "abc"]
BYSTANDER: Final = "samepaged-chaos-bystander"
# In MiB: a guest's memory, and the filled part. Reading it takes some 50 ms.
MEMORY, REGION = 384, 256

# They stay until the process of the tests ends, and the test of KSM counts all guests that it may merge.
NOT_MERGEABLE: Final = "<memoryBacking><nosharepages/></memoryBacking>"

FIGURES: Final = "chaos figures"

# Scans follow each other at once, and their pauses are as long as they get.
RESTLESS: Final = "scan: {{interval: 1s, jitter: 0, max_drift: 1, {}}}"


@dataclass(frozen=True)
class Host:
    """A libvirtd of the test's own with running guests, and one guest that the test has paused: only the test may
    resume that one.
    """

    libvirtd: Libvirtd
    root: Path
    witness: Witness
    writers: list[Writer]

    def bystander_is_left_alone(self) -> bool:
        state, why = self.witness.state(BYSTANDER)
        # a restarted libvirtd loses the reason of the pause
        return state == libvirt.VIR_DOMAIN_PAUSED and why in {
            libvirt.VIR_DOMAIN_PAUSED_USER,
            libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
        }


def large(name: str) -> Spec:
    return Spec(name, memory=MEMORY, cmdline=f"region={REGION}", memory_backing=NOT_MERGEABLE)


def fill(writer: Writer) -> None:
    writer.fill(0, REGION * 256, 7, 1000)


@pytest.fixture(scope="session")
def host(root: Path) -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("starts libvirtd, which takes root")
    with private_libvirtd(root / "chaos") as libvirtd, contextlib.closing(libvirt.open(libvirtd.uri)) as connection:
        specs = [
            *(large(name) for name in NAMES),
            Spec(BYSTANDER, memory=84, cmdline="region=1", memory_backing=NOT_MERGEABLE),
        ]
        with running(connection, root, *specs) as writers, contextlib.closing(Witness(libvirtd, NAMES)) as witness:
            for writer in writers[:-1]:
                fill(writer)
            writers[-1].domain.suspend()
            try:
                yield Host(libvirtd, root, witness, writers)
            finally:
                for writer in writers:  # libvirt would ask each first, and wait for two seconds
                    with contextlib.suppress(LookupError), writer.process() as process:
                        process.kill()


@pytest.fixture
def samepaged(host: Host, tmp_path: Path) -> Samepaged:
    return Samepaged(host.libvirtd.uri, tmp_path)


@pytest.fixture(autouse=True)
def nobody_is_left_paused(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test, resume all guests except the one that another client paused."""
    yield
    if "host" in request.fixturenames:
        host: Host = request.getfixturevalue("host")
        assert host.witness.paused() == []
        assert host.bystander_is_left_alone()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker of pytest-xdist: hand the figures to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[FIGURES] = LINES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker has ended: take its figures."""
    LINES.extend(getattr(node, "workeroutput", {}).get(FIGURES, []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if LINES:
        terminalreporter.section(f"chaos (SAMEPAGED_CHAOS_SEED={SEED})")
        terminalreporter.write_line(f"{SCALE}")
        for line in LINES:
            terminalreporter.write_line(line)
