"""docs/operate/joins.md, with Debian's libvirt exporter and samepaged beside each other, scraped by one Prometheus."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.support.command import Samepaged
from tests.support.daemon import daemon
from tests.support.guests import Spec, running
from tests.support.prometheus import Prometheus, free_port, prometheus
from tests.support.web_server import answering

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.libvirtd import Libvirtd

PAGE: Final = (Path(__file__).parents[2] / "docs/operate/joins.md").read_text()
QUERIES: Final = re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)
PROJECT: Final = "5f0a7c2b9d3e4816a2c4e6f80b1d3579"
NOVA: Final = f"""
<metadata>
  <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:name>web</nova:name>
    <nova:flavor name="m1.tiny"/>
    <nova:owner><nova:project uuid="{PROJECT}">shop</nova:project></nova:owner>
  </nova:instance>
</metadata>
"""
SCANNED: Final = ["samepaged-test-instance-1", "samepaged-test-instance-2"]
EXCLUDED: Final = "samepaged-test-excluded"
MEMORY: Final = 84


@contextlib.contextmanager
def libvirt_exporter(uri: str, root: Path) -> Iterator[str]:
    """The exporter on a port of its own; its address."""
    binary = shutil.which("prometheus-libvirt-exporter")
    assert binary is not None, "prometheus-libvirt-exporter is not installed; run `make deps`"
    address = f"127.0.0.1:{free_port()}"
    command = [binary, f"--web.listen-address={address}", f"--libvirt.uri={uri}", "--libvirt.export-nova-metadata"]
    with answering(command, f"http://{address}/metrics", root / "libvirt-exporter.log"):
        yield address


def jobs(libvirt_address: str) -> str:
    """The rest of the page's scrape configuration behind the first job's targets, for these exporters."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    own, other = yaml.safe_load(block)["scrape_configs"]
    assert (own["job_name"], other["job_name"]) == ("samepaged", "libvirt")
    other["static_configs"] = [{"targets": [libvirt_address]}]
    return f"  relabel_configs: {own['relabel_configs']}\n- {other}"


@pytest.fixture(scope="module")
def scraped(libvirtd: Libvirtd, connection: Any, root: Path) -> Iterator[Prometheus]:
    """A Prometheus that has scraped both, of two guests of one project and of one that is not scanned."""
    with contextlib.ExitStack() as stack:
        specs = [Spec(name, memory=MEMORY, cmdline="region=1", metadata=NOVA) for name in SCANNED]
        excluded = Spec(EXCLUDED, memory=MEMORY, cmdline="region=1")
        stack.enter_context(running(connection, root, *specs, excluded))
        samepaged = Samepaged(libvirtd.uri, root)
        samepaged.configure(f"scan: {{interval: 1s, jitter: 0, max_drift: 1}}\nguests: {{exclude: ['{EXCLUDED}']}}")
        address = stack.enter_context(libvirt_exporter(libvirtd.uri, root))
        one = stack.enter_context(daemon(samepaged))
        one.wait_scans(1)
        yield stack.enter_context(prometheus(root / "join", one.address, jobs(address)))


def by_domain(series: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {one["metric"]["domain"]: one for one in series}


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.split("\n")[0][:50])
def test_documented_queries_have_results(scraped: Prometheus, query: str) -> None:
    assert scraped.wait_for(query)


def test_both_exporters_share_labels(scraped: Prometheus) -> None:
    (query,) = (one for one in QUERIES if "maximum_memory" in one)
    found = by_domain(scraped.wait_for(query))
    assert sorted(found) == SCANNED
    assert {float(one["value"][1]) for one in found.values()} == {MEMORY * 2**20}


def test_unscanned_guest_is_found(scraped: Prometheus) -> None:
    (query,) = (one for one in QUERIES if "unless" in one)
    assert sorted(by_domain(scraped.wait_for(query))) == [EXCLUDED]


def test_exporter_uuid_matches_domain_info(scraped: Prometheus) -> None:
    scraped.wait_for("samepage_domain_info")
    scraped.wait_for("libvirt_domain_info_virtual_cpus")
    both = scraped.wait_for(
        "samepage_domain_info * on (host, domain, uuid) group_left () libvirt_domain_info_virtual_cpus"
    )
    assert sorted(by_domain(both)) == SCANNED


def test_openstack_group_joins_project_name(scraped: Prometheus) -> None:
    (query,) = (one for one in QUERIES if "project_name" in one)
    found = by_domain(scraped.wait_for(query))
    assert sorted(found) == SCANNED
    for one in found.values():
        assert (one["metric"]["group"], one["metric"]["project_name"]) == (f"openstack:{PROJECT}", "shop")
    (query,) = (one for one in QUERIES if "project_id" in one)
    assert [one["metric"]["project_id"] for one in scraped.wait_for(query)] == [PROJECT]


def test_processor_time_by_group(scraped: Prometheus) -> None:
    (query,) = (one for one in QUERIES if "cpu_time" in one)
    (one,) = scraped.wait_for(query)
    assert one["metric"] == {"host": "127.0.0.1", "group": f"openstack:{PROJECT}"}
    assert float(one["value"][1]) >= 0
