"""Checks of page attribution: the sandbox of its worker process, and the directory of kernel types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.attribution.seccomp import available
from samepaged.doctor.check import Check, failure, ok, warning

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.config import SourcesConfig

__all__ = ["attribution", "btf_directory", "sandbox"]


def sandbox(seccomp_error: str | None, *, required: bool) -> Check:
    """Check the seccomp filter of the process that reads a copy of guest memory. `seccomp_error`: the reason why the
    filter is unavailable, or None.
    """
    name = "sandbox"
    if seccomp_error is None:
        return ok(name, "page attribution runs under a system call filter (seccomp)")
    problem = f"{seccomp_error}: the system call filter of page attribution (seccomp) is unavailable"
    if required:
        return failure(
            name,
            f"{problem}, and attribution does not start without it",
            "apt-get install libseccomp2, or set sources.seccomp: false",
        )
    return warning(name, f"{problem}, and attribution runs without it", "apt-get install libseccomp2")


def btf_directory(directory: Path) -> Check:
    """Check the directory with BTF types for kernels without BTF of their own."""
    name = "kernel types"
    try:
        found = len([path for path in directory.iterdir() if path.suffix == ".btf"])
    except OSError as error:
        return warning(
            name,
            f"{directory} cannot be read ({error.strerror}): kernels without BTF get no names of processes and files",
            "create it readable by samepaged's user, or set sources.btf_directory: null",
        )
    return ok(name, f"{directory} has the types of {found} kernel{'s' * (found != 1)}")


def attribution(config: SourcesConfig) -> list[Check]:
    """Return the checks of page attribution; none if it is disabled."""
    if not config.enabled:
        return []
    types = [] if config.btf_directory is None else [btf_directory(config.btf_directory)]
    return [sandbox(available(), required=config.seccomp), *types]
