from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged import hash_seed
from samepaged.config import parse
from samepaged.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_seed_file_is_private_and_permanent(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = hash_seed.load(None, state)
    assert hash_seed.load(None, state) == first
    assert stat.S_IMODE((state / "seed").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert list(state.iterdir()) == [state / "seed"]


def test_two_hosts_have_different_seeds(tmp_path: Path) -> None:
    assert hash_seed.load(None, tmp_path / "a") != hash_seed.load(None, tmp_path / "b")


def test_configured_seed_is_not_stored(tmp_path: Path) -> None:
    assert hash_seed.load(7, tmp_path / "state") == 7
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("text", ["", "xyz", "0x12", "12345678901234567", "-000000000000001", "1234 56781234567"])
def test_damaged_seed_has_a_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "seed").write_text(text)
    with pytest.raises(ConfigError, match=r"seed: does not contain a seed.*; remove it"):
        hash_seed.load(None, tmp_path)


@given(content=st.binary(max_size=40))
@example(content=b"00000000000000ff\n")
def test_any_seed_file_parses_or_raises(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("state")
    (path / "seed").write_bytes(content)
    try:
        assert 0 <= hash_seed.load(None, path) < 2**64
    except ConfigError as error:
        assert "\n" not in str(error)
        assert content != b"00000000000000ff\n"


def test_unwritable_seed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    first = hash_seed.load(None, tmp_path / "file" / "state")
    assert 0 <= first < 2**64
    assert "hash seed not stored" in caplog.text
    assert not shows(caplog.text, first)


def shows(text: str, number: int) -> bool:
    return any(form in text.lower() for form in (str(number), f"{number:x}"))


def test_logs_and_errors_hide_the_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    first = hash_seed.load(None, tmp_path)
    hash_seed.load(first, tmp_path)
    assert not shows(caplog.text, first)
    (tmp_path / "seed").write_text(f"{first:016x}, mistyped")
    with pytest.raises(ConfigError) as caught:
        hash_seed.load(None, tmp_path)
    assert not shows(repr(caught.value) + str(caught.value), first)


def test_configuration_hides_the_seed() -> None:
    config = parse("hashing: {seed: 0x5eed0fadae5c0de5}", "config.yaml")
    assert config.hashing.seed == 0x5EED0FADAE5C0DE5
    assert "state_directory" in repr(config)
    assert not shows(repr(config) + str(config), 0x5EED0FADAE5C0DE5)


@pytest.mark.parametrize(
    "text", ["0x5eed0fadae5c0de5ff", "'5eed0fadae5c0de5'", "[0x5eed0fadae5c0de5]", "5eed0fadae5c0de5"]
)
def test_a_mistyped_seed_is_not_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"hashing: {{seed: {text}}}", "config.yaml")
    assert "5eed" not in repr(caught.value)


@pytest.mark.parametrize(
    "number", ["0x5eed0fadae5c0de5", "0X5EED0FADAE5C0DE5", "6840140647674678757", "5eed0fadae5c0de5"]
)
@pytest.mark.parametrize(
    "text",
    [
        "hashing: {}",
        "hashing: {{seed {}}}",
        "hashing:\n  seed {}",
        "hashing:\n- seed: {}",
        "hashing: {{{}}}",
        "hashing: {{seed: *{}}}",
        "hashing: {{seed: !{} 1}}",
        "hashing: {{seed: {}, seed: 1}}",
        "hashing seed {}",
        "scan: {{mode: {}}}",
        "guests: {{include: {}}}",
    ],
)
def test_configuration_errors_hide_the_seed(text: str, number: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.format(number), "config.yaml")
    assert not shows(repr(caught.value), 0x5EED0FADAE5C0DE5)
