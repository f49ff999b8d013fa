from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from samepaged import privileges
from samepaged.errors import SamepagedError
from samepaged.privileges import NAMES, PrivilegeError

PTRACE, SETUID = 1 << NAMES.index("CAP_SYS_PTRACE"), 1 << NAMES.index("CAP_SETUID")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")


def after(*lines: str) -> dict[str, str]:
    """/proc/PID/status, as another process sees it, of one that has run these lines."""
    program = "\n".join(
        [
            "import os, sys, threading, samepaged.privileges as p",
            *lines,
            "print('done', flush=True)",
            "sys.stdin.read()",
        ]
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        status = Path(f"/proc/{process.pid}/status").read_text()
        owner = Path(f"/proc/{process.pid}/environ").stat().st_uid
        process.stdin.close()
        assert process.wait() == 0
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {**found, "owner": str(owner)}


def refused(*lines: str) -> str:
    program = "\n".join(
        [
            "import threading, time, samepaged.privileges as p",
            "try:",
            *(f" {line}" for line in lines),
            "except p.PrivilegeError as error: print(error)",
        ]
    )
    return subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True).stdout


def capabilities(status: dict[str, str]) -> dict[str, int]:
    return {name: int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


@as_root
def test_sealed_process_is_not_dumpable() -> None:
    as_a_user = ("p.become('nobody')", "p._prctl('PR_SET_DUMPABLE', 4, 1)")
    assert after(*as_a_user)["owner"] == str(pwd.getpwnam("nobody").pw_uid)
    assert after(*as_a_user, "p.seal()")["owner"] == "0"


CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()
NO_LIMIT = "p.resource.setrlimit = lambda *_: None"
STILL_DUMPABLE = "p._prctl = lambda *_: None"


@pytest.mark.skipif("/" in CORE_PATTERN or not CORE_PATTERN.startswith("core"), reason="cores go elsewhere")
@pytest.mark.parametrize(
    ("lines", "cores"),
    [(["p.seal()"], 0), ([NO_LIMIT, "p.seal()"], 0), ([STILL_DUMPABLE, "p.seal()"], 0), ([], 1)],
    ids=["sealed", "only not dumpable", "only limited", "as it was"],
)
def test_a_sealed_process_leaves_no_core(lines: list[str], cores: int, tmp_path: Path) -> None:
    most = "most = p.resource.getrlimit(p.resource.RLIMIT_CORE)[1]"
    begin = ["import os, samepaged.privileges as p", most, "p.resource.setrlimit(p.resource.RLIMIT_CORE, (most, most))"]
    program = "\n".join([*begin, *lines, "os.abort()"])
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == -6, done.stderr
    assert len(list(tmp_path.iterdir())) == cores


@as_root
@pytest.mark.parametrize("command", ["run", "scan"])
def test_memory_commands_seal_first(command: str) -> None:
    program = (
        "import os, resource, samepaged.privileges as p; from samepaged.cli import command_parser, main\n"
        "command_parser()  # imports all commands, which another user may not be able to read\n"
        "owner = lambda: os.stat('/proc/self/environ').st_uid\n"
        "p.become('nobody'); p._prctl('PR_SET_DUMPABLE', 4, 1); before = owner()\n"
        f"status = main([{command!r}, '--config', '/nonexistent'])\n"
        "print(status, before, owner(), resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"2 {pwd.getpwnam('nobody').pw_uid} 0 (0, 0)\n"


@as_root
def test_dropping_leaves_nothing() -> None:
    status = after("p.drop()")
    assert set(capabilities(status).values()) == {0}
    assert status["NoNewPrivs"] == "1"


@as_root
def test_drop_keeps_only_listed_capabilities() -> None:
    status = after("p.drop(['CAP_SYS_PTRACE'])")
    assert capabilities(status) == {"Inh": 0, "Prm": PTRACE, "Eff": PTRACE, "Bnd": PTRACE, "Amb": 0}


@as_root
def test_drop_never_adds_capabilities() -> None:
    status = after("p.drop(['CAP_SETUID'])", "p.drop(['CAP_SETUID', 'CAP_SYS_PTRACE'])")
    assert capabilities(status)["Eff"] == SETUID


@as_root
def test_exec_regains_no_capabilities() -> None:
    program = "import subprocess, samepaged.privileges as p\np.drop()\nprint(open('/proc/self/status').read())\n"
    child = "import subprocess; subprocess.run(['cat', '/proc/self/status'])"
    done = subprocess.run([sys.executable, "-I", "-c", f"{program}{child}"], capture_output=True, text=True, check=True)
    assert done.stdout.count("CapEff:\t0000000000000000\n") == 2


@as_root
def test_drop_without_setpcap() -> None:
    found = capabilities(after("p.become('nobody')", "p.drop()"))
    assert found["Bnd"]
    assert {found[name] for name in ("Inh", "Prm", "Eff", "Amb")} == {0}


def test_drop_refuses_second_thread() -> None:
    line = "threading.Thread(target=time.sleep, args=(2,), daemon=True).start(); p.drop()"
    assert "before a second thread is started" in refused(line)


@as_root
def test_become_drops_groups_and_capabilities() -> None:
    nobody = pwd.getpwnam("nobody")
    status = after("os.setgroups([0, 4])", "p.become('nobody')")
    assert status["Uid"].split() == [str(nobody.pw_uid)] * 4
    assert status["Gid"].split() == [str(nobody.pw_gid)] * 4
    assert status["Groups"].strip() == ""
    assert capabilities(status)["Prm"] == 0


@as_root
def test_become_keeps_the_seal() -> None:
    assert after("p.seal()", "p.become('nobody')")["owner"] == "0"


def test_becoming_who_one_is_changes_nothing() -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert capabilities(after(f"p.become({user!r})")) == capabilities(after())


@as_root
def test_only_root_becomes_someone_else() -> None:
    assert refused("p.become('nobody')", "p.become('root')").startswith("only root can become user 'root'; ")


def test_unknown_user_is_named() -> None:
    with pytest.raises(SamepagedError, match="user 'no such' does not exist; create it"):
        privileges.become("no such")


def test_unknown_capability_drops_nothing() -> None:
    before = privileges.effective_capabilities()
    with pytest.raises(ValueError, match="not a capability: SYS_PTRACE"):
        privileges.drop(["SYS_PTRACE", "CAP_CHOWN"])
    assert privileges.effective_capabilities() == before


def test_held_capabilities_match_proc() -> None:
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    bits = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff"))
    assert sum(1 << NAMES.index(name) for name in privileges.effective_capabilities()) == bits


@as_root
def test_kernel_refusal_is_an_error() -> None:
    # In a user namespace without a mapping of groups, setgroups is not allowed (user_namespaces(7)).
    program = "import samepaged.privileges as p\ntry: p.become('nobody')\nexcept p.PrivilegeError as e: print(e)"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-I", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("this process cannot become user 'nobody': ")


def test_capability_names_match_kernel() -> None:
    assert (NAMES.index("CAP_SETPCAP"), NAMES.index("CAP_SYS_PTRACE")) == (8, 19)
    assert NAMES[40] == "CAP_CHECKPOINT_RESTORE"
    assert issubclass(PrivilegeError, SamepagedError)
