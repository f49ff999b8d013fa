"""The generated manual page and shell completion cover the commands and options of the command line."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from samepaged import cli
from tools.generate import completion, files, manual

if TYPE_CHECKING:
    from pathlib import Path

BASH = completion.DIRECTORY / "samepaged.bash"
FISH = completion.DIRECTORY / "samepaged.fish"
ZSH = completion.DIRECTORY / "_samepaged"
HELP = {"-h", "--help"}  # every parser has them


def commands(parser: argparse.ArgumentParser, before: str = "") -> dict[str, argparse.ArgumentParser]:
    """Every command by its words: `traces ls` is a command, `traces` alone is not."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= commands(inner, f"{before}{name} ") or {f"{before}{name}": inner}
    return found


PARSER = cli.command_parser()
COMMANDS = commands(PARSER)


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The parser's own options, by each of their names."""
    named = {name: action for action in parser._actions for name in action.option_strings}
    return {name: action for name, action in named.items() if name not in HELP}


def operands(parser: argparse.ArgumentParser) -> set[str]:
    return {str(action.metavar) for action in parser._actions if not action.option_strings}


CHOICES = {
    (command, name): {str(choice) for choice in action.choices}
    for command, parser in COMMANDS.items()
    for name, action in options(parser).items()
    if action.choices
}


# --- the manual page


def page() -> str:
    """The text of the manual page, without roff's escapes."""
    return re.sub(r"\\f.|\\,|\\/", "", manual.MANUAL.read_text()).replace(r"\-", "-")


