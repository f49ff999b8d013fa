"""The Debian package under a real systemd, with a running guest: installed, upgraded, removed, purged as by a user."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samepaged import __version__
from tests.vm.conftest import GUEST
from tests.vm.service import log, show, systemctl, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.guests import Writer

# The emulated host takes minutes to unpack a package of three thousand files, and to build a second version of it.
pytestmark = pytest.mark.timeout(1200)

BUILT = Path(__file__).parents[2] / "package"
CONFIG = Path("/etc/samepaged/config.yaml")
METRICS = "http://127.0.0.1:9953/metrics"
PROGRAM = Path("/usr/bin/samepaged")
# The unit of `make install` in /usr/local takes precedence over the package's.
LOCAL_UNIT = Path("/usr/local/lib/systemd/system/samepaged.service")


def dpkg(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run dpkg as apt does, without questions about configuration files."""
    command = ["dpkg", "--force-confdef", "--force-confold", *map(str, words)]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=500)


def status() -> str:
    """Return the package's state and version from dpkg, or an empty string."""
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Version}", "samepaged"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def metrics() -> str:
    with suppress(OSError, HTTPException), urllib.request.urlopen(METRICS, timeout=10) as answer:
        found: str = answer.read().decode()
        return found
    return ""


def scanned() -> bool:
    return re.search(rf'^samepage_domain_info{{[^}}]*domain="{GUEST}"', metrics(), re.MULTILINE) is not None


def access(path: Path) -> tuple[str, str, int]:
    return path.owner(), path.group(), path.stat().st_mode & 0o777


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    (built,) = BUILT.glob("samepaged_*.deb")
    assert not LOCAL_UNIT.exists(), "another test has laid its own unit there; run this one alone, or before it"
    assert not status(), "the package is installed already"
    yield built
    dpkg("--purge", "samepaged")


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a later version with a changed configuration file."""
    directory = tmp_path_factory.mktemp("newer")
    tree, result = directory / "tree", directory / "samepaged.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)", r"\1+later", control.read_text(), flags=re.MULTILINE))
    shipped = tree / CONFIG.relative_to("/")
    shipped.write_text(shipped.read_text() + "\n# Of a later version.\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, result], check=True)
    return result


def install(package: Path) -> None:
    done = dpkg("--install", package)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{log()}"


@pytest.fixture
def running(package: Path, kvm_guest: Writer) -> None:
    """The package installed and its service running. An installation left by the previous test is used again, because
    unpacking takes long on the emulated host.
    """
    if not status().startswith("installed "):
        install(package)
    systemctl("enable", "--now", "samepaged")


# The scanner may resume the guest before SIGSTOP takes effect.
ATTEMPTS = 20


@pytest.fixture
def suspended(running: None, kvm_guest: Writer) -> int:
    """The pid of a scanner stopped by SIGSTOP in the middle of a scan, with the guest suspended."""
    CONFIG.write_text(
        f"guests: {{include: [{GUEST}]}}\n"
        "scan: {interval: 2s, jitter: 0, max_drift: 1, mode: snapshot, max_pause: 60s}\n"
    )
    systemctl("reload", "samepaged")
    for _ in range(ATTEMPTS):
        kvm_guest.wait_until_suspended(120, log)
        pid = int(show("MainPID"))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.3)  # for a resume that was already on its way
        if kvm_guest.suspended:
            return pid
        os.kill(pid, signal.SIGCONT)
    pytest.fail(log())


def test_an_install_gives_a_running_service(package: Path, kvm_guest: Writer) -> None:
    install(package)
    assert status() == f"installed {__version__}"
    assert show("ActiveState") == "active", log()
    assert show("UnitFileState") == "enabled"
    assert Path(show("FragmentPath")).resolve().is_relative_to("/usr/lib/systemd/system")
    wait_until("the guest is scanned, and the metrics say so", scanned)
    assert show("ActiveState", "samepaged-web") == "active"
    assert (show("User"), show("User", "samepaged-web")) == ("samepaged", "samepaged-web")
    assert access(CONFIG) == ("root", "samepaged", 0o640)
    said = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True).stdout
    assert said.strip() == f"samepaged {__version__}"
    share = Path("/usr/share")
    assert (share / "man/man8/samepaged.8.gz").exists()
    for completion in (
        "bash-completion/completions/samepaged",
        "zsh/vendor-completions/_samepaged",
        "fish/vendor_completions.d/samepaged.fish",
    ):
        assert (share / completion).read_text() != "", completion


def test_removal_is_refused_with_open_entry(running: None) -> None:
    entry = Path("/run/samepaged/suspended-1-1")
    entry.write_text("what nobody understands\n")
    done = dpkg("--remove", "samepaged")
    entry.unlink()
    assert done.returncode != 0
    assert "still suspended" in done.stderr
    assert str(entry) in done.stderr
    assert PROGRAM.exists()
    assert status().startswith("installed ")
    assert show("ActiveState") == "active", log()


def test_upgrade_during_scan_resumes_the_guest(newer: Path, kvm_guest: Writer, suspended: int) -> None:
    edited = CONFIG.read_text()
    install(newer)
    assert status() == f"installed {__version__}+later"
    assert show("ActiveState") == "active", log()
    assert int(show("MainPID")) != suspended
    assert CONFIG.read_text() == edited
    assert access(CONFIG) == ("root", "samepaged", 0o640)
    assert "Of a later version" in CONFIG.with_name("config.yaml.dpkg-dist").read_text()
    wait_until("the guest runs", lambda: not kvm_guest.suspended)
    wait_until("it is scanned", scanned)


def test_upgrade_keeps_the_service_disabled(package: Path, running: None) -> None:
    systemctl("disable", "--now", "samepaged")
    install(package)
    assert (show("ActiveState"), show("UnitFileState")) == ("inactive", "disabled")


def test_removal_during_scan_resumes_the_guest(kvm_guest: Writer, suspended: int) -> None:
    configured = CONFIG.read_text()
    assert dpkg("--remove", "samepaged").returncode == 0, log()
    assert not kvm_guest.suspended
    assert not Path(f"/proc/{suspended}").exists()
    assert (show("ActiveState"), show("ActiveState", "samepaged-web")) == ("inactive", "inactive")
    assert not PROGRAM.exists()
    assert not Path("/usr/lib/samepaged").exists()
    assert status().startswith("config-files ")
    assert CONFIG.read_text() == configured
    assert Path("/var/lib/samepaged/seed").exists()

    (CONFIG.parent / "web.yaml").write_text("")
    assert dpkg("--purge", "samepaged").returncode == 0
    assert status() in {"", "not-installed "}
    assert show("LoadState") == "not-found"
    searched = ["/etc", "/run", "/usr", "/var"]
    found = subprocess.run(
        ["find", *searched, "-name", "*samepaged*"], check=True, capture_output=True, text=True
    ).stdout
    others = re.compile(rf"/usr/local/|/var/log/|/run/systemd/|.*{GUEST}")
    assert [path for path in found.splitlines() if not others.match(path)] == []
