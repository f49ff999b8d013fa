"""Real guests: those that most tests share, each kind once for each process of the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fixtures import connection, every_guest_runs_on, libvirtd, root, samepaged
from tests.support.guests import Spec, Writer, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["connection", "every_guest_runs_on", "libvirtd", "root", "samepaged"]

# One guest's region in MiB and in pages: the part of its memory that tests fill.
REGION = 16
REGION_PAGES = REGION * 256
LARGE = "samepaged-test-large"


@pytest.fixture(scope="session")
def pair(connection: Any, root: Path) -> Iterator[list[Writer]]:
    """Two writer guests of one image, for the whole run. A test leaves them running, and fills their regions itself."""
    with running(
        connection, root, *(Spec(f"samepaged-test-{name}", cmdline=f"region={REGION}") for name in "ab")
    ) as writers:
        yield writers


@pytest.fixture(scope="module")
def large(connection: Any, root: Path) -> Iterator[Writer]:
    """A guest of a file's own, large enough that its pauses are easy to meet."""
    with running(connection, root, Spec(LARGE, memory=512, cmdline="region=320")) as (writer,):
        writer.fill(0, 320 * 256, 5, 320 * 256)
        yield writer
