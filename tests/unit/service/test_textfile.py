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


def test_the_metrics_are_in_the_file_and_those_of_the_process_are_left_to_the_collector(tmp_path: Path) -> None:
    shown = full_snapshot()
    path = tmp_path / "samepaged.prom"
    Textfile().write(path, shown)
    names = {family.name for family in parse_text(path.read_text())}
    assert "samepage_host_inter_sharing_bytes" in names
    assert all(name.startswith("samepage_") for name in names)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_new_takes_the_place_of_the_file_and_what_is_not_leaves_it(tmp_path: Path) -> None:
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


def test_it_is_removed_at_the_end_and_when_another_takes_its_place(tmp_path: Path) -> None:
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


def test_where_it_cannot_be_written_that_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = full_snapshot()
    path = tmp_path / "away" / "samepaged.prom"
    textfile = Textfile()
    for _ in range(3):
        textfile.write(path, shown)
    assert [record.getMessage().count("export.textfile") for record in caplog.records] == [1]
    path.parent.mkdir()
    textfile.write(path, shown)
    assert path.exists()
