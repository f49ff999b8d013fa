"""What it takes to say whose the pages are that guests share: a process that can be kept from all else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.attribution.seccomp import available
from samepaged.doctor.check import Check, failure, ok, warning

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.config import SourcesConfig

__all__ = ["attribution", "btf_directory", "sandbox"]


def sandbox(seccomp_error: str | None, *, required: bool) -> Check:
    """Whether the process that reads a guest's memory can be put under a filter; `seccomp_error` is why not."""
    name = "sandbox"
    if seccomp_error is None:
        return ok(name, "the process that reads a copy of a guest's memory is under a filter of system calls")
    what = (
        f"{seccomp_error}: the process that reads a copy of a guest's memory cannot be put under a filter of system "
        "calls"
    )
    if required:
        return failure(
            name, f"{what}, and does not begin", "apt-get install libseccomp2, or set sources.seccomp: false"
        )
    return warning(name, f"{what}, and does without", "apt-get install libseccomp2")


def btf_directory(directory: Path) -> Check:
    """Whether there are types of kernels that do not bring their own."""
    name = "kernel types"
    try:
        found = len([path for path in directory.iterdir() if path.suffix == ".btf"])
    except OSError as error:
        return warning(
            name,
            f"{directory} cannot be read ({error.strerror}): kernels without BTF stay without names",
            "make it, and let samepaged's user read it, or set sources.btf_directory: null",
        )
    return ok(name, f"{directory} has those of {found} kernels")


def attribution(config: SourcesConfig) -> list[Check]:
    """All checks of it, where it is wanted."""
    if not config.enabled:
        return []
    types = [] if config.btf_directory is None else [btf_directory(config.btf_directory)]
    return [sandbox(available(), required=config.seccomp), *types]
