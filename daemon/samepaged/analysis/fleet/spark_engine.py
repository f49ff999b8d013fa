"""Fleet queries on Apache Spark: on this machine, or on a cluster that reads the same files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samepaged.analysis.fleet.engine import EngineError
from samepaged.errors import SamepagedError, TraceError, UsageError

try:
    import pyspark
    from py4j.protocol import Py4JError
    from pyspark import SparkContext
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
    from pyspark.storagelevel import StorageLevel
except ImportError:  # the package was installed without the extra `spark`
    pyspark = None

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyspark.sql import DataFrame

    from samepaged.analysis.fleet.engine import FleetTrace

__all__ = ["SparkEngine", "spark_engine"]

# A cluster divides the work by itself.
ROWS_AT_ONCE: Final = 1 << 32
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FAILURES: Final[tuple[type[Exception], ...]] = (OSError,) if pyspark is None else (OSError, Py4JError, PySparkException)
STOP_SECONDS: Final = 30


class SparkEngine:
    """An `Engine` on a session. Relations are computed on first use, and cached."""

    def __init__(self, session: SparkSession, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self._session = session
        self._kept: dict[str, DataFrame] = {}
        self.rows_at_once = rows_at_once

    def open(self, paths: Sequence[str], guests: Sequence[FleetTrace]) -> None:
        """Create the views `traces` and `guests`."""
        for path in paths:
            if Path(path).name.startswith("_"):
                raise TraceError(path, "is ignored by Spark because its name begins with _", "rename it")
        with _named():
            # Paths are literal, whatever characters they contain; `host=` in a directory's name is not a column.
            reader = self._session.read.option("__globPaths__", "false").option("recursiveFileLookup", "true")
            reader.schema("host string, domain string, scanned_at timestamp, hash bigint, pages int").parquet(
                *(path if "://" in path else str(Path(path).absolute()) for path in paths)
            ).createOrReplaceTempView("traces")
            self._session.createDataFrame(
                [
                    (number, one.host_number, one.host, one.domain, EPOCH + timedelta(microseconds=one.microseconds))
                    for number, one in enumerate(guests)
                ],
                "guest int, host_number int, host string, domain string, scanned_at timestamp",
            ).createOrReplaceTempView("guests")

    def materialize(self, name: str, query: str) -> None:
        """Create a view from a query."""
        with _named():
            if name in self._kept:
                self._kept.pop(name).unpersist()
            found = self._session.sql(query).persist(StorageLevel.MEMORY_AND_DISK)
            found.createOrReplaceTempView(name)
            self._kept[name] = found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with _named():
            return [tuple(row) for row in self._session.sql(query).collect()]


@contextlib.contextmanager
def spark_engine(master: str) -> Iterator[SparkEngine]:
    """Open a session at `master` for this process only; afterwards none of its files or processes remain on this
    machine.

    Raises UsageError if pyspark or Java is missing, SamepagedError if the master does not answer.
    """
    if pyspark is None:
        raise UsageError("--engine spark needs pyspark, which is not installed", "run pip install 'samepaged[spark]'")
    with tempfile.TemporaryDirectory(prefix="samepaged-") as directory:
        scratch = Path(directory)
        with _environment(master, scratch):
            session = _session(master, scratch)
            gateway = SparkContext._gateway  # noqa: SLF001 - the only reference to the JVM's process
            try:
                yield SparkEngine(session)
            finally:
                _end(session, gateway)


def _session(master: str, scratch: Path) -> SparkSession:
    settings = {
        "spark.api.mode": "classic",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.local.dir": str(scratch),
        "spark.driver.extraJavaOptions": f"-Djava.io.tmpdir={scratch} -XX:-UsePerfData",
    }
    if _is_local(master):
        settings |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": str(2 * len(os.sched_getaffinity(0))),
        }
    builder = SparkSession.builder.master(master).appName("samepaged fleet")
    for key, value in settings.items():
        builder = builder.config(key, value)
    said = scratch / "said"
    try:
        with _redirect_output(said):
            session = builder.getOrCreate()
    except FAILURES as error:
        lines = [line for line in said.read_text(errors="replace").splitlines() if line.strip()]
        last = f" ({lines[-1][:200]})" if lines else ""
        raise SamepagedError(
            f"Spark does not start at {master}: {_line(error)}{last}",
            "check that Java 17 is installed and --master is correct",
        ) from error
    session.sparkContext.setLogLevel("OFF")
    return session


def _end(session: SparkSession, gateway: Any) -> None:  # noqa: ANN401 - py4j has no types
    """Stop the session and the JVM, which would otherwise run until this process ends."""
    with contextlib.suppress(*FAILURES):
        session.stop()
    gateway.shutdown()
    process: subprocess.Popen[bytes] = gateway.proc
    if process.stdin is not None:
        process.stdin.close()  # the JVM ends with it
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Another session in this process starts another JVM.
    SparkContext._gateway = SparkContext._jvm = None  # noqa: SLF001 - as above


@contextlib.contextmanager
def _environment(master: str, scratch: Path) -> Iterator[None]:
    """Set Spark's environment variables while it runs."""
    wanted = {}
    if _is_local(master):
        wanted["SPARK_LOCAL_IP"] = "127.0.0.1"
    if "SPARK_HOME" not in os.environ and pyspark.__file__:
        # Workers create directories in SPARK_HOME, which may not belong to them.
        home = scratch / "home"
        home.mkdir()
        for entry in Path(pyspark.__file__).parent.iterdir():
            if entry.name != "work":
                (home / entry.name).symlink_to(entry)
        wanted["SPARK_HOME"] = str(home)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _redirect_output(path: Path) -> Iterator[None]:
    """Redirect the JVM's output to a file: it begins with warnings that users cannot act on."""
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    with path.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise EngineError(_line(error)) from error


def _is_local(master: str) -> bool:
    return master.startswith("local")


def _line(error: Exception) -> str:
    """Return the first line of the message, without the JVM's stack trace."""
    return " ".join(str(error).strip().partition("\n")[0].split())[:200]
