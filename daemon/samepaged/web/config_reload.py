"""The active web configuration, reloaded when its file or a file that it names changes."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.errors import ConfigError
from samepaged.log_line import details
from samepaged.web.auth import Authenticator, RateLimit
from samepaged.web.config_file import Identity, LoadedConfig, identity, load
from samepaged.web.config_schema import WebConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["ActiveConfig", "ReloadingConfig"]

log = logging.getLogger(__name__)

CHECK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class ActiveConfig:
    """A configuration, with its cached logins and the state of its rate limit."""

    loaded: LoadedConfig
    gate: Authenticator
    limit: RateLimit


class ReloadingConfig:
    """The configuration in the file `path`; None: without encryption and authentication. `changed` is called with an
    empty string after a reload, and with an error of one line after a failed reload. Raises ConfigError.
    """

    def __init__(
        self,
        path: Path | None,
        changed: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._changed = changed
        self._clock = clock
        self._checked_at = clock()
        self._identities: dict[Path, Identity] = {}
        self._active = _in_force(LoadedConfig(WebConfig(), None) if path is None else load(path, self._identities))

    @property
    def path(self) -> Path | None:
        """The web configuration file, if any."""
        return self._path

    def current(self) -> ActiveConfig:
        """Return the active configuration. Checks the files for changes at most once per second."""
        now = self._clock()
        if self._path is not None and now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            if any(identity(file) != seen for file, seen in self._identities.items()):
                self._reread(self._path)
        return self._active

    def _reread(self, path: Path) -> None:
        self._identities = {}
        try:
            loaded = load(path, self._identities)
        except ConfigError as error:
            # The previous configuration stays active.
            log.error("web configuration not reloaded%s", details(error=error))  # noqa: TRY400 - an error of the file
            self._changed(str(error))
            return
        self._active = _in_force(loaded)
        log.info("web configuration reloaded%s", details(path=path))
        self._changed("")


def _in_force(loaded: LoadedConfig) -> ActiveConfig:
    limit = loaded.config.rate_limit
    return ActiveConfig(loaded, Authenticator(loaded.config.basic_auth_users), RateLimit(limit.interval, limit.burst))
