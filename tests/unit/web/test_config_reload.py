from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from samepaged.errors import ConfigError
from samepaged.web.config_reload import CHECK_SECONDS, ReloadingConfig

if TYPE_CHECKING:
    from pathlib import Path

HEADERS = "http_server_config: {{headers: {{X-Frame-Options: {}}}}}\n"


@dataclass
class Watch:
    """A reloading configuration with a manual clock, and its reports."""

    path: Path
    now: float = 0.0
    reports: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write("deny")
        self.config = ReloadingConfig(self.path, self.reports.append, lambda: self.now)

    def write(self, value: str) -> None:
        """Replace the file by another, as editors and certbot do."""
        new = self.path.with_suffix(".new")
        new.write_text(HEADERS.format(value))
        new.replace(self.path)

    def later(self) -> str:
        """Return the active value after the next check of the file is due."""
        self.now += CHECK_SECONDS
        return self.value

    @property
    def value(self) -> str:
        return self.config.current().loaded.config.http_server_config.headers["X-Frame-Options"]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / "web.yaml")


def test_no_file_means_plain_http() -> None:
    loaded = ReloadingConfig(None).current().loaded
    assert loaded.tls is None
    assert not loaded.config.basic_auth_users


def test_invalid_file_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ReloadingConfig(tmp_path / "none.yaml")


def test_changed_file_applies_within_a_second(watch: Watch) -> None:
    assert watch.value == "deny"
    watch.write("sameorigin")
    assert watch.value == "deny"
    assert watch.later() == "sameorigin"
    assert watch.reports == [""]


def test_invalid_change_keeps_old_config(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    before = watch.config.current()
    watch.write("[")
    with caplog.at_level(logging.ERROR):
        assert [watch.later() for _ in range(3)] == ["deny"] * 3
    assert watch.config.current() is before
    assert len(caplog.records) == len(watch.reports) == 1
    assert watch.reports[0].startswith(f"{watch.path}: ")
    assert caplog.messages[0].startswith("web configuration not reloaded error=")
    watch.write("sameorigin")
    assert watch.later() == "sameorigin"
    assert watch.reports[1:] == [""]


def test_restored_file_is_active_again(watch: Watch) -> None:
    text = watch.path.read_text()
    watch.path.unlink()
    assert watch.later() == "deny"
    watch.path.write_text(text)
    assert watch.later() == "deny"
    assert [bool(report) for report in watch.reports] == [True, False]


def test_referenced_files_are_watched(watch: Watch) -> None:
    watch.path.write_text("tls_server_config: {cert_file: a.crt, key_file: a.key}")
    assert watch.later() == "deny"
    (watch.path.parent / "a.crt").write_text("x")
    assert watch.later() == "deny"
    (watch.path.parent / "a.key").write_text("x")
    assert watch.later() == "deny"
    assert [report.partition("a.")[2][:4] for report in watch.reports[:2]] == ["crt ", "key "]
    assert "not a pair in PEM" in watch.reports[2]
    (watch.path.parent / "a.key").write_text("xy")
    watch.later()
    assert len(watch.reports) == 4


def test_unchanged_files_are_not_read(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samepaged.web.config_reload.load", lambda *_: pytest.fail("it was read"))
    assert [watch.later() for _ in range(3)] == ["deny"] * 3
