"""A dump of a real guest, imported, counts as a scan of the same moment does."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import libvirt

from samepaged.commands.traces import import_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support.command import Samepaged
    from tests.support.guests import Writer


def test_imported_dump_equals_scan(
    samepaged: Samepaged,
    pair: list[Writer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = samepaged.configure("hashing: {seed: 7}\nscan: {page_sizes: [1024, 8192]}")
    guest, path = pair[0], tmp_path / "core"
    guest.fill(0, 1000, 31, 10)
    guest.domain.suspend()
    try:
        scan = samepaged.scan("--mode", "snapshot", guest.name)
        guest.domain.coreDumpWithFormat(
            str(path), libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
        )
    finally:
        guest.domain.resume()
    (scanned,) = scan["domains"]

    monkeypatch.setattr(import_file, "seal", lambda: None)  # for good, and of the test run
    parser = argparse.ArgumentParser()
    import_file.Command().prepare_parser(parser)
    words = ["--into", str(tmp_path / "traces"), "--host", "kvm-1", "--config", str(config), "--json", str(path)]
    for more in ((), ("--memory", "96MiB")):  # with the domain's size, and without it
        domain = f"imported{len(more)}"
        args = parser.parse_args([*words, "--domain", domain, "--page-sizes", "1024,8192", *more])
        assert import_file.Command().run(args) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["format"] == "elf"
        assert found["memory_pages"] == scanned["memory_pages"] == 96 * 256
        assert found["zero_pages"] == scanned["zero_pages"] + scanned["absent_pages"]
        assert (found["distinct_pages"], found["duplicate_pages"], found["swapped_pages"]) == (
            scanned["distinct_pages"],
            scanned["duplicate_pages"],
            0,
        )
        assert found["duplicate_pages"] >= 990
        of_scan = {one["page_size"]: one["self_sharing_pages"] for one in scan["page_sizes"]}
        assert {one["page_size"]: one["duplicate_pages"] for one in found["by_page_size"]} == {
            size: of_scan[size] for size in (1024, 8192)
        }
