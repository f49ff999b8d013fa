"""`samepaged advise`, `scan --watch` and the text file, with real guests."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.daemon import daemon
from tests.support.guests import Spec, running

if TYPE_CHECKING:
    from typing import Any

    from tests.support.command import Samepaged
    from tests.support.guests import Writer


def test_the_advice_is_of_the_scan_and_of_the_kernel_s_counters(samepaged: Samepaged, pair: list[Writer]) -> None:
    done = samepaged("advise", "--json", "--connect", samepaged.uri)
    found = json.loads(done.stdout)
    scan = samepaged.scan()
    assert [domain["obstacle"] for domain in found["domains"]] == [None, None]
    assert found["memory_pages"] == sum(domain["memory_pages"] for domain in scan["domains"])
    zero = sum(domain["zero_pages"] for domain in scan["domains"])
    # Between two scans guests write a little.
    assert abs(found["potential_pages"] - scan["total_sharing_pages"] - zero) < 0.2 * found["potential_pages"]
    assert found["potential_pages"] == found["attainable_pages"]
    assert found["expected_profit_bytes"] == found["attainable_pages"] * 4096 - found["attended_pages"] * 64
    assert found["ksm"]["running"] == (Path("/sys/kernel/mm/ksm/run").read_text().strip() == "1")


def test_the_advice_for_people_is_ten_lines_of_80_columns(samepaged: Samepaged, pair: list[Writer]) -> None:
    lines = samepaged("advise", "--connect", samepaged.uri).stdout.splitlines()
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("2 guests with")


def test_a_guest_that_keeps_ksm_away_is_told_with_the_reason(
    samepaged: Samepaged, connection: Any, root: Path, pair: list[Writer]
) -> None:
    backing = "<memoryBacking><nosharepages/></memoryBacking>"
    memfd = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
    kept, shared = "samepaged-test-kept-away", "samepaged-test-memfd"
    specs = (Spec(kept, memory=84, memory_backing=backing), Spec(shared, memory=84, memory_backing=memfd))
    with running(connection, root, *specs):
        found = json.loads(samepaged("advise", "--json", "--connect", samepaged.uri).stdout)
    obstacles = {domain["name"]: domain["obstacle"] for domain in found["domains"]}
    assert obstacles == {pair[0].name: None, pair[1].name: None, kept: "nosharepages", shared: "shared"}
    assert found["attainable_pages"] < found["potential_pages"]


def test_passed_through_devices_are_marked_and_merge_nothing(
    samepaged: Samepaged, connection: Any, root: Path, pair: list[Writer]
) -> None:
    # No device is passed through here: the argument only matches an operator's QEMU option.
    line = (
        "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-fw_cfg'/>"
        "<qemu:arg value='name=opt/org.samepaged/vfio-pci,string=1'/></qemu:commandline>"
    )
    name = "samepaged-test-device"
    with running(connection, root, Spec(name, memory=84, metadata=line)):
        found = json.loads(samepaged("advise", "--json", "--connect", samepaged.uri).stdout)
        scan = samepaged.scan()
        shown = samepaged("scan", "--connect", samepaged.uri).stdout
    assert {domain["name"]: domain["obstacle"] for domain in found["domains"]}[name] == "pinned"
    assert found["attainable_pages"] < found["potential_pages"]
    marked = {domain["name"]: domain["device_writes"] for domain in scan["domains"]}
    assert marked == {pair[0].name: False, pair[1].name: False, name: True}
    (row,) = (line for line in shown.splitlines() if "snapshot+" in line or "snapshot*+" in line)
    assert row.split()[0].endswith("device")  # the table shortens long names
    assert "a passed-through device may have written" in shown


def test_a_watched_scan_prints_an_object_a_line_until_it_is_interrupted(
    samepaged: Samepaged, pair: list[Writer]
) -> None:
    command = samepaged.command("scan", "--json", "--watch", "1", "--connect", samepaged.uri)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        scans = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode in {0, 130}  # between two scans, or in one
    assert [len(scan["domains"]) for scan in scans] == [2, 2]
    assert scans[0]["started"] < scans[1]["started"]


def test_a_watch_of_no_time_is_a_usage_error(samepaged: Samepaged) -> None:
    for seconds in ("0", "-1", "nan", "inf"):
        done = samepaged("scan", f"--watch={seconds}", "--connect", samepaged.uri, expect=2)
        assert "use for example 10" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_where_no_port_may_be_opened_the_metrics_are_in_a_file(
    samepaged: Samepaged, pair: list[Writer], tmp_path: Path
) -> None:
    samepaged.configure("scan: {interval: 1s, jitter: 0, max_drift: 1}")
    path = tmp_path / "samepaged.prom"
    text = samepaged.config.read_text()
    before, _, after = text.partition("export: {")
    assert after
    samepaged.config.write_text(f"{before}export: {{textfile: {path}, listen: null}}\n{after.partition('}')[2]}")
    with daemon(samepaged) as one:
        one.wait_until(lambda: path.exists() and "samepage_host_inter_sharing_bytes" in path.read_text(), 60)
        names = {sample.labels.get("domain") for family in parse_text(path.read_text()) for sample in family.samples}
        assert {writer.name for writer in pair} <= names
        assert "serving metrics" not in one.log
        sockets = subprocess.run(["ss", "-tlnp"], capture_output=True, text=True, check=True).stdout
        assert f"pid={one.process.pid}," not in sockets
        # and a reload opens one, and closes it again
        closed = samepaged.config.read_text()
        samepaged.config.write_text(closed.replace("listen: null", "listen: '127.0.0.1:0'"))
        one.process.send_signal(signal.SIGHUP)
        assert one.metric("samepage_libvirt_up") == 1
        samepaged.config.write_text(closed)
        one.process.send_signal(signal.SIGHUP)
        one.wait("(?s)configuration reloaded.*configuration reloaded")
        with pytest.raises(OSError, match="refused"):
            one.metrics()
    assert not path.exists()
