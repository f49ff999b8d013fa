"""Every query of the Grafana dashboards has a result, in a real Prometheus beside a real daemon and real guests."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.command import Samepaged
from tests.support.daemon import daemon
from tests.support.guests import Spec, in_a_job, running
from tests.support.prometheus import Prometheus, prometheus
from tests.support.waiting import happens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Libvirtd

DASHBOARDS: Final = Path(__file__).parents[2] / "observability" / "grafana" / "dashboards"
BOARDS: Final = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
QUERIES: Final = [
    pytest.param(target["expr"], id=f"{board}: {panel['title']}, {target['refId']}")
    for board in BOARDS
    for panel in BOARDS[board]["panels"]
    for target in panel.get("targets", ())
]
README: Final = (Path(__file__).parents[2] / "README.md").read_text()
README_QUERIES: Final = re.findall(r"^\| .*\? \| `(.*)` \|$", README, flags=re.MULTILINE)
VARIABLES: Final = sorted(
    {
        variable["query"]
        for board in BOARDS.values()
        for variable in board["templating"]["list"]
        if variable["type"] == "query"
    }
)
# A guest with every possible problem: KSM may not merge it, precopy cannot read it, and one of
# its scans fails.
ODD: Final = "samepaged-test-odd"
MEMFD: Final = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
CONFIG: Final = """\
scan: {interval: 1s, jitter: 0, max_drift: 0.9, mode: precopy, page_sizes: [64KiB]}
groups: [{name: shop, match: ['samepaged-test-*']}]
sources: {enabled: true, every: 1}
"""


class Scraped:
    """A Prometheus that has scraped one samepaged for some scans."""

    def __init__(self, server: Prometheus, instance: str) -> None:
        self._server = server
        self._instance = instance

    def values(self, query: str, timeout: float = 30) -> list[dict[str, Any]]:
        """The series of a query of a dashboard that have a value."""
        asked = query.replace("$instance", self._instance).replace("$domain", ODD)
        found: list[dict[str, Any]] = []

        def finite() -> bool:
            found[:] = [one for one in self._server.query(asked) if math.isfinite(float(one["value"][1]))]
            return bool(found)

        happens(finite, timeout, every=0.5)
        return found


@pytest.fixture(scope="module")
def scraped(libvirtd: Libvirtd, connection: Any, root: Path) -> Iterator[Scraped]:
    with contextlib.ExitStack() as stack:
        plain = [Spec(f"samepaged-test-{name}", cmdline="region=4") for name in "ab"]
        odd = Spec(ODD, cmdline="region=4", memory_backing=MEMFD)
        writers = stack.enter_context(running(connection, root, *plain, odd))
        for writer in writers:
            writer.fill(0, 1024, 1, 256)
        samepaged = Samepaged(libvirtd.uri, root)
        samepaged.configure(CONFIG)
        one = stack.enter_context(daemon(samepaged))
        one.wait_scans(2)
        server = stack.enter_context(prometheus(root / "prometheus", one.address))
        with in_a_job(writers[-1], root):
            one.wait_scans(2)
        # a successful scan after another successful scan
        one.wait_scans(3)
        yield Scraped(server, one.address)


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_query_has_a_result(scraped: Scraped, query: str) -> None:
    assert scraped.values(query)


def test_readme_has_four_queries() -> None:
    assert len(README_QUERIES) == 4


@pytest.mark.parametrize("query", README_QUERIES)
def test_every_readme_query_has_a_result(scraped: Scraped, query: str) -> None:
    assert scraped.values(query)


@pytest.mark.parametrize("query", VARIABLES)
def test_every_variable_has_values(scraped: Scraped, query: str) -> None:
    asked = re.fullmatch(r"label_values\((.*), (\w+)\)", query)
    assert asked is not None
    assert all(one["metric"][asked[2]] for one in scraped.values(asked[1]))
    assert scraped.values(asked[1])


def test_other_host_has_no_result(scraped: Scraped) -> None:
    assert scraped.values('samepage_build_info{instance="$instance"}')
    assert scraped.values('samepage_build_info{instance="elsewhere"}', timeout=1) == []
