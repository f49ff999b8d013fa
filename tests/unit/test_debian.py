"""The Debian package's files, as far as they can be judged unbuilt; tests/vm/test_package.py installs the package."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
SCRIPTS = ("postinst", "prerm", "postrm")


def test_package_has_the_project_version() -> None:
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    newest = (TREE / "packaging/debian/changelog").read_text().splitlines()[0]
    assert newest.startswith(f"samepaged ({project['version']}) ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_maintainer_scripts_are_posix_shell(name: str) -> None:
    script = TREE / f"packaging/debian/samepaged.{name}"
    assert script.read_text().startswith("#!/bin/sh\nset -e\n")
    subprocess.run(["sh", "-n", script], check=True)


def test_install_places_every_completion() -> None:
    script = '. tools/paths; printf "%s\\n" "$manual" "$completion" "$completion_zsh" "$completion_fish"'
    done = subprocess.run(
        ["sh", "-c", script], check=True, capture_output=True, text=True, cwd=TREE, env={"PREFIX": "/p"}
    )
    assert done.stdout.splitlines() == [
        "/p/share/man/man8/samepaged.8",
        "/p/share/bash-completion/completions/samepaged",
        "/p/share/zsh/site-functions/_samepaged",
        "/p/share/fish/vendor_completions.d/samepaged.fish",
    ]
    source = (TREE / "tools/install").read_text()
    for path in (TREE / "packaging/completion").iterdir():
        assert f"packaging/completion/{path.name} " in source


def test_uninstall_keeps_only_the_configuration() -> None:
    def named(tool: str) -> set[str]:
        return set(re.findall(r"\$destdir\$(\w+)", (TREE / "tools" / tool).read_text()))

    laid = named("install") - {"prefix"}  # it creates only its directory bin
    assert laid - {"config"} == named("uninstall") - {"config"}
    assert re.search(r"rm .*\$config", (TREE / "tools/uninstall").read_text()) is None
