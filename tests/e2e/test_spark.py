"""`samepaged fleet` on Apache Spark, with two executors as processes of their own, answers as on DuckDB."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from samepaged.analysis.fleet.counting import analyse_fleet
from samepaged.analysis.fleet.duckdb_engine import duckdb_engine
from samepaged.analysis.fleet.spark_engine import spark_engine
from samepaged.errors import SamepagedError, TraceError
from samepaged.traces import TraceStore, parquet
from tests.support.fleet import guest, rewrite, write_mixed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.analysis.fleet.engine import Engine

pytestmark = [
    pytest.mark.skipif(find_spec("pyspark") is None, reason="pyspark is not installed"),
    pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed"),
]

# Two executors, each a process with one core and 1 GiB.
TWO_EXECUTORS: Final = "local-cluster[2,1,1024]"
# Full JIT compilation would take longer than the queries of these tests.
QUICK: Final = "-XX:TieredStopAtLevel=1"


def children() -> dict[int, str]:
    """Return the descendants of this process and their commands."""
    found: dict[int, str] = {}
    parents = {os.getpid()}
    for path in sorted(
        (path for path in Path("/proc").iterdir() if path.name.isdigit()), key=lambda path: int(path.name)
    ):
        with contextlib.suppress(OSError, IndexError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in parents:
                parents.add(int(path.name))
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture(scope="module")
def spark() -> Iterator[Engine]:
    """One session for all: it takes some seconds to start. Afterwards nothing of it runs."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JDK_JAVA_OPTIONS", QUICK)
        with spark_engine(TWO_EXECUTORS) as engine:
            yield engine
    assert [said for said in children().values() if "java" in said] == []


def test_executors_are_separate_processes(spark: Engine, tmp_path: Path) -> None:
    TraceStore(tmp_path).write(guest("a", "x", [7]))
    analyse_fleet(tmp_path, lambda: contextlib.nullcontext(spark))
    assert sum("CoarseGrainedExecutorBackend" in said for said in children().values()) == 2


@pytest.mark.parametrize(("written", "asked"), [(1, 1), (1, 8), (4, 1)], ids=["exact", "sampled", "of samples"])
def test_spark_and_duckdb_give_identical_results(spark: Engine, tmp_path: Path, written: int, asked: int) -> None:
    write_mixed(tmp_path, sample=written)
    expected = analyse_fleet(tmp_path, duckdb_engine, sample=asked)
    assert len(expected.pairs) == 10
    assert analyse_fleet(tmp_path, lambda: contextlib.nullcontext(spark), sample=asked) == expected


def test_contents_of_many_guests_agree(spark: Engine, tmp_path: Path) -> None:
    # More than the 512 from which contents go by blocks, beside some of few guests, which are written out.
    common = list(range(2**64 - 300, 2**64))
    parquet.write(
        tmp_path / "x.parquet",
        [guest(f"host-{number % 7}", f"{number}", [*common, 7 + number % 200]) for number in range(520)],
    )
    expected = analyse_fleet(tmp_path, duckdb_engine)
    assert expected.pairs[0].shared > 300
    assert analyse_fleet(tmp_path, lambda: contextlib.nullcontext(spark)) == expected


def test_spark_names_changed_file(spark: Engine, tmp_path: Path) -> None:
    store = TraceStore(tmp_path)
    store.write(guest("a", "x", [7, 8]))
    path = store.write(guest("b", "x", [7, 8]))
    rewrite(path, "CASE WHEN hash = 8 THEN 9 ELSE hash END AS hash")
    with pytest.raises(TraceError, match="has rows that do not match its checksums") as caught:
        analyse_fleet(tmp_path, lambda: contextlib.nullcontext(spark))
    assert str(path) in str(caught.value)


def test_spark_names_unreadable_file(spark: Engine, tmp_path: Path) -> None:
    path = TraceStore(tmp_path).write(guest("a", "x", list(range(7, 4000))))
    damaged = bytearray(path.read_bytes())
    damaged[40:400] = bytes(360)
    path.write_bytes(damaged)
    with pytest.raises(TraceError) as caught:
        analyse_fleet(tmp_path, lambda: contextlib.nullcontext(spark))
    assert str(path) in str(caught.value)


SHARING = (Path(sys.executable).with_name("samepaged"), "fleet", "sharing")


def test_command_agrees_and_cleans_up(tmp_path: Path) -> None:
    write_mixed(tmp_path / "traces", hosts=2, guests=2)
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    scratch.mkdir()
    here.mkdir()
    said = {}
    for engine in (["duckdb"], ["spark", "--master", "local[1]"]):
        done = subprocess.run(
            [*SHARING, "--json", "--engine", *engine, tmp_path / "traces"],
            check=True,
            capture_output=True,
            text=True,
            cwd=here,
            env=os.environ | {"TMPDIR": str(scratch), "JDK_JAVA_OPTIONS": QUICK},
        )
        assert done.stderr == ""
        said[engine[0]] = done.stdout
    assert said["spark"] == said["duckdb"]
    assert json.loads(said["spark"])["duplicate_pages"] > 0
    assert [*scratch.iterdir(), *here.iterdir()] == []


def test_unresponsive_master_is_an_error(tmp_path: Path) -> None:
    TraceStore(tmp_path).write(guest("a", "x", [7]))
    engine = ("--engine", "spark", "--master", "nonsense://1")
    done = subprocess.run([*SHARING, *engine, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == SamepagedError.exit_status
    assert len(done.stderr.splitlines()) == 1
    assert "nonsense://1" in done.stderr
