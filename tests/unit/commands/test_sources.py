"""Tests of `samepaged sources` without a result for a guest."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from samepaged.commands import sources
from samepaged.config import Config
from samepaged.errors import Reason
from samepaged.scan.results import SkippedGuest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def asked(
    monkeypatch: pytest.MonkeyPatch, scan: SimpleNamespace, config: Config | None = None, *, path: Path | None = None
) -> tuple[int, float]:
    """Return the exit status for a scan without results, and the maximum pause of that scan."""
    longest = 0.0

    @contextlib.contextmanager
    def scans(config: Config, *_: Any, **__: Any) -> Iterator[Any]:
        nonlocal longest
        longest = config.scan.max_pause
        yield SimpleNamespace(scan=lambda: scan, attribution_reports=lambda **_: {})

    monkeypatch.setattr(sources, "configured", lambda _: config or Config())
    monkeypatch.setattr(sources, "ScanSession", scans)
    args = SimpleNamespace(
        mode=None, reader=None, no_names=False, traces=None, domains=["web"], json=False, config=path
    )
    return sources.Command().run(args), longest  # type: ignore[arg-type] # duck-typed arguments


def test_guest_over_memory_limit_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = SimpleNamespace(scans=[SimpleNamespace(name="web", started=1.0)], skipped=())
    assert asked(monkeypatch, scan)[0] == 1
    assert "web: page attribution exceeds sources.memory_limit" in capsys.readouterr().err


def test_named_excluded_guest_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    scan = SimpleNamespace(scans=(), skipped=[SkippedGuest("web", Reason.OPTED_OUT, "its metadata says so")])
    assert asked(monkeypatch, scan)[0] == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "samepaged: skipped: its metadata says so\n")


def test_pause_limit_defaults_to_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = SimpleNamespace(scans=(), skipped=())
    short = Config.model_validate({"scan": {"max_pause": 0.1}})
    assert asked(monkeypatch, scan)[1] == 2
    assert asked(monkeypatch, scan, short, path=Path("config.yaml"))[1] == 0.1
