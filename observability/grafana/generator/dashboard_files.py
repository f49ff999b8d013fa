"""The dashboards as the JSON that is committed: what a new one is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.grafana.generator.guest import guest_dashboard
from observability.grafana.generator.host import host_dashboard

__all__ = ["DASHBOARDS", "documents", "outdated", "write"]

DASHBOARDS: Final = Path(__file__).parents[1] / "dashboards"


def documents() -> dict[str, str]:
    """The text of each dashboard by its file's name."""
    encoder = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False)
    return {
        f"{dashboard.uid}.json": encoder.encode(dashboard) + "\n"
        for dashboard in (host_dashboard().build(), guest_dashboard().build())
    }


def outdated(directory: Path = DASHBOARDS) -> list[Path]:
    """Files of `directory` that are not what `documents` makes: changed, missing, or of a dashboard that is no more."""
    made = documents()
    wrong = {path for path in directory.glob("*.json") if path.name not in made}
    for name, text in made.items():
        path = directory / name
        if not path.is_file() or path.read_text("utf-8") != text:
            wrong.add(path)
    return sorted(wrong)


def write(directory: Path = DASHBOARDS) -> list[Path]:
    """Bring `directory` up to date; the files that were changed."""
    changed = outdated(directory)
    made = documents()
    directory.mkdir(parents=True, exist_ok=True)
    for path in changed:
        if path.name in made:
            path.write_text(made[path.name], "utf-8")
        else:
            path.unlink()
    return changed
