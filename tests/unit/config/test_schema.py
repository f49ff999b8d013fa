from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from samepaged.config import DEFAULT_GROUP, Config, GroupConfig, GuestsConfig, ScanConfig, load, schema_keys
from samepaged.config.schema import HashingConfig

# The duration of an example depends on the machine.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_defaults_are_documented_values() -> None:
    config = load(None)
    assert config == Config()
    assert config.libvirt.uri == "qemu:///system"
    assert (config.guests.include, config.guests.exclude, config.groups) == (("*",), (), ())
    assert (config.grouping.metadata, config.grouping.names) == (("openstack", "kubevirt"), ())
    scan = config.scan
    assert (scan.interval, scan.jitter, scan.mode, scan.reader) == (900, 0.1, "auto", "auto")
    assert (scan.max_pause, scan.max_duty, scan.threads, scan.memory_limit) == (0.25, 0.01, None, 2**30)
    assert (scan.still_ksm, scan.page_sizes, scan.verify_every, scan.verify_pages) == (False, (), 10, 1024)
    assert (scan.max_drift, scan.sync_clock, scan.sync_clock_above) == (0.0005, "none", 0.1)
    assert scan.macvtap == "skip"
    sources = config.sources
    assert (sources.enabled, sources.every, sources.names, sources.seccomp) == (False, 10, False, True)
    assert (sources.name_labels, sources.top) == (False, 10)
    assert (sources.memory_limit, sources.time_limit, sources.btf_directory) == (2**30, 30, None)
    assert config.hashing.seed is None
    assert (config.state_directory, config.runtime_directory) == (Path("/var/lib/samepaged"), Path("/run/samepaged"))
    assert (config.export.listen, config.export.pairs) == ("127.0.0.1:9953", 20)
    assert config.export.web_config_file is None
    assert config.log.level == "info"


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().scan.mode = "live"  # type: ignore[misc]  # the test of frozen models


def test_every_key_has_a_description() -> None:
    def undescribed(model: type[BaseModel]) -> list[str]:
        sections = {name for name, value in Config() if isinstance(value, BaseModel)} if model is Config else set()
        return [name for name, field in model.model_fields.items() if not (field.description or name in sections)]

    sections = [part for part in Config().__dict__.values() if isinstance(part, BaseModel)]
    assert [undescribed(model) for model in (Config, GroupConfig, *map(type, sections)) if undescribed(model)] == []


def test_schema_keys_of_sections_and_lists() -> None:
    keys = set(schema_keys())
    assert {("scan",), ("scan", "max_pause"), ("groups", "name"), ("state_directory",)} <= keys
    defaults = Config().model_dump()
    written = {(name,) for name in defaults} | {
        (name, key) for name, part in defaults.items() if isinstance(part, dict) for key in part
    }
    assert keys - written == {("groups", "name"), ("groups", "match")}
    assert written <= keys


def test_default_threads_are_half_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (3, 1), (16, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert ScanConfig().thread_count == threads
    assert ScanConfig(threads=5).thread_count == 5


def test_guest_selection_by_include_and_exclude() -> None:
    config = Config(guests=GuestsConfig(include=("web-*", "db?"), exclude=("*-old", "db[89]")))
    assert [name for name in ("web-1", "db1", "mail", "web-old", "db9", "WEB-1", "xweb-1") if config.selects(name)] == [
        "web-1",
        "db1",
    ]


def test_first_matching_group_is_used() -> None:
    config = Config(groups=(GroupConfig(name="a", match=("a-*", "b-1")), GroupConfig(name="b", match=("b-*",))))
    assert [config.group_of(name) for name in ("a-1", "b-1", "b-2", "c", "A-1")] == [
        "a",
        "a",
        "b",
        DEFAULT_GROUP,
        DEFAULT_GROUP,
    ]


@unhurried
@given(st.lists(st.text(min_size=1), min_size=1), st.text())
def test_arbitrary_patterns_match_safely(patterns: list[str], name: str) -> None:
    guests = GuestsConfig.model_construct(include=tuple(patterns), exclude=())
    assert guests.selects(name) in {True, False}


def test_groups_need_distinct_names() -> None:
    group = GroupConfig(name="a", match=("*",))
    with pytest.raises(ValidationError, match="'a' is the name of an earlier group; give each group a unique name"):
        Config(groups=(group, group))


def test_seed_is_not_logged() -> None:
    assert "12345678" not in repr(Config(hashing=HashingConfig(seed=12345678)))


def test_name_labels_need_names() -> None:
    assert Config.model_validate({"sources": {"names": True, "name_labels": True}}).sources.name_labels
    with pytest.raises(ValidationError, match=r"sources\.names is false; set sources\.names to true"):
        Config.model_validate({"sources": {"name_labels": True}})
