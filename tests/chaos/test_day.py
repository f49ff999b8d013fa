"""A day of scans, one a second instead of one in seven minutes: nothing grows."""

from __future__ import annotations

import contextlib
import signal
import time
from statistics import median
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.chaos.conftest import RESTLESS, Host
from tests.chaos.figures import at_most
from tests.chaos.scale import FULL, RANDOM, SCALE
from tests.support.daemon import daemon
from tests.support.guests import Spec, running
from tests.support.processes import Family

if TYPE_CHECKING:
    from tests.support.command import Samepaged

# Scans after which memory use must be stable, and the number of them that define its level.
SETTLED, SAMPLE = 10, 10


def write(host: Host, number: int) -> None:
    """A guest rewrites a quarter of its used memory. After some rewrites, its number of contents is unchanged."""
    host.writers[number % 3].fill(RANDOM.randrange(1 << 15), 1 << 14, number, RANDOM.randrange(1, 1 << 14))


@pytest.mark.skipif(not FULL, reason="a few scans show no growth: make chaos")
@pytest.mark.timeout(1800)
def test_memory_is_bounded_over_a_day(host: Host, samepaged: Samepaged) -> None:
    samepaged.configure(RESTLESS.format("mode: snapshot, page_sizes: [2KiB, 64KiB]"))
    resident: dict[str, list[int]] = {}
    with daemon(samepaged) as one, contextlib.ExitStack() as guests:
        connection = guests.enter_context(contextlib.closing(libvirt.open(host.libvirtd.uri)))
        one.wait_scans(2)
        family = guests.enter_context(Family(one.process.pid))
        for number in range(30):
            write(host, number)
        passing = contextlib.ExitStack()
        guests.callback(passing.close)
        for number in range(SCALE.scans):
            # Events of a day: guests write, one starts and stops, and the configuration is read again.
            write(host, number)
            if number % 25 == 5:
                spec = Spec("samepaged-chaos-passing", memory=84, cmdline="region=1")
                passing.enter_context(running(connection, host.root, spec))
            if number % 25 == 20:
                passing.close()
                one.process.send_signal(signal.SIGHUP)
            one.wait_scans(1)
            time.sleep(0.3)  # between two scans, when buffers are free
            for name, process in family.members.items():
                resident.setdefault(name, []).append(process.resident)
        assert family.exits == []
    print({name: [size >> 10 for size in sizes] for name, sizes in resident.items()})
    at_most(None, "scans of a day, compressed", SCALE.scans, "scans")
    for name, sizes in resident.items():
        begin, end = median(sizes[SETTLED : SETTLED + SAMPLE]), median(sizes[-SAMPLE:])
        at_most(None, f"{name}: resident memory after the tenth scan", round(begin / 2**20, 1), "MiB")
        at_most(0.05, f"{name}: growth of it over a day", end / begin - 1, "ratio")
