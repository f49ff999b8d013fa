"""Tests of `samepaged fleet place`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from samepaged.commands.fleet.place import Command
from samepaged.errors import TraceError, UsageError
from samepaged.traces import Trace, TraceStore
from samepaged.traces.parquet import write
from tests.support.traces import WHEN, trace

if TYPE_CHECKING:
    from pathlib import Path

MIB = 256


def guest_trace(
    number: int, host: str, image: int, *, at: float = 0.0, domain: str | None = None, host_mib: int | None = None
) -> Trace:
    """Return a guest of 4 MiB: half of it is an image that other guests have, a quarter is unique."""
    shared = np.random.default_rng(image).integers(3, 2**64, 2 * MIB, dtype=np.uint64)
    own = np.random.default_rng(1000 + number).integers(3, 2**64, MIB, dtype=np.uint64)
    return trace(
        np.concatenate([shared, own, np.zeros(MIB, dtype=np.uint64)]),
        host=host,
        domain=domain or f"vm-{number}",
        at=WHEN + at,
        uuid=str(number),
        host_memory=None if host_mib is None else host_mib << 20,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Create traces of two images, with a guest of each image on each of two hosts: two moves collocate them."""
    for number in range(4):
        TraceStore(tmp_path).write(guest_trace(number, f"kvm-{number // 2}", number % 2))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    Command().prepare_parser(parser)
    assert Command().run(parser.parse_args([str(word) for word in words])) == 0
    return capsys.readouterr().out


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(capsys, "--json", *words))
    return found


def test_moves_are_listed_with_gain(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--memory", "12MiB", place)
    assert found["gain_pages"] == found["at_most_pages"] == 4 * MIB
    assert sum(move["gain_pages"] for move in found["moves"]) == 4 * MIB
    assert [set(move) for move in found["moves"]] == [{"domain", "from", "to", "gain_pages"}] * 2
    assert {(one["from"], one["to"]) for one in found["moves"]} == {("kvm-0", "kvm-1"), ("kvm-1", "kvm-0")}
    (host, _) = found["hosts"]
    assert (host["memory_bytes_before"], host["memory_bytes_after"], host["limit_bytes"]) == (
        8 << 20,
        8 << 20,
        12 << 20,
    )
    assert (host["inter_sharing_pages_before"], host["inter_sharing_pages_after"]) == (0, 2 * MIB)
    assert (found["sample"], found["gain_error_pages"]) == (1, 0)


def test_text_agrees_with_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--memory", "12MiB", place)
    assert "2 moves gain 4.00 MiB of inter-VM sharing." in text
    assert "2.00 MiB  vm-" in text
    assert "No moves were found" in printed(capsys, place)


def test_memory_limits_by_precedence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, host in enumerate(("a=b", "kvm-1", "kvm-2")):
        TraceStore(tmp_path).write(guest_trace(number, host, 0, host_mib=9 if host == "kvm-1" else None))
    sources = {one["host"]: (one["limit_from"], one["limit_bytes"] >> 20) for one in told(capsys, tmp_path)["hosts"]}
    assert sources == {"a=b": ("now", 4), "kvm-1": ("traces", 9), "kvm-2": ("now", 4)}
    found = told(capsys, "--memory", "8MiB", "--limit", "a=b=6MiB", tmp_path)
    sources = {one["host"]: (one["limit_from"], one["limit_bytes"] >> 20) for one in found["hosts"]}
    assert sources == {"a=b": ("--limit", 6), "kvm-1": ("--memory", 8), "kvm-2": ("--memory", 8)}


def test_limits_accept_plain_bytes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--memory", "68719476736", "--limit", "kvm-0=2924544", place)
    assert [one["limit_bytes"] for one in found["hosts"]] == [2924544, 68719476736]


def test_kept_guests_do_not_move(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, "--memory", "1GiB", "--keep", "vm-[01]", place)
    assert {move["domain"] for move in found["moves"]} == {"vm-2", "vm-3"} or found["moves"][0]["domain"] in {
        "vm-2",
        "vm-3",
    }
    assert not {"vm-0", "vm-1"} & {move["domain"] for move in found["moves"]}
    assert len(told(capsys, "--memory", "1GiB", "--moves", "1", place)["moves"]) == 1


def test_newest_trace_determines_the_host(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TraceStore(place).write(guest_trace(2, "kvm-0", 0, at=60))
    found = told(capsys, "--memory", "16MiB", place)
    assert found["guests"] == 4
    before = {one["host"]: one["memory_bytes_before"] >> 20 for one in found["hosts"]}
    assert before == {"kvm-0": 12, "kvm-1": 4}


def test_single_file_and_samples_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traces = [guest_trace(number, f"kvm-{number // 2}", number % 2).sampled(4) for number in range(4)]
    write(tmp_path / "all.parquet", traces)
    found = told(capsys, "--memory", "12MiB", tmp_path)
    assert found["sample"] == 4
    assert abs(found["gain_pages"] - 4 * MIB) < 4 * found["gain_error_pages"]
    assert found["gain_error_pages"] > 0
    assert "an estimate" in printed(capsys, "--memory", "12MiB", tmp_path)


def test_placement_escapes_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, host in enumerate(("\x1b[2J", "\u202ekvm")):
        TraceStore(tmp_path).write(guest_trace(number, host, 0, domain="a\nb\x07" + str(number)))
    text = printed(capsys, "--memory", "1GiB", tmp_path)
    assert "a\\nb\\x07" in text
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit", "kvm-7=1GiB"], "no traces of host 'kvm-7'"),
        (["--limit", "kvm-0=1GiB", "--limit", "kvm-0=2GiB"], "'kvm-0' has two limits"),
        (["--keep", "web-*"], "'web-*' does not match any guest"),
    ],
)
def test_missing_inputs_are_reported(
    place: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        printed(capsys, *words, place)


@pytest.mark.parametrize(
    "words",
    [
        ["--limit", "1GiB"],
        ["--limit", "kvm-0=much"],
        ["--limit", "kvm-0="],
        ["--memory", "-1"],
        ["--memory", "9" * 30],
        ["--moves", "-1"],
        ["--moves", "9" * 30],
        ["--sample", "3"],
    ],
)
def test_invalid_options_are_refused(place: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        printed(capsys, *words, place)
    assert refused.value.code == 2


def test_damaged_trace_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = next(place.glob("**/*.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TraceError, match=path.name):
        printed(capsys, place)
