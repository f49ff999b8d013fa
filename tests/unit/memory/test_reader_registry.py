from __future__ import annotations

from typing import get_args

import pytest

from samepaged.config import Mode, Reader
from samepaged.memory.capture import AUTO, READERS, candidates, is_substitute, needs_process


def test_every_reader_is_configurable() -> None:
    assert {AUTO, *READERS} == set(get_args(Reader))


def test_every_mode_is_configurable() -> None:
    for reader in READERS.values():
        assert reader.modes
        assert reader.modes <= set(get_args(Mode))


@pytest.mark.parametrize(
    ("name", "names", "reads_process"),
    [("process", ["process"], True), ("dump", ["dump"], False), ("auto", ["process", "dump"], True)],
)
def test_readers_by_configuration(name: str, names: list[str], reads_process: bool) -> None:  # noqa: FBT001
    assert [reader.name for reader in candidates(name)] == names
    assert needs_process(name) is reads_process
    assert [is_substitute(used, name) for used in names] == [False, True][: len(names)]
