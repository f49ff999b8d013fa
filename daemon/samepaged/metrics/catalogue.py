"""All metrics that samepaged exports: the source of HELP texts, docs/reference/metrics.md and /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from samepaged.metrics import health, merging, scans, sharing, sources
from samepaged.metrics.metric import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SECTIONS"]

SECTIONS: Final[Mapping[str, tuple[Metric[Any, Any], ...]]] = {
    module.__name__.rpartition(".")[2]: tuple(one for one in vars(module).values() if isinstance(one, Metric))
    for module in (sharing, merging, sources, scans, health)
}
"""The sections of docs/reference/metrics.md, each with its metrics in the order of the page."""
