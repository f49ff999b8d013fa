"""Optional build of the native module; pyproject.toml holds all other package metadata."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from setuptools import Distribution, Extension, setup

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY = "daemon/samepaged/memory"


def pkg_config(what: str, package: str, otherwise: Sequence[str] = ()) -> list[str]:
    """Return the compiler's or linker's options for `package` from pkg-config, or `otherwise`."""
    command = shutil.which("pkg-config")
    if command is None:
        return list(otherwise)
    found = subprocess.run([command, what, package], check=False, capture_output=True, text=True)
    return shlex.split(found.stdout) if found.returncode == 0 else list(otherwise)


def page_hashing() -> Extension:
    """The native module, in the limited API: one file for every Python from 3.11 on."""
    return Extension(
        "samepaged.memory._pagehash",
        sources=[f"{MEMORY}/_pagehash.c"],
        depends=[f"{MEMORY}/_pagehash_kernel.h", f"{MEMORY}/_pagehash_avx512.h"],
        py_limited_api=True,
        extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra", *pkg_config("--cflags", "libxxhash")],
        extra_link_args=pkg_config("--libs", "libxxhash", ["-lxxhash"]),
    )


def can_be_built(extension: Extension) -> bool:
    """Return whether `extension` compiles and links here. Runs before setuptools receives the extension, because
    a wheel's name depends on its extensions: a wheel without the module must not have a platform's name.
    """
    with tempfile.TemporaryDirectory() as directory:
        trial = Distribution({"name": "samepaged", "package_dir": {"": "daemon"}, "ext_modules": [extension]})
        command = trial.get_command_obj("build_ext")
        command.build_lib = command.build_temp = directory
        try:
            # Standard output belongs to the command that was asked for (`--version`).
            with redirect_stdout(sys.stderr):
                command.ensure_finalized()
                command.run()
        except Exception as error:  # noqa: BLE001  compilers fail in many ways, none of which may fail the install
            sys.stderr.write(f"samepaged: built without its native module, hashing will be slower: {error}\n")
            return False
    return True


def native() -> dict[str, Any]:
    """Return setuptools' arguments for the native module, or none if it does not build."""
    extension = page_hashing()
    if not can_be_built(extension):
        return {}
    return {"ext_modules": [page_hashing()], "options": {"bdist_wheel": {"py_limited_api": "cp311"}}}


setup(**native())
