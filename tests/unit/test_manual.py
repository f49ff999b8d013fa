"""The manual page and the completion tell of every command and option of the command line, and of no other."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samepaged import cli

if TYPE_CHECKING:
    from collections.abc import Callable

TREE = Path(__file__).parents[2]
MANUAL = TREE / "packaging/man/samepaged.8"
COMPLETION = TREE / "packaging/completion/samepaged.bash"
HELP = {"-h", "--help"}  # every parser has them


def _commands(parser: argparse.ArgumentParser, before: str = "") -> dict[str, argparse.ArgumentParser]:
    """Every command by its words: `traces ls` is one, and `traces` alone is none; `fleet` and `fleet place` are two."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= _commands(inner, f"{before}{name} ") or {f"{before}{name}": inner}
                for word, made in _words(inner).items():
                    found[f"{before}{name} {word}"] = made(f"samepaged {name} {word}")
    return found


def _words(parser: argparse.ArgumentParser) -> dict[str, Callable[[str], argparse.ArgumentParser]]:
    """Words that can be in the place of an operand and are commands of their own."""
    return {word: made for action in parser._actions for word, made in getattr(action, "words", {}).items()}


PARSER = cli.command_parser()
COMMANDS = _commands(PARSER)


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The parser's own options, by each of their names."""
    named = {name: action for action in parser._actions for name in action.option_strings}
    return {name: action for name, action in named.items() if name not in HELP}


def shape(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """Which options it has, and whether they take a value; which operands."""
    found = {name: action.nargs != 0 for name, action in options(parser).items()}
    return found | {str(action.metavar): True for action in parser._actions if not action.option_strings}


CHOICES = {
    (command, name): {str(choice) for choice in action.choices}
    for command, parser in COMMANDS.items()
    for name, action in options(parser).items()
    if action.choices
}


# --- the manual page, in mdoc(7): `.Fl -json` is an option, `.Ar URI` an argument, `.Cm scan` a word to type as it is


def section(name: str) -> str:
    (found,) = re.findall(rf"^\.Sh {name}\n(.*?)(?=^\.Sh )", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def synopses() -> dict[str, str]:
    """The synopsis of each command."""
    return dict(re.findall(r"^\.Nm\n\.Cm (.+)\n((?s:.*?))(?=^\.Nm|\Z)", section("SYNOPSIS"), re.MULTILINE))


def chapters() -> dict[str, str]:
    """What is said of each command; what is said of all of them is under an empty name."""
    parts = re.split(r"^\.Ss (.+)\n", section("COMMANDS"), flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], parts[::2], strict=True))


def items(text: str) -> dict[str, str]:
    """What a list says of each option, the name of its value included."""
    found = re.findall(r"^\.It (Fl .*)\n((?:(?!\.It |\.El).*\n)*)", text, re.MULTILINE)
    return {f"-{name}": f"{head}\n{body}" for head, body in found for name in re.findall(r"Fl ([^\s,]+)", head)}


