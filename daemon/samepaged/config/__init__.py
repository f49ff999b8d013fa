"""The configuration: its schema, and the loader of YAML files, which reports all problems at once."""

from samepaged.config.loading import load, parse
from samepaged.config.schema import (
    DEFAULT_GROUP,
    Config,
    ExportConfig,
    GroupConfig,
    GroupingConfig,
    GuestsConfig,
    HashingConfig,
    LibvirtConfig,
    LogConfig,
    LogLevel,
    MetadataOrigin,
    Mode,
    Reader,
    ScanConfig,
    SourcesConfig,
    TracesConfig,
    schema_keys,
)

__all__ = [
    "DEFAULT_GROUP",
    "Config",
    "ExportConfig",
    "GroupConfig",
    "GroupingConfig",
    "GuestsConfig",
    "HashingConfig",
    "LibvirtConfig",
    "LogConfig",
    "LogLevel",
    "MetadataOrigin",
    "Mode",
    "Reader",
    "ScanConfig",
    "SourcesConfig",
    "TracesConfig",
    "load",
    "parse",
    "schema_keys",
]
