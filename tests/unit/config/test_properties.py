from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic_core import to_jsonable_python

from samepaged.config import Config, parse, schema_keys
from samepaged.errors import ConfigError

# The duration of an example depends on the machine.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WORDS = sorted({step for key in schema_keys() for step in key})
# Pieces of texts that pass the first character of a parser.
PIECES = st.sampled_from(
    [
        *WORDS,
        *(": ", ":", "\n", "\n  ", "\n  - ", "- ", "[", "]", "{", "}", ", ", "? ", "|\n", "'", '"', "# ", "<<"),
        *("*", "*a", "&a ", "!t ", "!!int ", "---\n", "...\n", "%YAML 1.2\n"),
        *("\t", "\r", "\x85", "\u2028", "\ufeff", "\\ud800", "\\U00110000"),
        *("0", "1", "0x1", "1e999", "-1", "null", "true", "250ms", "1GiB", "auto", "[::1]:80", "/x", "9" * 5000),
    ]
)
TEXTS = st.one_of(
    st.text(), st.lists(PIECES, max_size=30).map("".join), st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join)
)

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text()), inner, max_size=6)
    ),
    max_leaves=20,
)


# A valid configuration for each property.
ANCHORS = ("scan: {mode: live}", b"scan: {mode: live}", yaml.safe_dump({"scan": {"mode": "live"}}))


def judge(text: str | bytes, name: str = "f") -> None:
    """Check that parsing returns a configuration, or raises only problems of one line with a place and a remedy."""
    try:
        assert isinstance(parse(text, name), Config)
    except ConfigError as error:
        problems = error.problems
    else:
        return
    assert text not in ANCHORS
    assert problems
    for line in problems:
        assert line.isprintable()
        file, row, column, what = line.split(":", 3)
        assert (file, int(row) > 0, int(column) > 0) == (name, True, True)
        assert ";" in what
        assert len(line) < 600


@unhurried
@given(TEXTS)
@example(ANCHORS[0])
@example("a: &x 1\nb: &x 2\n")
@example("%TAG ! !\n---\n!<%FF> x")
@example('"\\xZZ"')
def test_arbitrary_text_is_parsed_or_refused(text: str) -> None:
    judge(text)


@unhurried
@given(st.one_of(st.binary(), TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))))
@example(ANCHORS[1])
def test_arbitrary_bytes_are_parsed_or_refused(octets: bytes) -> None:
    judge(octets)


@unhurried
@given(st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=9))
@example({"scan": {"mode": "live"}})
def test_arbitrary_values_are_parsed_or_refused(data: dict[str, Any]) -> None:
    judge(yaml.safe_dump(data, allow_unicode=True))


@unhurried
@given(key=st.sampled_from(sorted(schema_keys())), value=VALUES)
@example(key=("scan", "mode"), value="live")
def test_arbitrary_key_values_are_parsed_or_refused(key: tuple[str, ...], value: object) -> None:
    for step in reversed(key):
        value = {step: value}
    judge(yaml.safe_dump(value))


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)
PATTERNS = st.lists(NAMES, max_size=4)
GROUP_NAMES = NAMES.filter(lambda name: name.isprintable() and name == name.strip())
SOURCES = st.lists(st.sampled_from(["openstack", "kubevirt", "samepaged"]), unique=True)
TEMPLATES = st.lists(
    st.sampled_from(["{group}", "{group}-*", "*.{group}", "vm-{group}-*.example", "a*b{group}c", "é{group}"])
)
MILLISECONDS = st.integers(1, 365 * 86_400_000)
SIZES = st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 2**20).map(lambda count: f"{count}MiB"))
VALID = st.fixed_dictionaries(
    {},
    optional={
        "libvirt": st.fixed_dictionaries({"uri": NAMES}),
        "guests": st.fixed_dictionaries({}, optional={"include": st.lists(NAMES, min_size=1), "exclude": PATTERNS}),
        "groups": st.lists(
            st.fixed_dictionaries({"name": GROUP_NAMES, "match": st.lists(NAMES, min_size=1, max_size=3)}),
            unique_by=lambda group: group["name"],
            max_size=4,
        ),
        "grouping": st.fixed_dictionaries({}, optional={"metadata": SOURCES, "names": TEMPLATES}),
        "scan": st.fixed_dictionaries(
            {},
            optional={
                "interval": st.integers(1, 365 * 86400),
                "jitter": st.floats(0, 1),
                "mode": st.sampled_from(["auto", "snapshot", "precopy", "sliced", "live"]),
                "reader": st.sampled_from(["auto", "process", "dump"]),
                "max_pause": st.floats(1e-6, 3600),
                "max_duty": st.floats(0, 1, exclude_min=True),
                "max_drift": st.floats(0, 1, exclude_min=True),
                "sync_clock": st.sampled_from(["none", "agent"]),
                "sync_clock_above": st.floats(1e-6, 3600),
                "threads": st.one_of(st.none(), st.integers(1, 1024)),
                "memory_limit": st.integers(0, 2**63 - 1),
                "still_ksm": st.booleans(),
                "page_sizes": st.lists(st.sampled_from([2**n for n in range(10, 22)]), unique=True),
                "verify_every": st.integers(min_value=0, max_value=10**18),
                "verify_pages": st.integers(min_value=1, max_value=10**18),
            },
        ),
        "hashing": st.fixed_dictionaries({"seed": st.one_of(st.none(), st.integers(0, 2**64 - 1))}),
        "state_directory": NAMES.map(lambda name: f"/{name}"),
        "runtime_directory": NAMES.map(lambda name: f"/{name}"),
        "export": st.fixed_dictionaries(
            {},
            optional={
                "listen": st.builds(
                    "{}:{}".format, st.sampled_from(["127.0.0.1", "[::1]", "host"]), st.integers(0, 65535)
                ),
                "pairs": st.integers(0, 1000),
            },
        ),
        "log": st.fixed_dictionaries({"level": st.sampled_from(["debug", "info", "warning", "error"])}),
    },
)


def plain(config: Config) -> dict[str, Any]:
    """Generate the values of a configuration in the types of YAML."""
    found: dict[str, Any] = to_jsonable_python(config.model_dump(exclude_unset=True))
    return found


@unhurried
@given(VALID, st.booleans())
def test_configuration_round_trips(data: dict[str, Any], flow: bool) -> None:  # noqa: FBT001 - hypothesis passes it
    config = parse(yaml.safe_dump(data, allow_unicode=True, default_flow_style=flow), "f")
    for name in ("state_directory", "runtime_directory"):
        if name in data:
            data[name] = str(Path(data[name]))
    assert plain(config) == data
    assert parse(yaml.safe_dump(config.model_dump(mode="json")), "written") == config
    assert parse(yaml.safe_dump(plain(config)), "f") == config


@unhurried
@given(MILLISECONDS)
def test_units_of_durations_agree(milliseconds: int) -> None:
    written = [f"{milliseconds}ms", f"{milliseconds / 1000:.3f}s", milliseconds / 1000]
    assert {parse(f"scan: {{max_pause: {text}}}", "f").scan.max_pause for text in written} == {milliseconds / 1000}


@unhurried
@given(SIZES)
def test_sizes_keep_every_byte(size: int | str) -> None:
    octets = size if isinstance(size, int) else int(size.removesuffix("MiB")) * 2**20
    assert parse(f"scan: {{memory_limit: {size}}}", "f").scan.memory_limit == octets
