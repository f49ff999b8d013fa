"""Generates the manual page from the command line parser and packaging/man/samepaged.in."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from unittest import mock

from argparse_manpage.manpage import Manpage

from samepaged import __version__
from samepaged.cli import command_parser
from tools.generate.files import TREE

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MANUAL", "generated", "page"]

MANUAL: Final = TREE / "packaging/man/samepaged.8"
SECTIONS: Final = MANUAL.with_suffix(".in")
CHANGELOG: Final = TREE / "packaging/debian/changelog"


def generated() -> dict[Path, str | None]:
    """Return the manual page."""
    return {MANUAL: page()}


def page() -> str:
    """Return the manual page in the macros of man(7), with the date of the newest package version."""
    # argparse wraps usage lines to the width of the terminal.
    with mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        data = {
            "project_name": "samepaged",
            "version": __version__,
            "description": "measure how much memory the guests of a KVM host could share",
            "manual_section": "8",
            "manual_title": "System Manager's Manual",
            "date": _date(),
            "include": str(SECTIONS),
        }
        parser = command_parser()
        parser.description = None  # the hand-written section replaces it
        text = str(Manpage(parser, data, format="single-commands-section"))
    # Usage lines keep their line breaks.
    return re.sub(r"^(usage: (?:.+\n)+)", r".nf\n\1.fi\n", text, flags=re.MULTILINE)


def _date() -> str:
    found = re.search(r"^ -- .*>  (.*)$", CHANGELOG.read_text(encoding="utf-8"), re.MULTILINE)
    moment = parsedate_to_datetime(found[1]) if found else datetime.fromtimestamp(0, UTC)
    return f"{moment:%B %d, %Y}"
