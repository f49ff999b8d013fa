"""Starting a thread on a host that may have no room for one (pids.max of a control group, `ulimit -u`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from samepaged.errors import SamepagedError

__all__ = ["start"]


def start(thread: threading.Thread, refusal: Callable[[str], SamepagedError]) -> None:
    """Start a thread, or raise what `refusal` makes of the message."""
    try:
        thread.start()
    except RuntimeError as error:
        raise refusal(f"no thread can be started ({error}); raise TasksMax= or `ulimit -u`") from error
