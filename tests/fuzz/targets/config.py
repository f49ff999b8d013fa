"""A configuration file. Accepted values are within their bounds, usable, and survive a round trip to YAML."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from samepaged.config import parse, schema_keys
from samepaged.errors import ConfigError
from tests.fuzz.target import Target, seed_files

if TYPE_CHECKING:
    from random import Random

    from samepaged.config import Config

EXAMPLE: Final = Path(__file__).parents[3] / "config.example.yaml"
YEAR: Final = 365 * 86400
WORDS: Final = (
    *(f"\n{'  ' * (len(key) - 1)}{key[-1]}: ".encode() for key in schema_keys()),
    *(b"ms", b"s", b"m", b"h", b"d", b"B", b"KiB", b"MiB", b"GiB", b"TiB", b"0.5s", b"1d", b"366d", b"8EiB", b"512MiB"),
    *(b"null", b"~", b"true", b"False", b"yes", b"0x1f", b"'0xffffffffffffffff'", b"1.0e+3", b"1e3", b"auto", b"dump"),
    *(
        b"precopy",
        b"sliced",
        b"live",
        b"debug",
        b'"[::1]:9953"',
        b'"[fe80::1%eth0]:1"',
        b'"localhost:0"',
        b"'*'",
        b"'[a-z]?'",
    ),
    *(
        b"- ",
        b"? ",
        b": ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"\n  - {name: a, match: ['a*']}",
        b"|\n  ",
        b">-\n  ",
        b"&a ",
        b"*a",
    ),
    *(
        b"!!python/object:os.system ",
        b"!!int ",
        b"<<: *a",
        b"---\n",
        b"...\n",
        b"%YAML 1.2\n---\n",
        b"%TAG ! x\n",
        b"# ",
    ),
    *(
        b'"\\ud83d"',
        b'"\\0"',
        b'"\\U00110000"',
        b"[" * 20,
        b"- " * 20,
        b"\n" * 3,
        b"/var/lib/samepaged",
        b"/a/../b",
        b"a..b:1",
    ),
)


def check(data: bytes) -> None:
    config = parse(data, "a.yaml")
    _check_bounds(config)
    _check_use(config)
    assert parse(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)), "b.yaml") == config


def _check_bounds(config: Config) -> None:
    scan = config.scan
    assert 1 <= scan.interval <= YEAR
    assert 0 < scan.max_pause <= YEAR
    assert 0 <= scan.jitter <= 1
    assert 0 < scan.max_duty <= 1
    assert 0 < scan.max_drift <= 1
    assert all(math.isfinite(number) for number in (scan.interval, scan.max_pause, scan.jitter, scan.max_duty))
    assert 0 <= scan.memory_limit < 1 << 63
    assert 1 <= scan.thread_count <= 1024
    assert all(1024 <= size <= 1 << 21 and size.bit_count() == 1 for size in scan.page_sizes)
    assert scan.verify_every >= 0 < scan.verify_pages
    assert config.hashing.seed is None or 0 <= config.hashing.seed < 1 << 64
    assert 0 <= config.export.pairs <= 1000


def _check_use(config: Config) -> None:
    """Use the configuration as the daemon does, up to the first effect outside of the process."""
    if config.export.address is not None:
        host, port = config.export.address
        host.encode("idna")  # as the socket module encodes it
        assert "\n" not in host
        assert 0 <= port < 1 << 16
    for directory in (config.state_directory, config.runtime_directory):
        assert directory.is_absolute()
        assert b"\0" not in os.fsencode(directory)
    assert config.libvirt.uri.strip()
    config.libvirt.uri.encode()
    config.selects("web-1")
    assert config.group_of("web-1").encode()
    seed = config.hashing.seed
    assert seed is None or seed < 1 << 32 or not re.search(rf"\b{seed}\b", repr(config))


def _sections() -> tuple[bytes, ...]:
    """Return the sections of the example without comments, which make parsing slow and add no coverage."""
    text = "\n".join(line for line in EXAMPLE.read_text().splitlines() if line and not line.lstrip().startswith("#"))
    return tuple(section.encode() for section in re.split(r"\n(?=\S)", text))


def grow(random: Random) -> bytes:
    """Return some of the keys, most with a value that a seed has there, or a similar one."""
    document: dict[str, Any] = {}
    for key in random.sample(KEYS, random.randint(1, 6)):
        section = document
        for step in key[:-1]:
            section = section.setdefault(step, {})
            if not isinstance(section, dict):  # a list of groups
                break
        else:
            section[key[-1]] = random.choice(VALUES[key] if random.random() < LIKELY else random.choice(ANY))
    return yaml.safe_dump(document, default_flow_style=random.choice((True, False, None))).encode()


def _values() -> dict[tuple[str, ...], list[Any]]:
    """Return the seeds' values of each key."""
    found: dict[tuple[str, ...], list[Any]] = {key: ["1.5h", "96KiB"] for key in schema_keys() if key[0] != "groups"}
    found["groups",] = []
    for seed in SEEDS:
        document = yaml.safe_load(seed)
        for key, values in found.items():
            value = document
            for step in key:
                value = value.get(step, ...) if isinstance(value, dict) else ...
            if value is not ...:
                values.append(value)
    return {key: values for key, values in found.items() if values}


SEEDS: Final = (*_sections(), *seed_files("config"))
VALUES: Final = _values()
KEYS: Final = tuple(VALUES)
LIKELY: Final = 0.9
ODD: Final = (
    0,
    1,
    -1,
    2**63,
    2**64,
    10**45,
    0.5,
    1e-9,
    1e300,
    math.inf,
    math.nan,
    "",
    "0",
    "a..b:1",
    "[::1%a.]:1",
    None,
)
ANY: Final = (*VALUES.values(), ODD, (True, [], {}, ["*"], {"a": 1}, "\0", "\u2028", "x" * 1001, "1e-9s"))
TARGET = Target(check, SEEDS, WORDS, refusals=(ConfigError,), longest=768, grow=grow)
