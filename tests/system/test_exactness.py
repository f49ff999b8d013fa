"""Exact page counts: compared with planted contents, with a dump, and with the kernel's own merging."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.guests import Spec, held, running
from tests.system.conftest import REGION, REGION_PAGES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

PAGE = 4096


def by_name(scan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {domain["name"]: domain for domain in scan["domains"]}


def planted(samepaged: Samepaged, a: Writer, b: Writer) -> dict[str, int]:
    """What planting changes, in pages: 1,000 pages of ten contents in a, 500 of twenty in b, ten of them the same."""
    a.fill(0, REGION_PAGES, 1, REGION_PAGES)
    b.fill(0, REGION_PAGES, 2, REGION_PAGES)
    # With equal commands, the guests' kernels have pages in common (of the terminal, for one) that are absent after
    # different commands: so earlier commands differ, too.
    b.fill(0, REGION_PAGES // 2, 2, REGION_PAGES)
    before = samepaged.scan("--mode", "snapshot", a.name, b.name)
    a.fill(0, 1000, 7, 10)
    b.fill(0, 500, 7, 20)
    after = samepaged.scan("--mode", "snapshot", a.name, b.name)
    for domain in after["domains"]:
        states = ("absent", "swapped", "zero", "distinct", "duplicate")
        assert sum(domain[f"{state}_pages"] for state in states) == domain["memory_pages"] == 96 * 256

    def grown(name: str, key: str) -> int:
        return int(by_name(after)[name][key]) - int(by_name(before)[name][key])

    return {
        "self a": grown(a.name, "duplicate_pages"),
        "self b": grown(b.name, "duplicate_pages"),
        "self": after["self_sharing_pages"] - before["self_sharing_pages"],
        "inter": after["inter_sharing_pages"] - before["inter_sharing_pages"],
        "pair": after["pairs"][0]["inter_sharing_pages"] - before["pairs"][0]["inter_sharing_pages"],
        "total": after["total_sharing_pages"] - before["total_sharing_pages"],
        "a with others": grown(a.name, "shared_with_others_pages"),
        "b with others": grown(b.name, "shared_with_others_pages"),
    }


def test_planted_content_changes_sharing_by_exactly_what_was_planted(
    samepaged: Samepaged, pair: list[Writer], connection: Any, root: Path
) -> None:
    expected = {
        "self a": 990,
        "self b": 480,
        "self": 1470,
        "inter": 10,
        "pair": 10,
        "total": 1480,
        "a with others": 10,
        "b with others": 10,
    }
    # The guests' kernels write a page of their own now and then, and that may share, too. A count that is wrong is
    # wrong each time; a kernel's page is there in one measurement and not in the next.
    measured = [planted(samepaged, *pair)]
    while measured[-1] != expected and len(measured) < 4:
        measured.append(planted(samepaged, *pair))
    if measured[-1] != expected:  # nor is it there in guests that have just been booted
        fresh = (Spec(f"samepaged-test-fresh-{name}", cmdline=f"region={REGION}") for name in "ab")
        with running(connection, root, *fresh) as writers:
            measured.append(planted(samepaged, *writers))
    assert measured[-1] == expected, "\n".join(map(str, measured))


def dumped_pages(path: Path, memory: int) -> list[bytes]:
    """RAM of a dump, a page each, by way of readelf and bytes alone."""
    listing = subprocess.run(["readelf", "-lW", path], check=True, capture_output=True, text=True).stdout
    content = path.read_bytes()
    pages: list[bytes] = []
    for line in re.findall(r"^\s+LOAD\s+(.*)$", listing, re.MULTILINE):
        offset, _, address, size = (int(word, 16) for word in line.split()[:4])
        if address < memory:  # behind it are ROMs
            pages += [content[offset + at : offset + at + PAGE] for at in range(0, size, PAGE)]
    assert len(pages) == memory // PAGE
    return pages


@pytest.mark.parametrize("reader", ["process", "dump"])
def test_scan_of_suspended_guests_equals_a_count_over_their_dumps(
    samepaged: Samepaged, pair: list[Writer], tmp_path: Path, reader: str
) -> None:
    with held(*pair):
        scan = samepaged.scan("--reader", reader)
        contents: dict[str, Counter[bytes]] = {}
        for writer in pair:
            path = tmp_path / writer.name
            writer.domain.coreDumpWithFormat(
                str(path), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
            )
            contents[writer.name] = Counter(dumped_pages(path, 96 << 20))
            path.unlink()
    zero = bytes(PAGE)
    for name, domain in by_name(scan).items():
        held_pages = contents[name]
        zeros = held_pages.pop(zero, 0)
        assert domain["reader"] == reader
        assert domain["zero_pages"] + domain["absent_pages"] == zeros
        assert domain["swapped_pages"] == 0
        assert domain["distinct_pages"] == len(held_pages)
        assert domain["duplicate_pages"] == held_pages.total() - len(held_pages)
    a, b = contents.values()
    assert scan["inter_sharing_pages"] == len(a.keys() & b.keys())
