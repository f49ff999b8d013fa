from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import yaml

from samepaged.commands.check_config import Command
from samepaged.config import Config, load, parse, schema_keys
from samepaged.errors import ConfigError
from tools.generate import configuration, files

EXAMPLE = configuration.EXAMPLE
KEYS = {".".join(key) for key in schema_keys()}


def problem(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert raised.value.exit_status == 2
    (line,) = raised.value.problems
    return line


def test_a_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("libvirt: {uri: 'test:///défaut'}", encoding="utf-8")
    assert load(path).libvirt.uri == "test:///défaut"


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    assert problem(path) == f"{path}:1:1: cannot be read: No such file or directory; correct its name, or create it"


def test_a_directory_is_a_problem(tmp_path: Path) -> None:
    assert problem(tmp_path) == f"{tmp_path}:1:1: cannot be read: Is a directory; name a readable file"


def test_unreadable_file_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root can read any file
    path = tmp_path / "c.yaml"
    assert problem(path) == (
        f"{path}:1:1: cannot be read: Permission denied; "
        "run as a user with permission to read it, or change its permissions"
    )


def test_impossible_file_name_is_a_problem() -> None:
    assert problem(Path("a\0b")) == "a\\x00b:1:1: cannot be read: embedded null byte; correct its name"


def test_endless_configuration_is_bounded() -> None:
    assert problem(Path("/dev/zero")).startswith("/dev/zero:1:1: is larger than 1048576 bytes")


def test_non_utf_8_file_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"log:\n  level: inf\xf6\n")
    assert problem(path) == f"{path}:2:13: the byte 0xf6 is not UTF-8; save the file as UTF-8"


def check(path: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command = Command()
    command.prepare_parser(parser)
    return command.run(parser.parse_args([str(path), *words]))


def test_check_config_accepts_a_valid_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(EXAMPLE) == 0
    assert capsys.readouterr().out == f"{EXAMPLE}: ok\n"


def test_check_config_raises_config_error(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("scan: {mode: x}\nlogg: {}\n")
    with pytest.raises(ConfigError) as raised:
        check(path)
    assert [line.split(": ")[0] for line in raised.value.problems] == [f"{path}:1:14", f"{path}:2:1"]


def test_check_config_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("scan: {mode: x}\nlogg: {}\n")
    assert check(path, "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["ok"], len(found["problems"])) == (str(path), False, 2)
    assert check(EXAMPLE, "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_example_has_the_defaults() -> None:
    assert load(EXAMPLE) == Config()


def test_reference_and_example_are_up_to_date() -> None:
    assert files.outdated(configuration.generated()) == [], files.REMEDY


def test_the_example_has_every_key() -> None:
    written = yaml.safe_load(EXAMPLE.read_text())
    keys = {*written} | {f"{name}.{key}" for name, part in written.items() if isinstance(part, dict) for key in part}
    assert keys == KEYS - {"groups.name", "groups.match"}


def test_the_groups_of_the_example_are_valid() -> None:
    lines = EXAMPLE.read_text().splitlines()
    first = lines.index("#   groups:")
    block = "\n".join(line.removeprefix("#   ") for line in lines[first : lines.index("groups: []")])
    assert [group.name for group in parse(block, "example").groups] == ["shop", "laboratory"]


def rows() -> dict[str, list[str]]:
    """Return the value, default and description of each key on the reference page."""
    lines = [
        re.split(r"(?<!\\)\|", line)[1:-1]
        for line in configuration.PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    return {key.strip(" `"): [cell.strip() for cell in cells] for key, *cells in lines}


@pytest.mark.parametrize(
    ("key", "value", "default"),
    [
        ("libvirt.uri", "text", "`qemu:///system`"),
        ("guests.include", "list of patterns, at least one", "`['*']`"),
        ("groups[].name", "text of at most 128 characters", "required"),
        ("grouping.metadata", "list of `openstack`, `kubevirt` or `samepaged`, each once", "`[openstack, kubevirt]`"),
        ("scan.interval", "duration, at least 1s", "`15m`"),
        ("scan.jitter", "number, 0 to 1", "`0.1`"),
        ("scan.max_duty", "number above 0, at most 1", "`0.01`"),
        ("scan.max_drift", "drift above 0, at most 1", "`500ppm`"),
        ("scan.mode", "`auto`, `snapshot`, `precopy`, `sliced` or `live`", "`auto`"),
        ("scan.threads", "whole number, 1 to 1024, or `null`", "`null`"),
        ("scan.page_sizes", "list of page sizes, 1KiB to 2MiB, each once", "`[]`"),
        ("scan.still_ksm", "`true` or `false`", "`false`"),
        ("traces.max_age", "duration above 0", "`30d`"),
        ("traces.max_bytes", "size", "`10GiB`"),
        ("export.listen", "address or `null`", "`127.0.0.1:9953`"),
        ("runtime_directory", "absolute path", "`/run/samepaged`"),
    ],
)
def test_the_reference_has_types_bounds_and_defaults(key: str, value: str, default: str) -> None:
    assert rows()[key][:2] == [value, default]
    assert rows()[key][2].endswith(".")


def test_every_format_is_explained() -> None:
    used = re.findall(r'"format": "([^"]+)"', json.dumps(Config.model_json_schema()))
    assert set(used) == set(configuration.FORMATS)


def test_documented_errors_are_current() -> None:
    shown = [line for line in configuration.PAGE.read_text().splitlines() if "bad.yaml:" in line]
    with pytest.raises(ConfigError) as raised:
        parse("scan:\n  intervall: 15m\n  max_pause: 0s\n  mode: slice\n", "bad.yaml")
    assert [f"samepaged: {line}" for line in raised.value.problems] == shown
