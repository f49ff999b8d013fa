from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from samepaged.errors import SamepagedError
from samepaged.guard.journal import RuntimeDirectory, runtime_directory

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory that takes the place of a configured one."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid)
    return tmp_path / f"samepaged-{tmp_path.stat().st_uid}"


def test_configured_directory_is_created(tmp_path: Path) -> None:
    configured = tmp_path / "a" / "run"
    assert runtime_directory(configured) == RuntimeDirectory(configured, "")
    assert list(configured.iterdir()) == []


def test_fallback_directory_has_a_reason(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "file").touch()
    place = runtime_directory(tmp_path / "file" / "run")
    assert place.path == elsewhere
    assert str(tmp_path / "file" / "run") in place.fallback_reason
    assert "Not a directory" in place.fallback_reason


def test_foreign_directory_is_not_trusted(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "file").touch()
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    with pytest.raises(SamepagedError, match="set runtime_directory"):
        runtime_directory(tmp_path / "file" / "run")
