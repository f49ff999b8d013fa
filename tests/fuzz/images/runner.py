"""Run many images in processes with the limits of the sandbox, and print a summary of the outcomes."""

from __future__ import annotations

import gc
import json
import mmap
import re
import resource
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from samepaged.attribution.sandbox import Limits
from tests.fuzz.images import course
from tests.fuzz.images.bases import CACHE, KERNELS, image
from tests.fuzz.images.scene import Scene
from tests.fuzz.images.trial import SECONDS, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["again", "run", "work"]

# Seconds. A process that works on one image for longer does not react to its alarm, and is killed.
PATIENCE: Final = 120.0
# Images per process.
PART: Final = 2_000
EXAMPLES: Final = 5
# This number of consecutive processes without a result is not a finding, but a failure of the setup.
MOST_BARREN: Final = 3
PROGRESS: Final = 60.0
BYTES: Final = 8


def again(number: int) -> int:
    """Run the image of one number with all details. Return 1 for a finding."""
    scene = Scene(image(course.kernel_of(number)))
    outcome, damage = course.attempt(scene, number, tell=True)
    came = f"{outcome.kind} after {outcome.seconds:.2f} s; {outcome.why}"
    print(f"{number}: Linux {course.kernel_of(number)}, {damage}: {came}")
    return int(outcome.is_finding)


def work(kernel: str, numbers: Iterable[int], file: str) -> None:
    """Run the images with these numbers and this kernel. Prints one line of JSON for each outcome; `file` contains the
    number of the current image.
    """
    scene = Scene(image(kernel))
    limit = Limits.of(SECONDS, scene.image.pages, scene.image.pages, seccomp=False).memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    gc.collect()
    gc.freeze()  # the worker collects its garbage before the analysis, and does not have a scene
    with Path(file).open("r+b") as opened, mmap.mmap(opened.fileno(), BYTES) as at:
        peak = 0
        for number in numbers:
            if course.kernel_of(number) != kernel:
                continue
            at[:] = number.to_bytes(BYTES, "little")
            outcome, damage = course.attempt(scene, number)
            now = _peak()
            said = {
                "number": number,
                "kind": outcome.kind,
                "why": outcome.why,
                "seconds": round(outcome.seconds, 3),
                "damage": damage,
            }
            if now > peak:
                peak = said["peak"] = now
            print(json.dumps(said), flush=True)


