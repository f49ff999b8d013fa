"""Guests of many kernels and machines, and whole Debian systems, whose pages' owners are known from inside."""

from __future__ import annotations

from tests.system.conftest import connection, every_guest_runs_on, libvirtd, root, samepaged

__all__ = ["connection", "every_guest_runs_on", "libvirtd", "root", "samepaged"]
