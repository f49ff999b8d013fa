from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from dataclasses import fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from samepaged.config import SourcesConfig
from samepaged.config.schema import Mode, Reader
from samepaged.errors import Reason
from samepaged.metrics.catalogue import SECTIONS
from samepaged.metrics.exposition import families, render
from samepaged.scan.label_values import (
    FAILURES,
    FALLBACKS,
    MODES,
    OBSTACLES,
    READERS,
    SHORT_OBSTACLES,
    STATES,
)
from samepaged.sharing import GuestSharing, PageSizeSharing
from tests.support.results import full_snapshot
from tools.generate.files import REMEDY, outdated, with_parts
from tools.generate.metrics import PAGE, generated, tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric as Family

    from samepaged.metrics.metric import Metric

DAEMON = Path(__file__).parents[3] / "daemon" / "samepaged"
CATALOGUE: tuple[Metric[Any, Any], ...] = tuple(chain.from_iterable(SECTIONS.values()))
ADDED = re.compile("_(bucket|count|sum|total|info)$")


def scraped(*, openmetrics: bool = False) -> str:
    """Return a scrape with series of all metrics."""
    shown = full_snapshot()
    assert shown.latest is not None
    shown = replace(shown, latest=replace(shown.latest, page_sizes=(PageSizeSharing(2 << 20, 3, 0, 1, 0),)))
    shown = replace(shown, attribution_config=SourcesConfig(top=2, names=True, name_labels=True))
    return render(families(shown), openmetrics=openmetrics).decode()


def exported() -> dict[str, Family]:
    """Return the families of a scrape by their names in the text format."""
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in parse_text(scraped())}


