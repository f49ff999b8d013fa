"""`samepaged fleet sharing` on the command line, and its output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from samepaged import cli
from samepaged.analysis.fleet import spark_engine
from samepaged.traces import TraceStore, parquet
from tests.support.fleet import guest

if TYPE_CHECKING:
    from pathlib import Path

LOWEST = 1 << 63  # as a signed integer: in every sample


@pytest.fixture
def place(tmp_path: Path) -> str:
    store = TraceStore(tmp_path)
    store.write(guest("kvm-1", "web", [LOWEST, LOWEST, LOWEST + 1, 7, 0]))
    store.write(guest("kvm-2", "db", [LOWEST, LOWEST + 1, 7, 8]))
    store.write(guest("kvm\x1b3", "db", [LOWEST + 1, 9]))
    return str(tmp_path)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["fleet", "sharing", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_json_has_fleet_and_host_pairs(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "--json", "--engine", "duckdb", place)
    assert (found["schema"], found["sample"], found["page_size"], found["guests"]) == (1, 1, 4096, 3)
    assert (found["memory_pages"], found["hashed_pages"]) == (11, 10)
    assert (found["distinct_pages"], found["duplicate_pages"]) == (5, 5)
    assert (found["self_sharing_pages"], found["inter_sharing_pages"]) == (1, 4)
    assert (found["distinct_pages_bounds"], found["distinct_pages_relative_error"]) == ([5, 5], 0)
    assert [(*one["hosts"], one["shared_pages"]) for one in found["host_pairs"]] == [
        ("kvm-1", "kvm-2", 3),
        ("kvm\x1b3", "kvm-1", 1),
        ("kvm\x1b3", "kvm-2", 1),
    ]
    assert {one["host"]: one["only_here_pages"] for one in found["hosts"]} == {"kvm-1": 0, "kvm-2": 1, "kvm\x1b3": 1}
    assert found["widespread"][0] == {"hosts": 3, "guests": 3, "pages": 3}
    assert found["oldest_trace"] == found["newest_trace"] == "2023-11-14T22:13:20Z"


def test_sample_is_scaled_with_error(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, place, "--sample", "4", "--json")
    assert found["sample"] == 4
    assert found["distinct_pages"] == 8
    low, high = found["distinct_pages_bounds"]
    assert low < 8 <= high == 9  # what the three guests have, added up
    assert found["distinct_pages_relative_error"] == pytest.approx((0.75 / 2) ** 0.5, abs=1e-6)
    first = found["host_pairs"][0]
    assert (first["hosts"], first["shared_pages"]) == (["kvm-1", "kvm-2"], 3)  # kvm-1 has no more than 3 contents
    assert first["bounds"] == [2, 3]


def test_sample_never_makes_sharing_negative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # All of each guest's contents are in the sample, each twice: scaled up, there would be 64 times as many.
    for number in range(3):
        contents = range(LOWEST + 48 * number, LOWEST + 48 * (number + 1))
        TraceStore(tmp_path).write(guest(f"kvm-{number}", "x", [*contents, *contents]))
    found = printed(capsys, "--json", "--sample", "64", str(tmp_path))
    assert (found["hashed_pages"], found["distinct_pages"], found["distinct_pages_bounds"]) == (288, 144, [144, 144])
    assert (found["duplicate_pages"], found["self_sharing_pages"], found["inter_sharing_pages"]) == (144, 144, 0)
    for host in found["hosts"]:
        assert (host["distinct_pages"], host["only_here_pages"], host["inter_sharing_pages"]) == (48, 48, 0)


def test_tables_escape_host_names(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", "sharing", place]) == 0
    said = capsys.readouterr().out
    assert "3 hosts, 3 guests, traces from 2023-11-14T22:13:20Z" in said
    assert "12 KiB  kvm-1 + kvm-2" in said
    assert "kvm\\x1b3" in said
    assert "\x1b" not in said
    assert "1/" not in said
    assert cli.main(["fleet", "sharing", "--sample", "4", place]) == 0
    assert "1/4 of the contents" in capsys.readouterr().out


def test_hosts_without_sharing_are_omitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet.write(tmp_path / "x.parquet", [guest("a", "x", [7]), guest("b", "x", [8])])
    assert printed(capsys, "--json", str(tmp_path))["host_pairs"] == []
    assert cli.main(["fleet", "sharing", str(tmp_path)]) == 0
    assert "No hosts have memory in common." in capsys.readouterr().out


def test_bare_place_is_the_command(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["fleet", "place", "--json", place]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"moves", "gain_pages"}
    (tmp_path / "place").mkdir()
    monkeypatch.chdir(tmp_path)
    TraceStore(tmp_path / "place").write(guest("elsewhere", "x", [7]))
    assert [one["host"] for one in printed(capsys, "--json", "./place")["hosts"]] == ["elsewhere"]


@pytest.mark.parametrize(
    "words",
    [["--sample", "3"], ["--sample", "0"], ["--sample", "x"], ["--engine", "sqlite"], ["--limit", "a=1GiB"], ["more"]],
)
def test_unknown_options_are_refused(place: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([*words, place], [place, *words]):
        with pytest.raises(SystemExit) as caught:
            cli.main(["fleet", "sharing", *line])
        assert caught.value.code == 2
        assert words[-1].removesuffix("=1GiB") in capsys.readouterr().err or words == ["more"]


@pytest.mark.parametrize("options", [["--json"], ["--sample", "4"], ["--engine=duckdb"]])
def test_missing_subcommand_is_deprecated(place: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", "sharing", *options, place]) == 0
    expected = capsys.readouterr()
    assert expected.err == ""
    for words in ([*options, place], [place, *options]):
        assert cli.main(["fleet", *words]) == 0
        found = capsys.readouterr()
        assert found.out == expected.out
        assert found.err == ("samepaged: `samepaged fleet PLACE` is deprecated; use `samepaged fleet sharing PLACE`\n")


def test_options_before_subcommand_are_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["fleet", "--json", "place", place])
    assert caught.value.code == 2
    assert "unrecognized arguments: --json" in capsys.readouterr().err


def test_master_without_spark_is_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", "sharing", "--master", "local[2]", place]) == 2
    assert "add --engine spark" in capsys.readouterr().err


def test_missing_spark_error_names_package(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spark_engine, "pyspark", None)
    assert cli.main(["fleet", "sharing", "--engine", "spark", place]) == 2
    assert "pip install 'samepaged[spark]'" in capsys.readouterr().err


def test_path_without_traces_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fleet", "sharing", str(tmp_path)]) == 1
    assert "contains no traces" in capsys.readouterr().err