def test_the_manual_page_has_every_command_and_no_other() -> None:
    assert list(synopses()) == list(chapters())[1:]
    assert set(synopses()) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_synopsis_has_every_option_of_a_command_and_no_other(command: str) -> None:
    assert command in synopses()
    found: dict[str, bool] = {}
    for line in synopses()[command].splitlines():
        words = re.fullmatch(r"\.(?:Op )?(?:Fl (?P<flag>\S+))? ?(?:Ar (?P<value>\S+))?( \.\.\.)?", line)
        assert words is not None, line
        found[f"-{words['flag']}" if words["flag"] else words["value"]] = bool(words["value"])
    assert found == shape(COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_what_must_be_told_is_in_no_brackets_in_the_synopsis(command: str) -> None:
    lines = synopses()[command].splitlines()
    bare = {"-" + line.split()[1] for line in lines if line.startswith(".Fl ")}
    assert bare == {name for name, action in options(COMMANDS[command]).items() if action.required}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_page_says_something_of_every_option_of_a_command_and_of_no_other(command: str) -> None:
    found = items(chapters().get(command, ""))
    assert set(found) == set(options(COMMANDS[command]))
    for name, said in found.items():
        takes = options(COMMANDS[command])[name].nargs != 0
        assert ("Ar " in said.splitlines()[0]) == takes, f"{command} {name}"
        assert len(said.splitlines()) > 1, f"{command} {name}"


def test_the_manual_page_says_what_is_common_to_all_commands() -> None:
    assert set(items(chapters()[""])) == set(options(PARSER)) | HELP


@pytest.mark.parametrize(("command", "option"), CHOICES)
def test_the_manual_page_names_what_an_option_can_be(command: str, option: str) -> None:
    words = re.findall(r"^\.Cm (.*)", items(chapters()[command])[option], re.MULTILINE)
    named = set(re.findall(r"[\w-]+", " ".join(words)))
    assert named - set(COMMANDS) == CHOICES[command, option]


@pytest.mark.parametrize(
    "checker",
    [("man", "--warnings", "-E", "UTF-8", "-l"), ("mandoc", "-T", "lint", "-W", "warning")],
    ids=lambda x: x[0],
)
def test_the_manual_page_is_formatted_without_a_warning(checker: tuple[str, ...]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed")
    done = subprocess.run([*checker, str(MANUAL)], check=False, capture_output=True, text=True)
    # Which other pages this machine has is its own business.
    said = [line for line in (done.stderr + done.stdout * (checker[0] == "mandoc")).splitlines() if ".db " not in line]
    assert said == []


# --- the completion

# bash, with the words of a line of which the last one is being typed.
COMPLETE = """
compopt() { :; }
. "$0"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p samepaged | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str, path: Path | None = None) -> set[str]:
    """What is offered for the last of `words`; programs are found in `path` before all others."""
    command = ["bash", "--norc", "-c", COMPLETE, str(COMPLETION), "samepaged", *words]
    environment = {"PATH": f"{path}:/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=path, timeout=60)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory with a virsh that knows some guests, and two configurations."""
    virsh = tmp_path / "virsh"
    virsh.write_text("#!/bin/sh\nprintf '%s\\n' web-1 web-2 db.example --json 'a guest' '$(reboot)' ''\n")
    virsh.chmod(0o755)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "config of old.yaml").touch()
    return tmp_path


def test_every_command_is_completed_and_no_other() -> None:
    first = {name.split()[0] for name in COMMANDS}
    assert completed("") == first | set(options(PARSER)) | {"--help"}
    assert completed("re") == {name for name in first if name.startswith("re")}
    for name in (name.split() for name in COMMANDS if " " in name):
        assert completed(name[0], name[1][:-1]) >= {name[1]}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_completed_and_no_other(command: str) -> None:
    assert completed(*command.split(), "-") == set(options(COMMANDS[command])) | {"--help"}
    assert completed(*command.split(), "--con") == {
        name for name in options(COMMANDS[command]) if name.startswith("--con")
    }


@pytest.mark.parametrize(("command", "option"), CHOICES)
def test_what_an_option_can_be_is_completed_after_a_blank_and_after_the_sign(command: str, option: str) -> None:
    assert completed(*command.split(), option, "") == CHOICES[command, option]
    assert completed(*command.split(), option, "=") == CHOICES[command, option]
    assert completed(*command.split(), option, "=", "a") == {
        one for one in CHOICES[command, option] if one.startswith("a")
    }


def test_guests_are_completed_where_a_command_takes_some(host: Path) -> None:
    taking = {name for name, parser in COMMANDS.items() if "DOMAIN" in shape(parser)}
    assert taking
    for command in COMMANDS:
        wants_file = not {"FILE", "DIR", "PLACE", "A", "B"}.isdisjoint(shape(COMMANDS[command]))
        offered = set() if wants_file else completed(*command.split(), "--json", "", path=host)
        assert offered == ({"web-1", "web-2", "db.example"} if command in taking else set()), command
    assert completed("scan", "web-1", "w", path=host) == {"web-1", "web-2"}


def test_files_are_completed_where_a_file_is_wanted(host: Path) -> None:
    expected = {"config.yaml", "config of old.yaml"}
    assert completed("check-config", "conf", path=host) == expected
    for command, parser in COMMANDS.items():
        if "--config" in options(parser):
            assert completed(*command.split(), "--config", "conf", path=host) == expected
            assert completed(*command.split(), "--config", "=", "conf", path=host) == expected


def test_a_number_or_a_uri_is_not_guessed(host: Path) -> None:
    for command, parser in COMMANDS.items():
        for name in {"--connect", "--watch"} & set(options(parser)):
            assert completed(*command.split(), name, "", path=host) == set()
