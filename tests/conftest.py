"""Settings of every test, and the order in which workers (pytest-xdist) take the files."""

from __future__ import annotations

import os
from typing import Any, Final

import pytest
from hypothesis import settings

# No deadlines: the machines that tests run on are shared and noisy, and a test of a property does not measure speed.
settings.register_profile("samepaged", deadline=None)
# HYPOTHESIS_PROFILE=deep: for a night, or before a release. Counts that a test sets itself stay.
settings.register_profile("deep", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "samepaged"))

# Chaos waits for most of its time and unit tests compute: the long files come first, and the short ones fill the gaps.
ORDER: Final = ("tests/chaos/", "tests/system/", "tests/")
# Each group boots one set of the large guests of tests/chaos.
GROUPS: Final = {
    f"tests/chaos/test_{name}.py": group
    for group, names in {
        "chaos 1": ("crowd", "hangs", "kills"),
        "chaos 2": ("faults", "hypervisor", "injection"),
    }.items()
    for name in names
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files for several workers. A test that needs the host to itself comes last in any case."""
    parallel = config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: _rank(item, parallel=parallel))


def _rank(item: pytest.Item, *, parallel: bool) -> int:
    if item.get_closest_marker("alone") is not None:
        return len(ORDER)
    return next(rank for rank, start in enumerate(ORDER) if item.nodeid.startswith(start)) if parallel else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A worker takes whole files, as with `--dist loadfile`, or all files of one of the GROUPS."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415 - an extra of the tests

    class FileScheduling(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return GROUPS.get(scope, scope)

    return FileScheduling(config, log) if config.getoption("dist") == "loadfile" else None