def run(numbers: range, workers: int, kernels: Sequence[str] = KERNELS) -> Summary:
    """Run the images with these numbers and kernels, print the outcomes, and return them."""
    started = time.monotonic()
    summary = Summary(sum(course.kernel_of(number) in kernels for number in numbers))
    # The parts of a kernel are apart, so that two processes seldom use the same kernel.
    parts = [
        (kernel, numbers[first : first + PART * len(KERNELS)])
        for first in range(0, len(numbers), PART * len(KERNELS))
        for kernel in kernels
    ]
    running: list[_Worker] = []
    said = started
    try:
        while parts or running:
            while parts and len(running) < workers:
                running.append(_Worker(*parts.pop(0), len(running)))
            time.sleep(0.2)
            for worker in list(running):
                for result in worker.results():
                    summary.add(result)
                if worker.ended:
                    running.remove(worker)
                    parts[:0] = worker.left(summary)
            if time.monotonic() - said > PROGRESS:
                said = time.monotonic()
                print(f"{summary.total} images after {said - started:.0f} s, {summary.found} findings", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        for worker in running:
            worker.end()
    summary.tell(time.monotonic() - started)
    return summary


class _Worker:
    """A process that runs a part of the numbers; a file receives its output."""

    def __init__(self, kernel: str, numbers: range, place: int) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        self._kernel, self._numbers = kernel, numbers
        name = f"{time.monotonic_ns():x}-{place}"
        self._at, self._said, self._log = (CACHE / f"{name}.{suffix}" for suffix in ("at", "said", "log"))
        self._at.write_bytes((numbers.start).to_bytes(BYTES, "little"))
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.images",
            "--worker",
            kernel,
            str(numbers.start),
            str(numbers.stop),
            str(self._at),
        ]
        with self._said.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=out, stderr=log)
        self._reader = self._said.open("rb")
        self._rest = b""
        self._fruitful = False
        self._last, self._since = -1, time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether the process has ended, or was killed after a timeout. If so, all its results are in the file."""
        if self._process.poll() is not None:
            return True
        if self._now != self._last:
            self._last, self._since = self._now, time.monotonic()
        if time.monotonic() - self._since > PATIENCE:
            self._process.kill()
            self._process.wait()
            return True
        return False

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()
        self._forget()

    @property
    def _now(self) -> int:
        return int.from_bytes(self._at.read_bytes(), "little")

    def results(self) -> Iterator[dict[str, Any]]:
        """Return the results since the last call."""
        *lines, self._rest = (self._rest + self._reader.read()).split(b"\n")
        for line in lines:
            self._fruitful = True
            yield json.loads(line)

    def left(self, summary: Summary) -> list[tuple[str, range]]:
        """Return the part that another process has to run, if this one ended early. The image that ended it is a
        finding.
        """
        for result in self.results():
            summary.add(result)
        status, now = self._process.returncode, self._now
        log = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        summary.barren = 0 if self._fruitful else summary.barren + 1
        self._forget()
        if status == 0:
            return []
        if summary.barren == MOST_BARREN:
            raise SystemExit(f"processes do not even begin: {log}")
        summary.add({"number": now, "kind": "death", "why": f"status {status}: {log}", "seconds": 0.0, "damage": ""})
        rest = range(now + 1, self._numbers.stop)
        return [(self._kernel, rest)] if rest else []

    def _forget(self) -> None:
        self._reader.close()
        for path in (self._at, self._said, self._log):
            path.unlink()


@dataclass
class Summary:
    """The outcomes of the images so far, out of `images`."""

    images: int
    total: int = 0
    found: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    whys: Counter[str] = field(default_factory=Counter)
    slowest: list[tuple[float, int, str]] = field(default_factory=list)
    peak: tuple[int, int] = (0, -1)
    seconds: float = 0.0
    barren: int = 0

    def add(self, result: dict[str, Any]) -> None:
        """Add the result of one image."""
        number, kind, why, seconds = result["number"], result["kind"], result["why"], result["seconds"]
        self.total += 1
        self.kinds[kind] += 1
        self.seconds += seconds
        self.slowest = sorted([*self.slowest, (seconds, number, result["damage"])], reverse=True)[:EXAMPLES]
        self.peak = max(self.peak, (result.get("peak", 0), number))
        if Outcome(kind, why, seconds).is_finding:
            self.found += 1
            cause = f"{kind}: {why}"
            if not self.findings[cause]:
                print(f"finding in image {number} ({result['damage']}): {cause}", flush=True)
            self.findings[cause].append(number)
        elif why:
            self.whys[f"{kind}: {re.sub('0x[0-9a-f]+|[0-9]+', 'N', why)}"] += 1

    def tell(self, seconds: float) -> None:
        """Print the summary."""
        print(f"{self.total} images of {self.images}, {seconds:.0f} s; {self.found} findings")
        for kind, count in self.kinds.most_common():
            print(f"  {kind:<12} {count:>7} {count / max(self.total, 1):>7.1%}")
        print(f"processor time: {1000 * self.seconds / max(self.total, 1):.0f} ms each; slowest:")
        for each, number, damage in self.slowest:
            print(f"  {each:.2f} s  image {number} ({damage})")
        print(f"most address space: {self.peak[0] >> 20} MiB of {_allowed() >> 20} MiB, image {self.peak[1]}")
        for cause, numbers in sorted(self.findings.items(), key=lambda item: -len(item[1])):
            print(f"{len(numbers)} times {cause}: {', '.join(map(str, numbers[:EXAMPLES]))}")
        if self.found:
            print(f"again: {sys.executable} -m tests.fuzz.images --number N")
        text = "\n".join(f"{count:>7} {why}" for why, count in self.whys.most_common())
        (CACHE / "reasons.txt").write_text(text + "\n")


def _allowed() -> int:
    pages = image(KERNELS[0]).stat().st_size >> 12
    return Limits.of(SECONDS, pages, pages, seccomp=False).memory


def _peak() -> int:
    """Return the peak address space of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmPeak:")[2].split()[0]) << 10
