"""libvirtd and QEMU die under a running daemon."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.chaos.conftest import BYSTANDER, NAMES, RESTLESS, Host, fill, large
from tests.chaos.figures import at_most
from tests.chaos.scale import RANDOM, SCALE
from tests.chaos.witness import Witness
from tests.support.daemon import daemon
from tests.support.guests import running
from tests.support.processes import Family

if TYPE_CHECKING:
    from tests.support.command import Samepaged

SNAPSHOT = RESTLESS.format("mode: snapshot, max_pause: 10s")


@pytest.mark.timeout(1800)
def test_libvirtd_restart_during_scans(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(f"{SNAPSHOT}\nguests: {{exclude: [{BYSTANDER}]}}")
    suspended, left_paused, exits = 0, [], []
    with daemon(samepaged) as one:
        one.wait_scans(2)
        with Family(one.process.pid) as family:
            before = family.held
            for _ in range(SCALE.restarts):
                if RANDOM.random() < 0.5:
                    time.sleep(RANDOM.uniform(0, 1.2))
                else:
                    host.witness.next_pause()
                suspended += bool(host.witness.paused())
                host.libvirtd.stop(signal.SIGKILL)
                time.sleep(RANDOM.uniform(0, 1.5))
                host.libvirtd.start()
                left_paused += host.witness.left_paused(5)
                exits += family.exits
                assert one.process.poll() is None, one.log
                assert host.bystander_is_left_alone()
                one.wait_scans(2)
            leaks = family.leaks(before)
    at_most(None, "libvirtd killed and restarted during scans", SCALE.restarts, "kills")
    at_most(None, "of these, with a guest suspended", suspended, "kills")
    at_most(0, "guests left paused 5 s after libvirtd is back", len(left_paused), "guests")
    at_most(0, "processes of the daemon that ended with libvirtd", len(exits), "processes")
    at_most(0, "processes with more threads or descriptors than before", len(leaks), "processes")
    assert "Traceback" not in one.log


@pytest.mark.timeout(1800)
def test_qemu_killed_during_suspension(host: Host, samepaged: Samepaged) -> None:
    name = "samepaged-chaos-victim"
    samepaged.configure(f"{SNAPSHOT}\nguests: {{include: [{name}, {NAMES[0]}]}}")
    exits: list[str] = []
    left_paused: list[str] = []
    with contextlib.closing(libvirt.open(host.libvirtd.uri)) as connection, daemon(samepaged) as one:
        one.wait_scans(2)
        with Family(one.process.pid) as family, contextlib.closing(Witness(host.libvirtd, [name])) as witness:
            before = family.held
            for _ in range(SCALE.qemu_kills):
                with running(connection, host.root, large(name)) as (victim,), victim.process() as it:
                    fill(victim)
                    witness.next_pause()
                    it.kill()
                    assert it.ended(5)
                    one.wait_scans(2)
                witness.close()
                left_paused += host.witness.left_paused(5)
                exits += family.exits
                assert one.process.poll() is None, one.log
            leaks = family.leaks(before)
    at_most(None, "QEMU killed while its guest was suspended", SCALE.qemu_kills, "kills")
    at_most(0, "other guests left paused after QEMU's kill", len(left_paused), "guests")
    at_most(0, "processes of the daemon that ended with QEMU", len(exits), "processes")
    at_most(0, "processes with more threads or descriptors than before QEMU's kill", len(leaks), "processes")
    assert "Traceback" not in one.log
