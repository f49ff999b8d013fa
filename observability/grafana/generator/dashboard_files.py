"""The dashboards as the committed JSON files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.grafana.generator.guest import guest_dashboard
from observability.grafana.generator.host import host_dashboard

__all__ = ["DASHBOARDS", "dashboard_documents", "generated"]

DASHBOARDS: Final = Path(__file__).parents[1] / "dashboards"


def dashboard_documents() -> dict[str, str]:
    """Return the text of each dashboard by file name."""
    encoder = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False)
    return {
        f"{dashboard.uid}.json": encoder.encode(dashboard) + "\n"
        for dashboard in (host_dashboard().build(), guest_dashboard().build())
    }


def generated(directory: Path = DASHBOARDS) -> dict[Path, str | None]:
    """Return the files of `directory` with their texts; None for a dashboard that no longer exists."""
    made = {directory / name: text for name, text in dashboard_documents().items()}
    return {**dict.fromkeys(directory.glob("*.json")), **made}
