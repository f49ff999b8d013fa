"""Whether the drift budget holds for a command."""

from __future__ import annotations

import argparse

import pytest

from samepaged.commands.arguments import add_scan_arguments
from samepaged.commands.scan_session import bound_by_drift


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        ("", True),
        ("web-1 --connect qemu:///session", True),
        ("--reader process", True),
        ("--reader auto", True),
        ("--reader dump", False),
        ("--mode snapshot", False),
        ("--mode auto", False),
        ("--mode sliced --reader process", False),
    ],
)
def test_command_line_mode_is_not_bounded(words: str, bound: bool) -> None:  # noqa: FBT001 - a parameter
    parser = argparse.ArgumentParser()
    add_scan_arguments(parser)
    assert bound_by_drift(parser.parse_args(words.split())) is bound
