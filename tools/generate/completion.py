"""Generates shell completion for bash, zsh and fish from the command line parser, with shtab."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import shtab

from samepaged.cli import command_parser
from tools.generate.files import TREE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DIRECTORY", "generated", "scripts"]

DIRECTORY: Final = TREE / "packaging/completion"

# The running guests that libvirt shows to this user, without names that have characters with a meaning to the shell.
_LIST: Final = "virsh --quiet --readonly --connect qemu:///system list --name 2>/dev/null </dev/null"
_NAMES: Final = "^[A-Za-z0-9][A-Za-z0-9._+-]*$"
_DOMAINS: Final = {
    "bash": "_samepaged_domains",
    "zsh": "_samepaged_domains",
    "fish": "(_samepaged_domains)",
    "preamble": {
        "bash": f"""\
_samepaged_domains() {{
  compgen -W "$({_LIST} | grep '{_NAMES}')" -- "$1"
}}
""",
        "zsh": f"""\
_samepaged_domains() {{
  local -a domains=(${{(f)"$({_LIST} | grep '{_NAMES}')"}})
  compadd -a domains
}}
""",
        "fish": f"""\
function _samepaged_domains
  {_LIST} | string match -r '{_NAMES}'
end
""",
    },
}

# Completion by metavar of the argument.
_VALUES: Final[Mapping[str, object]] = {
    "A": shtab.FILE,
    "B": shtab.FILE,
    "DIR": shtab.DIRECTORY,
    "DOMAIN": _DOMAINS,
    "FILE": shtab.FILE,
    "PATH": shtab.FILE,
    "PLACE": shtab.FILE,
}

# bash splits --option=value into three words; shtab expects two.
_WITHOUT_EQUALS: Final = """\

_samepaged() {
  local words=() word current=${COMP_WORDS[COMP_CWORD]}
  for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
    [ "$word" = = ] || words+=("$word")
  done
  [ "$current" != = ] || current=
  local COMP_WORDS=("${words[@]}" "$current") COMP_CWORD=${#words[@]}
  _shtab_samepaged
}

complete -F _samepaged samepaged
"""


def generated() -> dict[Path, str | None]:
    """Return the completion script of each shell."""
    return {DIRECTORY / name: text for name, text in scripts().items()}


def scripts() -> dict[str, str]:
    """Return the scripts by file name. Raises SystemExit if an argument for a path has an unknown metavar."""
    parser = command_parser()
    for action in _actions(parser):
        known = _VALUES.get(str(action.metavar))
        if known is not None:
            action.complete = known  # type: ignore[attr-defined] # shtab's own attribute
        elif action.type is Path:
            raise SystemExit(f"tools/generate/completion.py: no completion for {action.metavar}; add it to _VALUES")
    bash, zsh, fish = (f"{shtab.complete(parser, shell=shell).rstrip()}\n" for shell in ("bash", "zsh", "fish"))
    return {"samepaged.bash": bash + _WITHOUT_EQUALS, "_samepaged": zsh, "samepaged.fish": fish}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of all commands, with shortened help: the first sentence, without the default."""
    for action in parser._actions:  # noqa: SLF001 - argparse lacks a public list
        if action.help is not None:
            action.help = re.split(r"[.;] | \(default", action.help)[0]
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for listed in action._choices_actions:  # noqa: SLF001 - as above
                action.choices[listed.dest].description = listed.help
            for subparser in action.choices.values():
                yield from _actions(subparser)
