"""BTF files of the operator; the build ID comes from the guest and is untrusted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from samepaged.attribution import btf_files
from samepaged.attribution.btf_files import read_btf_file

if TYPE_CHECKING:
    from pathlib import Path

BUILD = "0123456789abcdef"


def test_file_of_the_build_id_is_read(tmp_path: Path) -> None:
    (tmp_path / f"{BUILD}.btf").write_bytes(b"types")
    assert read_btf_file(tmp_path, BUILD) == b"types"
    assert read_btf_file(tmp_path, BUILD[::-1]) == b""
    assert read_btf_file(None, BUILD) == b""
    assert read_btf_file(tmp_path, None) == b""


@pytest.mark.parametrize(
    "build", ["../secret", "../../etc/passwd", "", "0123", "0123456789ABCDEF", BUILD + "\n", "a" * 65]
)
def test_hostile_build_id_reads_no_file(build: str, tmp_path: Path) -> None:
    inside = tmp_path / "types"
    inside.mkdir()
    for path in (tmp_path / "secret.btf", inside / f"{build.strip('./') or 'x'}.btf".replace("/", "_")):
        path.write_bytes(b"secret")
    assert read_btf_file(inside, build) == b""


def test_unusable_btf_file_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(btf_files, "MAX_BTF_FILE_BYTES", 3)
    (tmp_path / f"{BUILD}.btf").write_bytes(b"types")
    (tmp_path / f"{BUILD[::-1]}.btf").mkdir()
    with caplog.at_level(logging.WARNING):
        assert read_btf_file(tmp_path, BUILD) == b""
        assert read_btf_file(tmp_path, BUILD[::-1]) == b""
    assert "BTF file ignored" in caplog.text
    assert "cannot read BTF file" in caplog.text
