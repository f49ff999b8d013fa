"""What holds the house together: who may import whom, how long a file is, and that the tree speaks of itself alone."""

from __future__ import annotations

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
DAEMON = TREE / "daemon"
LONGEST = 350

# The rooms, and what each of them (and each single file beside them) may not know. Data goes one way: hypervisor →
# memory → sharing → export and traces.
ROOMS = {
    "commands",
    "diagnosis",
    "export",
    "guard",
    "hypervisor",
    "memory",
    "service",
    "sharing",
    "sources",
    "traces",
    "web",
}
STRANGERS = {
    "memory": {"guard", "hypervisor", "service", "export", "commands", "sources", "traces", "diagnosis", "web"},
    "guard": {"memory", "sharing", "sources", "export", "service", "commands", "traces", "diagnosis", "web"},
    "hypervisor": {
        "guard",
        "memory",
        "sharing",
        "sources",
        "export",
        "service",
        "commands",
        "traces",
        "diagnosis",
        "web",
    },
    "sources": {"guard", "memory", "hypervisor", "service", "export", "commands", "traces", "diagnosis", "web"},
    "export": {"guard", "memory", "hypervisor", "service", "commands", "diagnosis", "web"},
    "traces": {"guard", "memory", "hypervisor", "service", "commands", "diagnosis", "web"},
    "service": {"commands", "diagnosis"},
    "diagnosis": {"commands"},
    "web": ROOMS - {"web"},
    "config": ROOMS,
    "errors": ROOMS,
    "ksm": ROOMS,
}
HALLS = {"service", "diagnosis", "commands"}

NOT_OURS = {"__pycache__", "build", "dist", "node_modules"}
BUILT = {".egg-info", ".so"}
# The paths of a developer's machine. Preceded by more of a path or by a variable, the same letters are something else.
MACHINE_PATH = re.compile(rb"(?<![\w/.$})-])/(?:root|work)/")


def modules(daemon: Path) -> dict[str, ast.Module]:
    """Every module below `daemon` by its dotted name; a package has its directory's."""
    found = {}
    for path in sorted(daemon.glob("samepaged/**/*.py")):
        name = ".".join(path.relative_to(daemon).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text())
    return found


def imports(name: str, tree: ast.AST, known: set[str]) -> set[str]:
    """The modules of ours that `tree` imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively, line {node.lineno}"
            # `from package import module` is an import of the module, `from module import name` of the module alone.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known) or {str(node.module)}
    return {module for module in found if module.split(".")[0] == "samepaged"}


def room(module: str) -> str:
    """`samepaged.memory.pagemap` → `memory`; the package itself is nobody's neighbour."""
    return module.partition(".")[2].partition(".")[0]


@cache
def arrows(daemon: Path) -> dict[str, set[str]]:
    """Which rooms (or single files beside them) each room imports."""
    found: dict[str, set[str]] = {}
    trees = modules(daemon)
    for name, tree in trees.items():
        known = {room(module) for module in imports(name, tree, set(trees))}
        found.setdefault(room(name), set()).update(known - {room(name), ""})
    return found


def module_level(tree: ast.Module) -> ast.Module:
    """The module without the bodies of its functions."""

    class Shallow(ast.NodeTransformer):
        def visit_FunctionDef(self, _: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, _: ast.AsyncFunctionDef) -> None:
            return None

    shallow = Shallow().visit(ast.parse(ast.unparse(tree)))
    assert isinstance(shallow, ast.Module)
    return shallow


def circle(daemon: Path) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    trees = modules(daemon)
    graph = {name: imports(name, module_level(tree), set(trees)) for name, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found = error.args[1]
        assert isinstance(found, list)
        return found
    return []


def files(tree: Path) -> list[Path]:
    """Every file of ours: not what tools made, nor what they keep in hidden directories other than the CI's."""
    found = []
    for path in sorted(tree.iterdir()):
        if path.name in NOT_OURS or path.suffix in BUILT:
            continue
        if path.is_dir() and not path.is_symlink():
            if not path.name.startswith(".") or path.name in {".ci", ".github"}:
                found += files(path)
        elif path.is_file():
            found.append(path)
    return found


def machine_paths(tree: Path) -> list[str]:
    return [
        f"{path.relative_to(tree)}:{number}"
        for path in files(tree)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if MACHINE_PATH.search(line)
    ]


@pytest.mark.parametrize("name", sorted(STRANGERS))
def test_data_goes_one_way(name: str) -> None:
    assert arrows(DAEMON).get(name, set()) & (STRANGERS[name] | {"cli"}) == set()


def test_sharing_knows_nobody() -> None:
    assert arrows(DAEMON)["sharing"] == set()


def test_the_web_process_knows_what_it_may_do_and_how_errors_end_and_nothing_else() -> None:
    assert arrows(DAEMON)["web"] <= {"errors", "privileges"}


def test_only_the_halls_know_two_neighbours() -> None:
    # What a page holds and whose it is are shown and kept together: these two count as one.
    one_of_two = ROOMS - {"sources"}
    met = {name: known & one_of_two for name, known in arrows(DAEMON).items() if name in ROOMS - HALLS}
    assert {name: known for name, known in met.items() if len(known) > 1} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(DAEMON) == []


def test_every_file_of_the_daemon_fits_in_the_head() -> None:
    lengths = {path: len(path.read_bytes().splitlines()) for path in DAEMON.glob("samepaged/**/*.py")}
    assert lengths
    assert {str(path): lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_no_file_names_a_path_of_a_developers_machine() -> None:
    assert machine_paths(TREE) == []


# The rules above are only as good as the reading of the tree: here it is shown what it must not overlook.


def house(root: Path, **sources: str) -> Path:
    """A small tree: `memory__pagemap="import x"` is samepaged/memory/pagemap.py."""
    for name, source in sources.items():
        path = root / "samepaged" / (name.replace("__", "/", 1) + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


@pytest.mark.parametrize(
    "source",
    [
        "import samepaged.hypervisor.pause",
        "from samepaged import hypervisor",
        "from samepaged.hypervisor import pause",
        "from samepaged.hypervisor.pause import Pause as P",
        "def read():\n    from samepaged.hypervisor import pause",
        "if TYPE_CHECKING:\n    from samepaged.hypervisor.pause import Pause",
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str, tmp_path: Path) -> None:
    daemon = house(tmp_path, hypervisor____init__="", hypervisor__pause="", memory__reader=source)
    assert arrows(daemon)["memory"] == {"hypervisor"}


def test_a_circle_is_seen(tmp_path: Path) -> None:
    first, second, third = "import samepaged.memory.second", "", "from samepaged.memory.first import read"
    assert circle(house(tmp_path, memory__first=first, memory__second=second, memory__third=third)) == []
    second = "from samepaged.memory import third"
    daemon = house(tmp_path, memory__second=second)
    assert set(circle(daemon)) == {"samepaged.memory.first", "samepaged.memory.second", "samepaged.memory.third"}


def test_an_import_within_a_function_makes_no_circle(tmp_path: Path) -> None:
    later = "def f():\n    import samepaged.memory.first"
    assert circle(house(tmp_path, memory__first="import samepaged.memory.second", memory__second=later)) == []


def test_a_path_of_a_developers_machine_is_seen(tmp_path: Path) -> None:
    home = "/" + "root/"
    (tmp_path / "notes.md").write_text(f"run\n`{home}bin/x`\n$(TOP){home} {{top}}{home} a{home}b")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "made").write_text(home)
    assert machine_paths(tmp_path) == ["notes.md:2"]
