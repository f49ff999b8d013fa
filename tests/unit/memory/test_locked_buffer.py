"""Location of guest memory during a scan: in locked buffers, and not in swap, core dumps or errors."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import samepaged
from samepaged.errors import GuestError
from samepaged.memory.dump_reader import DumpStream
from samepaged.memory.hashing import Hashing, NativeHasher, PythonHasher, SubpageDigests
from samepaged.memory.locked_buffer import locked_buffer
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import RamMapping
from tests.support.process_memory import holders, mappings
from tests.unit.memory.test_dump import core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from samepaged.memory.hashing import Hasher

    Failing = Callable[[Hasher, int, tuple[int, ...], Path], None]

PAGE = 4096
MIB = 1 << 20
SECRET = b"-".join([b"guest"] * 64)
SEED = 0x5EED0FADAE5C0DE5
PACKAGE = Path(samepaged.__file__).parent
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()


def run(*lines: str, cwd: Path | None = None) -> str:
    """Run these lines in a new Python process; return its output."""
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode in (0, -6), done.stderr
    return done.stdout + done.stderr


def test_buffer_is_locked_and_not_inherited() -> None:
    buffer = locked_buffer(MIB)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    (mapping,) = (one for one in mappings(os.getpid()) if one.start <= address < one.end)
    assert mapping.secluded


def test_buffer_lives_with_its_views() -> None:
    buffer = locked_buffer(PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    part = buffer[1:2]
    del buffer
    assert any(one.start <= address < one.end for one in mappings(os.getpid()))
    del part
    assert not any(one.start <= address < one.end and one.secluded for one in mappings(os.getpid()))


@pytest.mark.parametrize("limit", [0, PAGE])
def test_lock_failure_is_logged_once(limit: int) -> None:
    program = (
        "import resource; from concurrent.futures import ThreadPoolExecutor",
        "from samepaged import privileges; from samepaged.memory.locked_buffer import locked_buffer",
        "with ThreadPoolExecutor(8) as pool: buffers = list(pool.map(locked_buffer, [1 << 20] * 64))",
        "for buffer in buffers: buffer[:] = bytes(len(buffer))",
        "flags = [line.split() for line in open('/proc/self/smaps') if line.startswith('VmFlags')]",
        "print(any({'dd', 'dc'} <= set(words) and 'lo' not in words for words in flags))",
    )
    limited = f"privileges.drop(); resource.setrlimit(resource.RLIMIT_MEMLOCK, ({limit}, {limit}))"
    said = run(*program[:2], limited, *program[2:])
    assert said.count("cannot lock buffers") == 1
    assert "LimitMEMLOCK=" in said
    assert "True\n" in said


@pytest.mark.skipif("/" in CORE_PATTERN or not CORE_PATTERN.startswith("core"), reason="cores go elsewhere")
def test_core_dump_omits_buffers(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    program = (
        "import os, resource; from samepaged.memory.locked_buffer import locked_buffer",
        "most = resource.getrlimit(resource.RLIMIT_CORE)[1]; resource.setrlimit(resource.RLIMIT_CORE, (most, most))",
        "ordinary = b'-'.join([b'ordinary'] * 64); buffer = locked_buffer(1 << 20)",
        "open('secret', 'rb', buffering=0).readinto(buffer); assert buffer[:5] == b'guest'",
        "os.abort()",
    )
    run(*program, cwd=tmp_path)
    (content,) = (path.read_bytes() for path in tmp_path.iterdir() if path.name != "secret")
    assert b"-".join([b"ordinary"] * 64) in content
    assert SECRET not in content


class Planted:
    """Memory of this process that stands for a guest's: pages with the secret; the last page is unreadable."""

    COUNT = 600  # more than a step of each of two threads

    def __init__(self) -> None:
        self.pages = mmap.mmap(-1, self.COUNT * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.pages.madvise(mmap.MADV_NOHUGEPAGE)
        self.pages.write(SECRET.ljust(PAGE, b"!") * self.COUNT)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.pages))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(self.start + (self.COUNT - 1) * PAGE), PAGE, 0) == 0

    def mapping(self) -> RamMapping:
        return RamMapping(self.start, len(self.pages), (0, 0), 0, 0, "", shared=False, hugetlb=False, mergeable=False)


def fail_in_the_process(hasher: Hasher, threads: int, sizes: tuple[int, ...], _: Path) -> None:
    planted = Planted()
    finer = SubpageDigests(Planted.COUNT, sizes, hasher, SEED) if sizes else None
    with ProcessRam(os.getpid(), [planted.mapping()], Hashing(hasher, SEED, threads, lambda: False, finer)) as reader:
        reader.read()


def fail_in_the_dump(hasher: Hasher, _: int, sizes: tuple[int, ...], directory: Path) -> None:
    def dump(path: Path) -> None:
        with path.open("wb") as fifo:
            fifo.write(core((0, SECRET.ljust(PAGE, b"!") * Planted.COUNT))[: -PAGE // 2])

    finer = SubpageDigests(Planted.COUNT, sizes, hasher, SEED) if sizes else None
    blocks = [Planted.COUNT * PAGE]
    DumpStream(dump, directory, blocks, Hashing(hasher, SEED, 1, lambda: False, finer)).read()


def told(error: BaseException | None) -> Iterator[str]:
    """All that a log could show of an error, including the local variables of samepaged's functions."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                yield from map(repr, frame.f_locals.values())
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("sizes", [(), (1024,)], ids=["pages", "parts"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hasher", [NativeHasher, PythonHasher])
@pytest.mark.parametrize("fail", [fail_in_the_process, fail_in_the_dump])
def test_errors_hide_content_and_seed(
    fail: Failing, hasher: type[Hasher], threads: int, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    with pytest.raises(GuestError) as caught:
        fail(hasher(), threads, sizes, tmp_path)
    text = "\n".join(told(caught.value))
    assert "hash_buffer" in text or "ProcessRam" in text or "DumpStream" in text  # local variables
    assert "guest-guest" not in text
    assert "!!!!" not in text
    # While the error exists, only locked buffers hold content.
    ours = [one for one in mappings(os.getpid()) if one.secluded]
    assert ours
    assert holders(os.getpid(), [SECRET], ours)


def test_hashing_repr_hides_the_seed() -> None:
    shown = repr(Hashing(PythonHasher(), SEED, 1, bool))
    assert "threads=1" in shown
    assert str(SEED) not in shown
