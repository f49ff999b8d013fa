"""Generated files: comparison with the committed ones, writing, and generated parts between markers of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["REMEDY", "TREE", "outdated", "table", "with_parts", "write"]

TREE: Final = Path(__file__).parents[2]
REMEDY: Final = "run `make generate`"
_PART: Final = re.compile(r"(<!-- from the code: ([^>]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def outdated(files: Mapping[Path, str | None]) -> list[Path]:
    """Return the paths in `files` with a content that differs from the given text. None: the file must not exist."""
    return sorted(path for path, text in files.items() if _content(path) != text)


def write(files: Mapping[Path, str | None]) -> list[Path]:
    """Update `files`, and return the changed paths."""
    changed = outdated(files)
    for path in changed:
        text = files[path]
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return changed


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def with_parts(name: str, page: str, parts: Mapping[str, str]) -> str:
    """Return `page`, the text of the file `name`, with each of `parts` between its markers. Raises SystemExit unless
    each part has exactly one pair of markers, and each pair of markers a part.
    """
    places = [part for _, part, _ in _PART.findall(page)]
    for part in sorted({*parts, *places}):
        if part not in parts:
            raise SystemExit(f"{name}: unknown marker `from the code: {part}`; remove it")
        if places.count(part) != 1:
            times = places.count(part)
            raise SystemExit(f"{name}: {times} markers `from the code: {part}`; keep exactly one")
    return _PART.sub(lambda marked: f"{marked[1]}\n{parts[marked[2]]}\n{marked[3]}", page)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return _line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(_line, rows))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"
