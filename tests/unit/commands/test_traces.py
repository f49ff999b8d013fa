"""Tests of `samepaged traces`: ls, verify, prune and export."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from samepaged.cli import main
from samepaged.traces import TraceStore, read, survey
from tests.support.traces import trace

if TYPE_CHECKING:
    from pathlib import Path

NOON = 1_700_000_000.0


def add(place: Path, domain: str = "web-1", *pages: int, host: str = "kvm-1", at: float = NOON, seed: int = 7) -> Path:
    written = trace(pages or (0, 2, 2, 9, 9, 2**63 + 1), host=host, domain=domain, at=at, seed=seed)
    return TraceStore(place).write(written)


def listed(capsys: pytest.CaptureFixture[str], place: Path) -> list[dict[str, Any]]:
    assert main(["traces", "ls", "--json", str(place)]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["traces"]
    return found


def test_traces_are_listed_with_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = add(tmp_path)
    add(tmp_path, "db", at=NOON + 1, seed=8)
    other, one = listed(capsys, tmp_path)
    assert (one["domain"], one["memory_pages"], one["distinct_pages"], one["duplicate_pages"]) == ("web-1", 6, 2, 1)
    assert (one["file"], one["file_bytes"], one["sample"]) == (str(path), path.stat().st_size, 1)
    assert other["seed"] != one["seed"]
    assert main(["traces", "ls", str(tmp_path)]) == 0
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["scanned", "host", "guest"]
    assert first.split()[:3] == ["2023-11-14T22:13:21Z", "kvm-1", "db"]
    assert second.split()[2:6] == ["web-1", "24", "KiB", "8"]


def test_invalid_file_does_not_hide_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path)
    (tmp_path / "other.parquet").write_bytes(b"PAR1 and so on")
    for action in ("ls", "verify"):
        assert main(["traces", action, str(tmp_path)]) == 1
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        assert "other.parquet: is not a Parquet file" in shown.err
        assert "web-1" in shown.out or "1 trace is intact" in shown.out


def test_damaged_rows_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = add(tmp_path, "web-1", *range(9, 5000))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert main(["traces", "verify", str(tmp_path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_trace_list_escapes_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add(tmp_path, "a\x1b[2Jb\u202e")
    assert main(["traces", "ls", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_export_has_the_chosen_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, into = tmp_path / "traces", tmp_path / "out.parquet"
    for number in range(3):
        add(place, "web-1", *range(9, 40 + number), at=NOON + number)
        add(place, "db", *range(20, 30), at=NOON + number)
        add(place, "web-1", 9, 10, host="kvm-2", at=NOON + number)
    command = ["traces", "export", "--newest", "--host", "kvm-1", "--domain", "w*", "--into", str(into), str(place)]
    assert main(command) == 0
    ((trace,), (file,)) = read(into), survey(into)
    assert (trace.info.domain, trace.info.scanned_at) == ("web-1", NOON + 2)
    assert trace.hashes.tolist() == list(range(9, 42))
    assert file.traces == (trace.info,)
    assert stat.S_IMODE(into.stat().st_mode) == 0o600
    capsys.readouterr()
    assert main(command) == 1
    assert "already exists" in capsys.readouterr().err
    assert main([*command[:-3], "--into", str(tmp_path / "all"), str(place)]) == 0
    assert main(["traces", "export", "--into", str(tmp_path / "none"), "--host", "x", str(place)]) == 1
    assert not (tmp_path / "none").exists()


def test_sample_keeps_lowest_hashes_and_counts(tmp_path: Path) -> None:
    place, into = tmp_path / "traces", tmp_path / "out.parquet"
    add(place, "web-1", *range(9, 20), 2**63, 2**63 + 5, 2**63 + 5)
    assert main(["traces", "export", "--sample", "256", "--into", str(into), str(place)]) == 0
    (trace,) = read(into)
    assert (trace.hashes.tolist(), trace.pages.tolist()) == ([2**63, 2**63 + 5], [1, 2])
    assert (trace.info.distinct_pages, trace.info.duplicate_pages, trace.sample) == (13, 1, 256)


@pytest.mark.parametrize("sample", ["0", "3", "-4", "x", "131072", "²"])
def test_sample_is_power_of_two(tmp_path: Path, sample: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["traces", "export", f"--sample={sample}", "--into", str(tmp_path / "x"), str(tmp_path)])
    assert ended.value.code == 2
    assert "power of two up to 65536" in capsys.readouterr().err


def test_pruning_says_what_it_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [add(tmp_path, at=NOON + number) for number in range(3)]
    most = sum(path.stat().st_size for path in paths[1:])
    assert main(["traces", "prune", "--max-bytes", str(most), str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{paths[0]}\n"
    assert main(["traces", "prune", "--max-age", "7d", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths[1:]]
    assert main(["traces", "prune", str(tmp_path)]) == 2
    assert main(["traces", "prune", "--max-age", "7d", str(tmp_path / "nowhere")]) == 1
    with pytest.raises(SystemExit):
        main(["traces", "prune", "--max-age", "soon", str(tmp_path)])
    assert "is not a duration; write a number" in capsys.readouterr().err
