"""Health: of samepaged itself, and the configuration that it goes by."""

from __future__ import annotations

from typing import Final

from samepaged.export.catalogue.metric import Metric, Unit
from samepaged.export.families import GAUGE, INFO

BUILD: Final = Metric(
    INFO,
    "samepage_build_info",
    ("version", "python"),
    Unit.ONE,
    "The version of samepaged, and of the Python that runs it; always 1.",
    example="count by (version) (samepage_build_info)",
)
LIBVIRT_UP: Final = Metric(
    GAUGE,
    "samepage_libvirt_up",
    (),
    Unit.TRUTH,
    "Whether samepaged is connected to libvirt: 1 or 0.",
    example="samepage_libvirt_up == 0",
)
RELOAD_SUCCESSFUL: Final = Metric(
    GAUGE,
    "samepage_config_last_reload_successful",
    (),
    Unit.TRUTH,
    "Whether the last load of the configuration succeeded: 1 or 0. After a failure the old one stays in force.",
    example="samepage_config_last_reload_successful == 0",
)
RELOAD_SUCCESS: Final = Metric(
    GAUGE,
    "samepage_config_last_reload_success_timestamp_seconds",
    (),
    Unit.EPOCH,
    "When the configuration in force was loaded, in seconds of the Unix epoch.",
    example="changes(samepage_config_last_reload_success_timestamp_seconds[1d])",
)
MAX_PAUSE: Final = Metric(
    GAUGE,
    "samepage_config_max_pause_seconds",
    (),
    Unit.SECONDS,
    "`scan.max_pause` in force: seconds that a guest may stand suspended at a time.",
    example="samepage_domain_last_pause_seconds > on (instance) group_left samepage_config_max_pause_seconds",
)
SCAN_INTERVAL: Final = Metric(
    GAUGE,
    "samepage_config_scan_interval_seconds",
    (),
    Unit.SECONDS,
    "`scan.interval` in force: seconds from the start of a scan of the host to the start of the next.",
    example="time() - samepage_last_scan_timestamp_seconds > 2 * samepage_config_scan_interval_seconds",
)
