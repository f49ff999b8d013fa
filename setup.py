"""The native module, which is built where it can be; all else about the package is in pyproject.toml."""

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
    """The compiler's or linker's options for `package`, as pkg-config knows them."""
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
    """Whether `extension` compiles and links here. Tried before setuptools is told of it, because a wheel is named
    after what setuptools is told: one without the module must not be named as if it held one.
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
    """What to tell setuptools of the native module, if it can be built."""
    extension = page_hashing()
    if not can_be_built(extension):
        return {}
    return {"ext_modules": [page_hashing()], "options": {"bdist_wheel": {"py_limited_api": "cp311"}}}


setup(**native())
