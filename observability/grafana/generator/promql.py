"""PromQL that is written more than once: selectors of this host and this guest, and what is computed over a window."""

from __future__ import annotations

from typing import Final

__all__ = ["REF_IDS", "WINDOW", "drift", "guest", "host", "new_failures", "pause_quantile"]

# Names of the queries of a panel.
REF_IDS: Final = "ABCDEFGHIJKLMNOP"
# A scan comes every quarter of an hour unless set otherwise, with one pause a guest in most modes: a quantile over less
# would be one over nothing.
WINDOW: Final = "6h"


def host(metric: str, *matchers: str) -> str:
    """`metric` of the host that the dashboard shows, narrowed by `matchers` such as `state="zero"`."""
    return metric + "{" + ", ".join(('instance="$instance"', *matchers)) + "}"


def guest(metric: str, *matchers: str) -> str:
    """`metric` of the guest that the dashboard shows."""
    return host(metric, 'domain="$domain"', *matchers)


def pause_quantile(quantile: float, pauses: str) -> str:
    """The `quantile` (0 to 1) of the pauses of the hours before, in seconds; `pauses` selects the buckets."""
    return f"histogram_quantile({quantile}, sum by (le) (rate({pauses}[{WINDOW}])))"


def drift(selected: str) -> str:
    """A ratio in parts per million, as drifts of clocks are given."""
    return f"1e6 * {selected}"


def new_failures(failures: str) -> str:
    """Failures within an hour. A series is born with its first failure, which `increase` does not see: what was not
    there an hour ago counts whole.
    """
    return f"sum by (reason) (({failures} unless {failures} offset 1h) or increase({failures}[1h]))"
