"""The Grafana dashboards: up to date, complete, and limited to metrics that samepaged exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from observability.grafana.generator import dashboard_files
from samepaged.scan.label_values import OBSTACLES
from tools.generate import files

if TYPE_CHECKING:
    from collections.abc import Iterator

TREE = Path(__file__).parents[2]
GRAFANA = TREE / "observability" / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(dashboard_files.DASHBOARDS.glob("*.json"))}
PARTS_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")
# Values that Grafana substitutes for variables.
VARIABLES = {"$instance": "127.0.0.1:9953", "$domain": "web-1"}


def panels(board: str) -> Iterator[dict[str, Any]]:
    yield from (panel for panel in BOARDS[board]["panels"] if panel["type"] != "row")


PANELS = [pytest.param(panel, id=f"{board}: {panel['title']}") for board in BOARDS for panel in panels(board)]


def queries(board: str) -> set[str]:
    asked = {target["expr"] for panel in panels(board) for target in panel["targets"]}
    return asked | {annotation["expr"] for annotation in BOARDS[board]["annotations"]["list"]}


def every_query() -> set[str]:
    return {query for board in BOARDS for query in queries(board)}


def selected(query: str) -> set[str]:
    """The metrics in a query: whatever has braces, as every selector of ours has."""
    return set(re.findall(r"([A-Za-z_:][\w:]*)\{", query))


def exported() -> set[str]:
    """The metrics that docs/reference/metrics.md lists (another test holds it and the code together)."""
    names = re.findall(
        r"^\| `(samepage_\w+)` \| (\w+) \|", (TREE / "docs/reference/metrics.md").read_text(), re.MULTILINE
    )
    known = {name for name, _ in names}
    return known | {name + part for name, kind in names if kind == "histogram" for part in PARTS_OF_HISTOGRAMS}


def test_host_and_guest_dashboards_exist() -> None:
    assert set(BOARDS) == {"samepaged-host", "samepaged-guest"}
    assert {board["uid"] for board in BOARDS.values()} == set(BOARDS)


def test_committed_dashboards_are_current() -> None:
    assert files.outdated(dashboard_files.generated()) == [], files.REMEDY


def test_outdated_files_are_rewritten(tmp_path: Path) -> None:
    files.write(dashboard_files.generated(tmp_path))
    assert files.outdated(dashboard_files.generated(tmp_path)) == []
    changed, missing, needless = (tmp_path / f"{name}.json" for name in (*sorted(BOARDS), "needless"))
    changed.write_text(changed.read_text().replace("bytes", "bits"))
    missing.unlink()
    needless.write_text("{}")
    assert files.outdated(dashboard_files.generated(tmp_path)) == sorted([changed, missing, needless])
    files.write(dashboard_files.generated(tmp_path))
    assert files.outdated(dashboard_files.generated(tmp_path)) == []
    assert not needless.exists()


@pytest.mark.parametrize("panel", PANELS)
def test_panels_have_description_and_unit(panel: dict[str, Any]) -> None:
    assert panel["title"].strip()
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]


@pytest.mark.parametrize("panel", PANELS)
def test_panels_use_the_selected_host(panel: dict[str, Any]) -> None:
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        assert target["expr"].count("{") == target["expr"].count('{instance="$instance"')


@pytest.mark.parametrize("board", BOARDS)
def test_variables_are_defined_before_they_are_used(board: str) -> None:
    known: set[str] = set()
    for variable in BOARDS[board]["templating"]["list"]:
        assert set(re.findall(r"\$(\w+)", str(variable["query"]))) <= known
        known.add(variable["name"])
    used = {name for query in queries(board) for name in re.findall(r"\$([a-z]\w*)", query)}
    assert used | {"datasource"} == known


def test_dashboards_link_to_each_other() -> None:
    for board, other in (("samepaged-host", "samepaged-guest"), ("samepaged-guest", "samepaged-host")):
        (link,) = BOARDS[board]["links"]
        assert link["url"] == f"/d/{other}"
        assert link["includeVars"]
        assert link["keepTime"]
    # and a guest's name in the table leads to that guest
    assert "/d/samepaged-guest?" in json.dumps(list(panels("samepaged-host")))


@pytest.mark.parametrize("board", BOARDS)
def test_panels_neither_overlap_nor_leave_the_grid(board: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[board]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in BOARDS[board]["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert 0 not in numbers


def test_queried_metrics_are_exported() -> None:
    asked = {metric for query in every_query() for metric in selected(query)}
    assert asked
    assert asked - {"ALERTS"} <= exported()


@pytest.mark.parametrize("board", BOARDS)
def test_merging_obstacles_are_explained(board: str) -> None:
    (panel,) = (one for one in panels(board) if "samepage_domain_merge_obstacle_info" in one["targets"][0]["expr"])
    assert {word for word in OBSTACLES if f" {word}: " not in panel["description"]} == set()


def test_query_of_unknown_metric_is_found() -> None:
    assert all(selected(query) for query in every_query())
    assert selected('sum(a_b{x="1"}) / c:d{x="1"}') == {"a_b", "c:d"}


def test_promtool_accepts_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: it is in the package prometheus")
    rules = []
    for number, query in enumerate(sorted(every_query())):
        asked = query
        for variable, value in VARIABLES.items():
            asked = asked.replace(variable, value)
        rules.append({"record": f"query:{number}", "expr": asked})
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", sorted((GRAFANA / "provisioning").rglob("*.yaml")), ids=lambda path: path.parent.name)
def test_provisioning_files_are_valid(path: Path) -> None:
    said = yaml.safe_load(path.read_text())
    assert said["apiVersion"] == 1
    (entry,) = said["providers" if path.parent.name == "dashboards" else "datasources"]
    assert entry["type"] == ("file" if path.parent.name == "dashboards" else "prometheus")