def rows() -> dict[str, list[str]]:
    """Return the cells of the page's tables of metrics by name of the metric."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `samepage_")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return {row[0].strip(" `"): [cell.strip().replace(r"\|", "|") for cell in row] for row in cells}


@cache
def daemon() -> tuple[tuple[Path, ast.AST], ...]:
    """Return all syntax nodes of the daemon's code with their files."""
    paths = DAEMON.rglob("*.py")
    return tuple((path, node) for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Yield all calls of named functions in the daemon: file, function name, node."""
    for path, node in daemon():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield path, node.func.id, node


def strings(node: ast.AST) -> set[str]:
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def obstacles_to_merging() -> set[str]:
    """Return the daemon's codes of merge obstacles."""
    found: set[str] = set()
    for _, node in daemon():
        if isinstance(node, ast.FunctionDef) and node.name == "merge_obstacle":
            found |= set().union(*(strings(inner) for inner in ast.walk(node) if isinstance(inner, ast.Return)))
        elif isinstance(node, ast.keyword) and node.arg == "merge_obstacle":
            found |= strings(node.value)
    return found


def test_metrics_page_is_up_to_date() -> None:
    assert outdated(generated()) == [], REMEDY


def test_scrape_matches_the_catalogue() -> None:
    found = {
        name: (family.type, frozenset(label for sample in family.samples for label in sample.labels) - {"le"})
        for name, family in exported().items()
    }

    assert found == {metric.name: (metric.kind.type, frozenset(metric.labels)) for metric in CATALOGUE}
    assert len(CATALOGUE) == len(found)


def test_page_documents_every_metric() -> None:
    for metric in CATALOGUE:
        name, kind, labels, unit, meaning, symbol, example = rows()[metric.name]
        assert (name, kind, unit) == (f"`{metric.name}`", metric.kind.type, metric.unit)
        assert tuple(re.findall(r"`(\w+)`", labels)) == metric.labels
        assert (meaning, symbol, example) == (metric.meaning, metric.symbol, f"`{metric.example}`")
        assert meaning.endswith(("1", "."))
    assert len(rows()) == len(CATALOGUE)


def test_help_matches_the_page() -> None:
    for metric in CATALOGUE:
        text = exported()[metric.name].documentation
        assert text.startswith(metric.meaning.replace("`", ""))
        assert not re.search(r"[\n`]", text)


def test_help_lists_label_values() -> None:
    for metric in CATALOGUE:
        for words in metric.words.values():
            assert ", ".join(words) in exported()[metric.name].documentation


def test_units_match_metric_names() -> None:
    found = {family.name: family for family in parse_openmetrics(scraped(openmetrics=True))}  # type: ignore[no-untyped-call]  # not annotated upstream
    for metric in CATALOGUE:
        base = re.search(r"_(bytes|seconds|ratio)$", ADDED.sub("", metric.name))
        unit = found[ADDED.sub("", metric.name)].unit
        assert unit == metric.unit.base == (base[1] if base else "")


def test_every_failure_reason_is_explained() -> None:
    assert list(FAILURES) == [reason.value for reason in Reason if not reason.intended]


def test_every_fallback_reason_is_explained() -> None:
    assert set(FALLBACKS) == {ast.literal_eval(call.args[0]) for _, name, call in calls() if name == "FallbackReason"}


def test_every_obstacle_to_merging_is_explained() -> None:
    assert set(OBSTACLES) == obstacles_to_merging()


def test_every_mode_and_reader_is_explained() -> None:
    assert {"auto", *MODES} == set(get_args(Mode))
    assert {"auto", *READERS} == set(get_args(Reader))


def test_every_page_state_is_explained() -> None:
    counted = {field.name for field in fields(GuestSharing)} - {"memory_pages", "shared_with_others_pages"}

    assert {f"{state}_pages" for state in STATES} == counted - {"name", "group", "recurring_pages"}


def test_page_explains_label_values() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for metric in CATALOGUE:
        for word, meaning in chain.from_iterable(words.items() for words in metric.words.values()):
            assert f"\n| `{word}` | {meaning} |\n" in page


def test_all_metrics_are_in_the_catalogue() -> None:
    makers = {path for path, name, _ in calls() if name.endswith("MetricFamily")}
    entries = [path for path, name, _ in calls() if name == "Metric"]

    assert makers == {DAEMON / "metrics" / "metric.py"}
    assert set(entries) == {DAEMON / "metrics" / f"{section}.py" for section in SECTIONS}
    assert len(entries) == len(CATALOGUE)


def test_every_example_names_its_metric() -> None:
    assert [metric.name for metric in CATALOGUE if not re.search(rf"\b{metric.name}", metric.example)] == []


def test_examples_return_results(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: it is in the package prometheus")
    samples = [sample for family in exported().values() for sample in family.samples]
    series = [
        {"series": f"{one.name}{json.dumps(dict(one.labels, instance=host))}", "values": f"{one.value}+1x104"}
        for one in samples
        for host in ("a", "b")
    ]
    for one in series:
        one["series"] = re.sub(r'"(\w+)": "', r'\1="', one["series"])
    # Queries for problems return nothing without problems: `bool` makes comparisons return all series.
    examples = [re.sub(r"(==|[<>]) ", r"\1 bool ", metric.example) for metric in CATALOGUE]
    queries = [
        {"expr": f"count({example}) > bool 0", "eval_time": "26h", "exp_samples": [{"labels": "{}", "value": 1}]}
        for example in examples
    ]
    tests = [{"interval": "15m", "input_series": series, "promql_expr_test": queries}]
    path = tmp_path / "tests.yml"  # JSON is YAML
    path.write_text(json.dumps({"evaluation_interval": "15m", "tests": tests}), encoding="utf-8")
    tested = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)

    assert tested.returncode == 0, tested.stdout + tested.stderr


PLACES = "".join(f"<!-- from the code: {name} -->\nold\n<!-- end -->\n" for name in tables())


def test_generator_keeps_handwritten_text() -> None:
    page = with_parts("page", f"before\n{PLACES}after\n", tables())

    assert (page[:7], page[-6:]) == ("before\n", "after\n")
    assert "old" not in page.splitlines()
    assert with_parts("page", page, tables()) == page


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (PLACES.replace("code: sharing", "code: shearing"), "0 markers `from the code: sharing`"),
        (PLACES + "<!-- from the code: scans -->\n<!-- end -->\n", "2 markers `from the code: scans`"),
        (PLACES + "<!-- from the code: zeal -->\n<!-- end -->\n", "unknown marker `from the code: zeal`"),
    ],
)
def test_generator_reports_marker_errors(page: str, message: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(message)):
        with_parts("page", page, tables())


def test_every_obstacle_has_short_text() -> None:
    assert list(SHORT_OBSTACLES) == list(OBSTACLES)
