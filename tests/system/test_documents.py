"""README and documentation show the commands' real output and the JSON's real keys."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.daemon import daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.command import Samepaged
    from tests.support.guests import Writer

TREE = Path(__file__).parents[2]
README = (TREE / "README.md").read_text()
JSON_PAGE = (TREE / "docs" / "reference" / "json.md").read_text()


def section(heading: str) -> str:
    """The text below a heading of the JSON reference, up to the next one."""
    return JSON_PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for one in value.values():
            yield from keys(one)
    elif isinstance(value, list):
        for one in value:
            yield from keys(one)


def test_json_page_has_all_keys(samepaged: Samepaged, pair: list[Writer]) -> None:
    documents = {
        "scan": samepaged.scan(),
        "advise": json.loads(samepaged("advise", "--json", "--connect", samepaged.uri).stdout),
    }
    for command, document in documents.items():
        described = set(re.findall(r"`(\w+)(?:\[\])?`", section(f"`samepaged {command} --json`")))
        missing = set(keys(document)) - described
        assert not missing, f"docs/reference/json.md: {command}: {missing}"
        named = set(re.findall(r"^\| `(\w+)(?:\[\])?`", section(f"`samepaged {command} --json`"), flags=re.MULTILINE))
        assert named <= set(keys(document)), f"docs/reference/json.md: {command}: {named - set(keys(document))}"


def test_readme_shows_the_table_of_scan(samepaged: Samepaged, pair: list[Writer]) -> None:
    shown = README.split("<!-- demo-table -->\n")[1].split("\n\n- ")[0].splitlines()
    samepaged.configure("")
    printed = samepaged("scan", "--config", str(samepaged.config)).stdout.splitlines()
    head = [line.split() for line in shown[:3]]
    assert head == [line.split() for line in printed[:3]]
    sums = [re.sub(r" {2,}.*", "", line.strip()) for line in shown[-4:]]
    assert sums == [re.sub(r" {2,}.*", "", line) for line in printed if re.search(r"\d%$", line)][:4]


def test_readme_curl_finds_host_metrics(samepaged: Samepaged, pair: list[Writer]) -> None:
    (command,) = re.findall(r"^ {4}(curl .*)$", README, flags=re.MULTILINE)
    (prefix,) = re.findall(r"grep '\^(\w+)'", command)
    samepaged.configure("")
    with daemon(samepaged) as running:
        running.wait_scans(1)
        names = {key[0] for key in running.metrics()}
    assert {"samepage_host_inter_sharing_bytes", "samepage_host_self_sharing_bytes"} <= {
        name for name in names if name.startswith(prefix)
    }
