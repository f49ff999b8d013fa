"""`make generate`, and the comparison of generated files in `make check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tools.generate import __main__ as generate
from tools.generate import completion, files

if TYPE_CHECKING:
    from pathlib import Path


def test_check_names_outdated_files_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.json").write_text("old", encoding="utf-8")
    monkeypatch.setattr(files, "TREE", tmp_path)
    wanted = {tmp_path / "a.md": "new", tmp_path / "b.json": None}
    monkeypatch.setattr(generate, "GENERATORS", {"example": lambda: wanted})

    monkeypatch.setattr(sys, "argv", ["generate", "--check"])
    assert generate.main() == 1
    assert capsys.readouterr().err == "not up to date: a.md, b.json; run `make generate`\n"
    assert (tmp_path / "b.json").exists()

    monkeypatch.setattr(sys, "argv", ["generate"])
    assert generate.main() == 0
    assert capsys.readouterr().out == "a.md\nb.json\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]

    monkeypatch.setattr(sys, "argv", ["generate", "--check", "example"])
    assert generate.main() == 0


def test_an_unknown_generator_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["generate", "page"])
    with pytest.raises(SystemExit) as caught:
        generate.main()
    assert caught.value.code == 2
    assert "unknown generator page" in capsys.readouterr().err


def test_a_path_without_completion_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "_VALUES", {})
    with pytest.raises(SystemExit, match="no completion for FILE; add it"):
        completion.scripts()
