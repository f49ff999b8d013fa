"""The command line: the argument parser, and the exit status of errors."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged import __version__
from samepaged.commands.interface import add_commands
from samepaged.errors import SamepagedError
from samepaged.journald import configure_logging
from samepaged.os_errors import exhausted, no_resources

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["command_parser", "main"]

COMMANDS: Final = (
    "run",
    "scan",
    "advise",
    "sources",
    "recover",
    "check_config",
    "doctor",
    "traces",
    "study",
    "compare",
    "fleet",
)


def command_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command at the start of `words`, or of all commands. It imports only the modules of the
    commands in the parser.
    """
    parser = argparse.ArgumentParser(
        prog="samepaged",
        description="Measure how much memory the guests of a KVM host could share.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    named = tuple(module for module in COMMANDS if module.replace("_", "-") in words[:1])
    add_commands(parser, (import_module(f"samepaged.commands.{module}").Command() for module in named or COMMANDS))
    return parser


def _with_subcommand(words: Sequence[str]) -> Sequence[str]:
    """Return `words`, with the old form `samepaged fleet PLACE` replaced by `samepaged fleet sharing PLACE`."""
    if words[:1] != ["fleet"] or not words[1:] or not {"sharing", "place", "-h", "--help"}.isdisjoint(words):
        return words
    print("samepaged: `samepaged fleet PLACE` is deprecated; use `samepaged fleet sharing PLACE`", file=sys.stderr)
    return ["fleet", "sharing", *words[1:]]


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 success, 1 something skipped or failed, 2 usage or configuration
    error, 3 hypervisor not reachable. Errors are printed to stderr.
    """
    configure_logging()
    if sys.stdout is None:  # closed by the parent process
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the process exits
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a domain name may contain any character
    words = _with_subcommand(sys.argv[1:] if arguments is None else arguments)
    args = command_parser(words).parse_args(words)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except SamepagedError as error:
        for line in str(error).splitlines():
            print(f"samepaged: {line}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # The reader of the output closed it. Prevent another flush by the interpreter at exit.
        _silence_stdout()
        return 1
    except OSError as error:
        if exhausted(error):
            print(f"samepaged: {no_resources(str(error.filename or 'a file'), error)}", file=sys.stderr)
            return 1
        if error.errno not in {errno.ENOSPC, errno.EIO, errno.EBADF}:
            raise
        _silence_stdout()
        print(f"samepaged: {error}; is the disk full?", file=sys.stderr)
        return 1
    return status
