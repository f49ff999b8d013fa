"""Shared PromQL: selectors of the host and the guest, and computations over a window."""

from __future__ import annotations

from typing import Final

__all__ = ["REF_IDS", "WINDOW", "drift", "guest", "host", "new_failures", "pause_quantile"]

# Names of the queries of a panel.
REF_IDS: Final = "ABCDEFGHIJKLMNOP"
# By default, scans start every 15 minutes, with one pause of a guest in most modes: a shorter window would contain too
# few pauses for a quantile.
WINDOW: Final = "6h"


def host(metric: str, *matchers: str) -> str:
    """Return a selector of `metric` for the host of the dashboard, with `matchers` such as `state="zero"`."""
    return metric + "{" + ", ".join(('instance="$instance"', *matchers)) + "}"


def guest(metric: str, *matchers: str) -> str:
    """Return a selector of `metric` for the guest of the dashboard."""
    return host(metric, 'domain="$domain"', *matchers)


def pause_quantile(quantile: float, pauses: str) -> str:
    """Return the `quantile` (0 to 1) of the pauses in the window, in seconds. `pauses` selects the buckets."""
    return f"histogram_quantile({quantile}, sum by (le) (rate({pauses}[{WINDOW}])))"


def drift(selected: str) -> str:
    """Return a ratio in parts per million, the usual unit of clock drift."""
    return f"1e6 * {selected}"


def new_failures(failures: str) -> str:
    """Return the failures within an hour. A series starts with its first failure, which `increase` misses: a series
    that did not exist an hour ago counts in full.
    """
    return f"sum by (reason) (({failures} unless {failures} offset 1h) or increase({failures}[1h]))"
