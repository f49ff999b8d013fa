"""Arguments that several commands take, and the types of their values."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, get_args

from samepaged.config import Mode, Reader, ScanConfig
from samepaged.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_config", "add_connect", "add_json", "add_out", "add_place", "add_scan_arguments", "add_traces"]
__all__ += ["add_seed", "argument_type", "check_seed", "quantity", "sample"]

Value = TypeVar("Value")

MAX_SAMPLE: Final = 1 << 16


def argument_type(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return `parse` as the type of an argument: its ValueError becomes a usage error with the same message."""

    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def quantity(parse: Callable[[object], Value]) -> Callable[[str], Value]:
    """Return `argument_type` for a quantity in the form of the configuration file: `512MiB`, or a number."""
    return argument_type(lambda text: parse(int(text) if text.isascii() and text.isdecimal() else text))


def sample(text: str) -> int:
    """Parse the N of a sample of 1/N of the contents, as the type of an argument."""
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_SAMPLE)) else 0
    if value.bit_count() != 1 or value > MAX_SAMPLE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a power of two up to {MAX_SAMPLE}; use for example 256")
    return value


def add_config(parser: argparse.ArgumentParser, purpose: str = "", *, required: bool = False) -> None:
    """Add `--config`. `purpose` is appended to its help text."""
    default = "" if required else " (default: built-in defaults)"
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        required=required,
        help=f"configuration file{purpose}{default}",
    )


def add_connect(parser: argparse.ArgumentParser, replaced: str = "libvirt.uri from the configuration") -> None:
    """Add `--connect`. `replaced`: the default in its help text."""
    parser.add_argument(
        "--connect", metavar="URI", help=f"libvirt connection URI of this host's QEMU driver (default: {replaced})"
    )


def add_json(parser: argparse.ArgumentParser, form: str = "print one JSON object instead of text") -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help=form)


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed`, for the random choice of traces."""
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="seed of the random choice of traces (default: %(default)s)",
    )


def add_out(parser: argparse.ArgumentParser, figures: str) -> None:
    """Add `--out`, the directory of the report. `figures` names its figures."""
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help=f"write {figures} as PNG and SVG, a self-contained HTML report and the JSON object into this directory; "
        "needs matplotlib",
    )


def check_seed(args: argparse.Namespace) -> None:
    """Raise UsageError if `--seed` is negative."""
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed} is negative", "use 0 or more")


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add PLACE, the traces that a command reads."""
    parser.add_argument(
        "place",
        metavar="PLACE",
        help="traces: a directory, a file, a quoted pattern, or an address that DuckDB can read, such as an object "
        "store's",
    )


def add_scan_arguments(parser: argparse.ArgumentParser, *, with_domains: bool = False) -> None:
    """Add the arguments that select guests, mode and reader. If `with_domains`, at least one guest is required."""
    if with_domains:
        parser.add_argument("domains", metavar="DOMAIN", nargs="+", help="name or UUID of a guest")
    else:
        parser.add_argument(
            "domains", metavar="DOMAIN", nargs="*", help="name or UUID of a guest (default: all running guests)"
        )
    add_config(parser)
    add_connect(parser)
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        help="consistency mode (default: scan.mode from the configuration). snapshot suspends the guest for the whole "
        "read, precopy only for a second read of the pages written during the first, sliced for many short slices. "
        "live does not suspend the guest, and does not guarantee a consistent result. auto uses the first of snapshot, "
        "precopy and sliced with a predicted pause within scan.max_pause",
    )
    parser.add_argument(
        "--reader",
        choices=get_args(Reader),
        help=f"reader of guest memory (default: scan.reader from the configuration). {_choices_help('reader')}",
    )


def _choices_help(key: str) -> str:
    """Return the meaning of each value of a key of section `scan`: the list in its description, as plain text."""
    text = ScanConfig.model_fields[key].description or ""
    choices = " ".join(text.partition("\n\n")[2].replace("`", "").split())
    return choices.removeprefix("- ").replace(". - ", ". ").removesuffix(".")


def add_traces(parser: argparse.ArgumentParser, addition: str = "") -> None:
    """Add `--traces`. `addition` is inserted into its help text."""
    parser.add_argument(
        "--traces",
        metavar="DIR",
        type=Path,
        help=f"write a trace of each guest below this directory{addition}, independently of traces.enabled",
    )
