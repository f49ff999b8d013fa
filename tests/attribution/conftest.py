"""Guests of many kernels and machines, and whole Debian systems, that report the owners of their own pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.command import Samepaged
from tests.support.fixtures import connection, every_guest_runs_on, libvirtd, root

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.libvirtd import Libvirtd

__all__ = ["connection", "every_guest_runs_on", "libvirtd", "root", "samepaged"]


@pytest.fixture
def samepaged(libvirtd: Libvirtd, tmp_path: Path) -> Samepaged:
    """Configure snapshots, so that all of a guest is read at one instant, for any size."""
    samepaged = Samepaged(libvirtd.uri, tmp_path)
    samepaged.configure("scan: {mode: snapshot, max_pause: 30s, max_drift: 1}")
    return samepaged
