"""The tree: length of files, and no path of a developer's machine. pyproject.toml has the import contracts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TREE = Path(__file__).parents[2]
DAEMON = TREE / "daemon"
LONGEST_LINES = 500

NOT_OURS = {".git", "__pycache__", "build", "dist", "node_modules"}
BUILT = {".egg-info", ".so"}
# The paths of a developer's machine. Preceded by more of a path or by a variable, the same letters are something else.
MACHINE_PATH = re.compile(rb"(?<![\w/.$})-])/(?:root|work)/")


def files(tree: Path) -> list[Path]:
    """Every file of the project, without generated files and hidden directories of tools other than the CI's."""
    found = []
    for path in sorted(tree.iterdir()):
        if path.name in NOT_OURS or path.suffix in BUILT:
            continue
        if path.is_dir() and not path.is_symlink():
            if not path.name.startswith(".") or path.name in {".ci", ".github"}:
                found += files(path)
        elif path.is_file():
            found.append(path)
    return found


def machine_paths(tree: Path) -> list[str]:
    return [
        f"{path.relative_to(tree)}:{number}"
        for path in files(tree)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


def test_import_contracts_hold() -> None:
    lint = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=TREE,
        check=False,
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout


def test_daemon_files_have_at_most_500_lines() -> None:
    lengths = {path: len(path.read_bytes().splitlines()) for path in DAEMON.glob("samepaged/**/*.py")}
    assert lengths
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST_LINES} == {}


def test_files_have_no_developer_paths() -> None:
    assert machine_paths(TREE) == []


def test_developer_path_is_detected(tmp_path: Path) -> None:
    home = "/" + "root/"
    (tmp_path / "notes.md").write_text(f"run\n`{home}bin/x`\n$(TOP){home} {{top}}{home} a{home}b")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "made").write_text(home)
    assert machine_paths(tmp_path) == ["notes.md:2"]