def chapters() -> dict[str, str]:
    """The text about each command."""
    (section,) = re.findall(r"^\.SH\s+COMMANDS\n(.*?)(?=^\.SH )", page(), re.MULTILINE | re.DOTALL)
    parts = re.split(r"^\.SS samepaged (.+)\n", section, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_manual_and_completion_are_up_to_date() -> None:
    assert files.outdated(manual.generated() | completion.generated()) == [], files.REMEDY


def test_the_manual_page_has_every_command() -> None:
    assert set(COMMANDS) <= set(chapters())
    assert set(chapters()) - set(COMMANDS) == {"traces", "fleet"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_page_describes_every_option(command: str) -> None:
    text = chapters()[command]
    described = re.findall(r"^\.TP\n(\S+)(?: (.*))?\n(.+)", text, re.MULTILINE)
    assert {name for name, _, _ in described} == set(options(COMMANDS[command])) | operands(COMMANDS[command])
    for name, value, _ in described:
        if name in options(COMMANDS[command]):
            assert bool(value) == (options(COMMANDS[command])[name].nargs != 0), name


@pytest.mark.parametrize(("command", "option"), CHOICES)
def test_the_manual_page_has_every_choice(command: str, option: str) -> None:
    (found,) = re.findall(rf"^{option} {{(.*)}}$", chapters()[command], re.MULTILINE)
    assert set(found.split(",")) == CHOICES[command, option]


def test_manual_has_handwritten_sections() -> None:
    headings = re.findall(r"^\.SH\s+(.+)$", page(), re.MULTILINE)
    assert headings == [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "COMMANDS",
        "ENVIRONMENT",
        "FILES",
        "SIGNALS",
        "EXIT STATUS",
        "EXAMPLES",
        "SEE ALSO",
        "CAVEATS",
    ]


@pytest.mark.parametrize(
    "checker",
    [("man", "--warnings", "-E", "UTF-8", "-l"), ("mandoc", "-T", "lint", "-W", "warning")],
    ids=lambda x: x[0],
)
def test_manual_formats_without_warnings(checker: tuple[str, ...]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed")
    done = subprocess.run([*checker, str(manual.MANUAL)], check=False, capture_output=True, text=True)
    # Which other pages this machine has is its own business.
    said = [line for line in (done.stderr + done.stdout * (checker[0] == "mandoc")).splitlines() if ".db " not in line]
    assert said == []


# --- the completion in bash

# bash, with the words of a line; the last one is being typed.
COMPLETE = """
compopt() { :; }
. "$0"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
$(complete -p samepaged | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str, path: Path | None = None) -> set[str]:
    """What is offered for the last of `words`; programs are found in `path` before all others."""
    command = ["bash", "--norc", "-c", COMPLETE, str(BASH), "samepaged", *words]
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


def test_exactly_the_commands_complete() -> None:
    first = {name.split()[0] for name in COMMANDS}
    assert completed("") == first
    assert completed("-") == set(options(PARSER)) | HELP
    assert completed("re") == {name for name in first if name.startswith("re")}
    for name in (name.split() for name in COMMANDS if " " in name):
        assert completed(name[0], name[1][:-1]) >= {name[1]}


@pytest.mark.parametrize("command", COMMANDS)
def test_exactly_the_options_complete(command: str) -> None:
    assert completed(*command.split(), "-") == set(options(COMMANDS[command])) | HELP
    assert completed(*command.split(), "--con") == {
        name for name in options(COMMANDS[command]) if name.startswith("--con")
    }


@pytest.mark.parametrize(("command", "option"), CHOICES)
def test_option_values_complete(command: str, option: str) -> None:
    assert completed(*command.split(), option, "") == CHOICES[command, option]
    assert completed(*command.split(), option, "=") == CHOICES[command, option]
    assert completed(*command.split(), option, "=", "a") == {
        one for one in CHOICES[command, option] if one.startswith("a")
    }


def test_guest_arguments_complete(host: Path) -> None:
    taking = {name for name, parser in COMMANDS.items() if "DOMAIN" in operands(parser)}
    assert taking
    for command in COMMANDS:
        wants_file = not {"FILE", "DIR", "PLACE", "A", "B"}.isdisjoint(operands(COMMANDS[command]))
        offered = set() if wants_file else completed(*command.split(), "--json", "", path=host)
        assert offered == ({"web-1", "web-2", "db.example"} if command in taking else set()), command
    assert completed("scan", "web-1", "w", path=host) == {"web-1", "web-2"}


def test_file_arguments_complete(host: Path) -> None:
    expected = {"config.yaml", "config of old.yaml"}
    assert completed("check-config", "conf", path=host) == expected
    for command, parser in COMMANDS.items():
        if "--config" in options(parser):
            assert completed(*command.split(), "--config", "conf", path=host) == expected
            assert completed(*command.split(), "--config", "=", "conf", path=host) == expected


def test_numbers_and_uris_do_not_complete(host: Path) -> None:
    for command, parser in COMMANDS.items():
        for name in {"--connect", "--watch"} & set(options(parser)):
            assert completed(*command.split(), name, "", path=host) == set()


# --- the completion in fish and zsh


def test_fish_completion(host: Path) -> None:
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")

    def offered(line: str) -> set[str]:
        script = f"source {FISH}; complete -C 'samepaged {line}'"
        environment = {"PATH": f"{host}:/usr/bin:/bin", "HOME": str(host)}
        command = [fish, "--no-config", "-c", script]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=host, timeout=60
        )
        assert done.stderr == ""
        return {line.split("\t")[0] for line in done.stdout.splitlines()}

    assert offered("") == {name.split()[0] for name in COMMANDS}
    assert offered("fleet ") == {"sharing", "place"}
    for command in COMMANDS:
        assert offered(f"{command} --") == set(options(COMMANDS[command])) | {"--help"}
    for (command, option), choices in CHOICES.items():
        assert offered(f"{command} {option} ") == choices
    assert offered("scan web-1 ") == {"web-1", "web-2", "db.example"}
    assert {"config.yaml", "config of old.yaml"} <= {name.replace("\\", "") for name in offered("run --config conf")}
    assert offered("scan --connect ") == set()


# zsh in a terminal of its own, which lists the completions of the line $1 after the tab key. Ends when the terminal has
# shown all of the other arguments.
ZSH_COMPLETE = r"""
zmodload zsh/zpty
zpty inner zsh -f -i
zpty -w inner "PROMPT=''; fpath=($0 \$fpath); LISTMAX=10000; zstyle ':completion:*' list-prompt ''"
zpty -w inner "autoload -U compinit; compinit -u -D; setopt no_auto_menu; print rea''dy"
zpty -r inner output '*ready*'
zpty -w -n inner "samepaged $1"$'\t\t'
for word in "${@:2}"; do
  until [[ ${output//\\/} == *"$word"* ]]; do
    zpty -r inner chunk && output+=$chunk
  done
done
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {name.split()[0] for name in COMMANDS}),
        ("fleet ", {"sharing", "place"}),
        ("traces import --", {*options(COMMANDS["traces import"]), "--help"}),
        ("scan --mode ", CHOICES["scan", "--mode"]),
        ("scan ", {"web-1", "web-2", "db.example"}),
        ("run --config conf", {"config.yaml", "config of old.yaml"}),
    ],
)
def test_zsh_completes(host: Path, line: str, expected: set[str]) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    environment = {"PATH": f"{host}:/usr/bin:/bin", "HOME": str(host), "TERM": "dumb"}
    command = [zsh, "-f", "-c", ZSH_COMPLETE, str(completion.DIRECTORY), line, *sorted(expected)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=host, timeout=60)
    assert done.stderr == ""
