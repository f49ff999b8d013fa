"""KSM counters of several kernel versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from samepaged.ksm import HostMerging, ProcessMerging, host_merging, process_merging

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NEW = {
    "run": "1",
    "pages_shared": "10",
    "pages_sharing": "90",
    "pages_unshared": "300",
    "pages_volatile": "5",
    "ksm_zero_pages": "20",
    "full_scans": "7",
    "pages_to_scan": "100",
    "sleep_millisecs": "20",
}
STAT = (
    "ksm_rmap_items 500\nksm_zero_pages 20\nksm_merging_pages 90\nksm_process_profit 418560\n"
    "ksm_merge_any: no\nksm_mergeable: yes\n"
)


def laid(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).write_text(f"{text}\n")
    return directory


def test_host_counters_are_read(tmp_path: Path) -> None:
    found = host_merging(laid(tmp_path, NEW))
    assert found == HostMerging(1, 10, 90, 300, 5, 20, 7, 100, 20)
    assert found.running
    assert found.merged_pages == 110


def test_host_profit_formula(tmp_path: Path) -> None:
    found = host_merging(laid(tmp_path, NEW))
    assert found is not None
    assert found.profit_bytes == 110 * 4096 - (10 + 90 + 300 + 5) * 64


def test_missing_counters_are_zero(tmp_path: Path) -> None:
    old = {name: text for name, text in NEW.items() if name != "ksm_zero_pages"}
    found = host_merging(laid(tmp_path, old))
    assert found is not None
    assert (found.zero, found.merged_pages) == (0, 90)


def test_kernel_without_ksm_has_no_counters(tmp_path: Path) -> None:
    assert host_merging(tmp_path / "ksm") is None


def test_undone_merging_is_not_running(tmp_path: Path) -> None:
    found = host_merging(laid(tmp_path, NEW | {"run": "2"}))
    assert found is not None
    assert not found.running


def process(proc: Path, files: dict[str, str]) -> ProcessMerging | None:
    (proc / "42").mkdir()
    laid(proc / "42", files)
    return process_merging(42, proc)


def test_process_counters_and_profit(tmp_path: Path) -> None:
    found = process(tmp_path, {"ksm_stat": STAT})
    assert found == ProcessMerging(merging=90, zero=20, rmap_items=500)
    assert found.profit_bytes == 418560


def test_process_counters_of_linux_6_1(tmp_path: Path) -> None:
    found = process(tmp_path, {"ksm_stat": "ksm_rmap_items 500", "ksm_merging_pages": "90"})
    assert found == ProcessMerging(merging=90, zero=0, rmap_items=500)


def test_unreadable_process_has_no_counters(tmp_path: Path) -> None:
    assert process_merging(42, tmp_path) is None
    assert process(tmp_path, {"ksm_stat": "nonsense"}) is None


@given(st.binary(max_size=200))
def test_arbitrary_files_are_counters_or_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    proc = tmp_path_factory.mktemp("proc")
    (proc / "42").mkdir()
    (proc / "42" / "ksm_stat").write_bytes(b"ksm_merging_pages " + content)
    found = process_merging(42, proc)
    assert found is None or 0 <= found.merging < 10**19
    (proc / "42" / "run").write_bytes(content)
    host = host_merging(proc / "42")
    assert host is None or host.run >= 0
