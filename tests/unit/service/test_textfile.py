from __future__ import annotations

import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families as parse_text

from samepaged.service.textfile import Textfile
from tests.support.results import full_snapshot

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_textfile_omits_process_metrics(tmp_path: Path) -> None:
    shown = full_snapshot()
    path = tmp_path / "samepaged.prom"
    Textfile().write(path, shown)
    names = {family.name for family in parse_text(path.read_text())}
    assert "samepage_host_inter_sharing_bytes" in names
    assert all(name.startswith("samepage_") for name in names)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_only_changes_rewrite_the_file(tmp_path: Path) -> None:
    shown = full_snapshot()
    path = tmp_path / "samepaged.prom"
    textfile = Textfile()
    textfile.write(path, shown)
    first = path.stat().st_ino
    textfile.write(path, shown)
    assert path.stat().st_ino == first
    textfile.write(path, replace(shown, libvirt_up=False))
    assert "samepage_libvirt_up 0" in path.read_text()
    assert path.stat().st_ino != first


def test_textfile_is_removed_when_replaced(tmp_path: Path) -> None:
    shown = full_snapshot()
    one, other = tmp_path / "one.prom", tmp_path / "other.prom"
    textfile = Textfile()
    textfile.write(one, shown)
    textfile.write(other, shown)
    assert list(tmp_path.iterdir()) == [other]
    textfile.write(None, shown)
    assert list(tmp_path.iterdir()) == []
    textfile.write(one, shown)
    textfile.remove()
    assert list(tmp_path.iterdir()) == []


def test_write_failure_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shown = full_snapshot()
    path = tmp_path / "away" / "samepaged.prom"
    textfile = Textfile()
    for _ in range(3):
        textfile.write(path, shown)
    assert [record.getMessage().count("export.textfile") for record in caplog.records] == [1]
    path.parent.mkdir()
    textfile.write(path, shown)
    assert path.exists()
