"""The web process: its pages, its access control, and scans that continue after its failure."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt
import pytest

from samepaged.errors import ConfigError, SamepagedError
from samepaged.web.client import WebClient, WebListener
from samepaged.web.process import ChildProcess, SystemdService
from samepaged.web.protocol import Document
from tests.support.certificates import Authority, Pair
from tests.support.command import Samepaged
from tests.support.daemon import Daemon, daemon
from tests.support.processes import WEB, children
from tests.support.prometheus import prometheus
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.guests import Writer

FAST = "scan: {interval: 1s, jitter: 0, max_drift: 1}"
PAGES = [
    Document("/metrics", "text/plain; version=0.0.4; charset=utf-8", b"samepage_up 1\n"),
    Document("/-/ready", "text/plain; charset=utf-8", b"samepaged is ready\n"),
]
PATIENCE = 30.0


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that the user of the web process may read, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="spw-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def server(authority: Authority) -> Pair:
    return authority.sign("server", "IP:127.0.0.1", "DNS:localhost")


class Web:
    """A web process that is fed by this one."""

    def __init__(self, child: ChildProcess, publisher: WebClient) -> None:
        self._child = child
        self.publisher = publisher

    @property
    def pid(self) -> int:
        assert self._child._process is not None
        return self._child._process.pid

    @property
    def port(self) -> int:
        return self.publisher._settings.port

    def ask(
        self, path: str = "/metrics", tls: ssl.SSLContext | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        return ask(self.port, path, tls, **headers)


def ask(
    port: int, path: str = "/metrics", tls: ssl.SSLContext | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    client = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=tls)
    )
    with contextlib.closing(client):
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        return answer, answer.read()


@contextlib.contextmanager
def web(config: Path | None = None) -> Iterator[Web]:
    child = ChildProcess()
    publisher = WebClient(child, lambda: PAGES, WebListener("127.0.0.1", 0, config))
    try:
        publisher.start(lambda: False)
        yield Web(child, publisher)
    finally:
        publisher.stop()


def trusting(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts the authority, and shows a certificate."""
    context = ssl.create_default_context(cafile=authority.certificate)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def install(directory: Path, pair: Pair, authority: Authority, **tls: object) -> Path:
    """A web configuration file with TLS, next to its certificate and key."""
    shutil.copy(pair.certificate, directory / "server.crt")
    shutil.copy(pair.key, directory / "server.key")
    shutil.copy(authority.certificate, directory / "clients.crt")
    path = directory / "web.yaml"
    config = {"tls_server_config": {"cert_file": "server.crt", "key_file": "server.key", **tls}}
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def basic(user: str, password: str) -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_holds_no_right_and_is_not_root() -> None:
    with web() as one:
        held = status(one.pid)
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(held[name], 16) == 0
        assert held["NoNewPrivs"] == "1"
        if os.geteuid() == 0:
            assert "0" not in held["Uid"].split() + held["Gid"].split()
            assert held["Groups"] == ""


def test_it_inherits_nothing_but_its_feed_and_where_to_complain() -> None:
    with tempfile.TemporaryFile() as secret, web() as one:
        os.set_inheritable(secret.fileno(), True)
        os.kill(one.pid, signal.SIGKILL)
        before = one.pid
        wait_for(lambda: one.pid != before)
        wait_for(lambda: one.publisher._disconnected is False)
        held = {str(path.readlink()) for path in Path(f"/proc/{one.pid}/fd").iterdir()}
        assert {name for name in held if not name.startswith(("socket:", "anon_inode:"))} <= {
            "/dev/null",
            str(Path("/proc/self/fd/2").readlink()),
        }


def test_it_leaves_with_the_scanner_and_not_before() -> None:
    with web() as one:
        assert os.getsid(one.pid) == one.pid  # the terminal's signals are not for it
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(one.pid, number)
        assert one.ask()[0].status == 200
        pid = one.pid
    assert not Path(f"/proc/{pid}").exists()


def test_without_a_feed_it_says_what_it_is_for() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-m", "samepaged.web"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "samepaged-web: standard input is not a socket; start `samepaged run`, or use --feed PATH\n"


def test_few_open_files_are_enough_beside_many_silent_clients() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        scene = contextlib.ExitStack()
        one = scene.enter_context(web())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with scene:
        for number in range(300):
            client = scene.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=PATIENCE))
            if number % 2:
                client.sendall(b"GET /metr")
        assert one.ask()[0].status == 200


def test_it_is_encrypted_for_those_who_trust_its_authority(public: Path, authority: Authority, server: Pair) -> None:
    with web(install(public, server, authority)) as one:
        answer, body = one.ask(tls=trusting(authority))
        assert (answer.status, body) == (200, b"samepage_up 1\n")
        with pytest.raises(ssl.SSLCertVerificationError):
            one.ask(tls=ssl.create_default_context())
        answer, body = one.ask()
        assert (answer.status, body) == (400, b"use https here\n")


def test_a_certificate_may_be_in_the_file_itself(public: Path, authority: Authority, server: Pair) -> None:
    path = public / "web.yaml"
    inline = {"cert": server.certificate.read_text(), "key": server.key.read_text(), "max_version": "TLS12"}
    path.write_text(json.dumps({"tls_server_config": inline}))
    with web(path) as one:
        assert one.ask(tls=trusting(authority))[0].status == 200
        newer = trusting(authority)
        newer.minimum_version = ssl.TLSVersion.TLSv1_3
        with pytest.raises(ssl.SSLError):
            one.ask(tls=newer)


def test_clients_without_the_right_certificate_get_nothing(public: Path, authority: Authority, server: Pair) -> None:
    path = install(
        public,
        server,
        authority,
        client_auth_type="RequireAndVerifyClientCert",
        client_ca_file="clients.crt",
        client_allowed_sans=["prometheus.example", "2001:db8::1"],
    )
    stranger = Authority(public / "elsewhere").sign("stranger", "DNS:prometheus.example")
    with web(path) as one:
        for names in (["DNS:prometheus.example"], ["IP:2001:db8:0:0:0:0:0:1", "DNS:x.example"]):
            assert one.ask(tls=trusting(authority, authority.sign("client", *names)))[0].status == 200
        for pair in (None, stranger, authority.sign("other", "DNS:grafana.example")):
            with pytest.raises((OSError, http.client.HTTPException)):
                one.ask(tls=trusting(authority, pair))


def test_half_a_handshake_holds_nobody_up(public: Path, authority: Authority, server: Pair) -> None:
    with web(install(public, server, authority)) as one, contextlib.ExitStack() as clients:
        for number in range(600):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", one.port), timeout=PATIENCE))
            if number % 2:
                client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert one.ask(tls=trusting(authority))[0].status == 200


@pytest.mark.parametrize("path", ["/metrics", "/-/ready", "/-/healthy", "/nothing"])
def test_every_path_wants_the_password(public: Path, path: str) -> None:
    config = public / "web.yaml"
    config.write_text(json.dumps({"basic_auth_users": {"alice": hashed("wonderland")}}))
    with web(config) as one:
        assert one.ask(path)[0].status == 401
        assert one.ask(path, Authorization=basic("alice", "Wonderland"))[0].status == 401
        assert one.ask(path, Authorization=basic("bob", "wonderland"))[0].status == 401
        assert one.ask(path, Authorization=basic("alice", "wonderland"))[0].status in {200, 404}


def test_a_renewed_certificate_is_used_and_a_bad_one_is_not(
    public: Path, authority: Authority, server: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    def shown() -> str:
        return ssl.get_server_certificate(("127.0.0.1", one.port))

    with web(install(public, server, authority)) as one:
        first = shown()
        (public / "server.crt").write_text("no certificate")
        time.sleep(1.1)
        assert shown() == first
        renewed = authority.sign("renewed", "IP:127.0.0.1")
        shutil.copy(renewed.certificate, public / "server.crt")
        shutil.copy(renewed.key, public / "server.key")
        wait_for(lambda: shown() != first)
        assert one.ask(tls=trusting(authority))[0].status == 200
    said = capfd.readouterr().err
    assert "certificate and key are not a pair in PEM" in said
    assert f"web configuration reloaded path={public}/web.yaml" in said


def test_what_cannot_be_used_is_refused_and_what_was_in_force_stays(public: Path) -> None:
    bad = public / "bad.yaml"
    bad.write_text("tls_server_config: {cert_file: none.crt, key_file: none.key}")
    with (
        pytest.raises(ConfigError, match=r"bad\.yaml: tls_server_config\.cert_file: .*none\.crt cannot be read"),
        web(bad),
    ):
        pass
    with web() as one:
        port = one.port
        with pytest.raises(ConfigError):
            one.publisher.change(WebListener("127.0.0.1", 0, bad), lambda: False)
        with pytest.raises(SamepagedError, match=r"cannot listen on 192\.0\.2\.1:80"):
            one.publisher.change(WebListener("192.0.2.1", 80), lambda: False)
        # These import modules late, and the web process's user may not have permission to read them.
        with pytest.raises(ConfigError, match=r"/nö\\n\\x1b: cannot be read"):
            one.publisher.change(WebListener("127.0.0.1", 0, Path("/n\xf6\n\x1b")), lambda: False)
        with pytest.raises(SamepagedError, match=r"cannot listen on a\.\.b:80"):
            one.publisher.change(WebListener("a..b", 80), lambda: False)
        assert one.port == port
        assert one.ask()[0].status == 200


def test_an_open_address_is_allowed_and_warned_about_once(capfd: pytest.CaptureFixture[str]) -> None:
    with web() as one:
        port = one.port
        for number in (1, 2):
            one.publisher.change(WebListener("0.0.0.0", port), lambda: False)  # noqa: S104 - the point
            assert one.ask()[0].status == 200, number
    assert capfd.readouterr().err.count(f"on the network without encryption address=0.0.0.0:{port} ") == 1


class Service:
    """The web process as a separate service, and its log."""

    def __init__(self, feed: Path, log: Path, notify: Path | None = None) -> None:
        self.feed = feed
        self._log = log
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        if notify is not None:
            environment["NOTIFY_SOCKET"] = str(notify)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "samepaged.web", "--feed", str(feed)], stderr=output, env=environment
            )
        wait_for(self._listens, PATIENCE, lambda: self.log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log
        return f"{self.feed}\n" in Path("/proc/net/unix").read_text()


@contextlib.contextmanager
def service(directory: Path, notify: Path | None = None) -> Iterator[Service]:
    one = Service(directory / "feed", directory / "web.log", notify)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.terminate()
        one.process.wait(PATIENCE)


@contextlib.contextmanager
def scanner(feed: Path) -> Iterator[WebClient]:
    publisher = WebClient(SystemdService(feed), lambda: PAGES, WebListener("127.0.0.1", 0))
    try:
        publisher.start(lambda: False)
        yield publisher
    finally:
        publisher.stop()


def test_a_service_outlives_its_scanner_and_says_that_it_is_away(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        with scanner(one.feed) as publisher:
            port = publisher._settings.port
            assert ask(port)[1] == b"samepage_up 1\n"
        wait_for(lambda: ask(port)[0].status == 503)
        for path in ("/metrics", "/-/ready"):
            assert ask(port, path)[1] == b"samepaged's scanner is not connected\n"
        assert ask(port, "/-/healthy")[0].status == 200
        with scanner(one.feed) as publisher:
            assert ask(publisher._settings.port)[1] == b"samepage_up 1\n"


def test_one_scanner_is_enough(tmp_path: Path) -> None:
    with service(tmp_path) as one, scanner(one.feed) as publisher:
        with contextlib.closing(SystemdService(one.feed).open()) as second:
            second.settimeout(PATIENCE)
            assert second.recv(1) == b""
        assert "second scanner refused" in one.log
        assert ask(publisher._settings.port)[0].status == 200


def test_nobody_else_may_feed_it(public: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can play another user")
    with service(public) as one:
        assert one.feed.stat().st_mode & 0o777 == 0o660
        one.feed.chmod(0o666)
        connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(one.feed)!r}); print(s.recv(1))"
        other = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", "/usr/bin/env", "python3", "-c", connect]
        assert subprocess.check_output(other, text=True, timeout=PATIENCE) == "b''\n"
        assert "not the scanner's user uid=4242 allowed=samepaged" in one.log


def test_it_says_that_it_is_ready_and_takes_the_place_of_one_that_was_killed(tmp_path: Path) -> None:
    notify = Path(tempfile.mkdtemp(prefix="spn-")) / "notify"
    notify.parent.chmod(0o711)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        notify.chmod(0o777)
        manager.settimeout(PATIENCE)
        with service(tmp_path, notify) as one:
            assert manager.recv(100) == b"READY=1"
            one.process.kill()
            one.process.wait()
        with service(tmp_path, notify) as one:
            assert manager.recv(100) == b"READY=1"
            one.process.terminate()
            assert one.process.wait(PATIENCE) == 0
            assert manager.recv(100) == b"STOPPING=1"
    shutil.rmtree(notify.parent)


def test_a_second_service_does_not_take_the_first_one_s_place(tmp_path: Path) -> None:
    with service(tmp_path) as one:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "samepaged.web", "--feed", str(one.feed)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert re.fullmatch(r"samepaged-web: cannot listen on .*/feed: Address already in use; .*\n", done.stderr)
        with scanner(one.feed) as publisher:
            assert ask(publisher._settings.port)[0].status == 200


# With a scanner that scans.


def child_of(one: Daemon) -> int:
    """The running web process of a daemon."""
    return wait_for(lambda: children(one.process.pid, WEB))[0]


def scans(one: Daemon) -> int:
    return len(re.findall(r"scan finished guests=\d+", one.log))


def wait_scans(one: Daemon, more: int) -> None:
    """Without the metrics: there may be none now."""
    wanted = scans(one) + more
    wait_for(lambda: scans(one) >= wanted, PATIENCE, lambda: one.log)


def test_a_web_process_that_is_killed_is_back_while_the_scans_go_on(samepaged: Samepaged, pair: list[Writer]) -> None:
    samepaged.configure(FAST)
    with daemon(samepaged) as one:

        def served() -> bool:
            with contextlib.suppress(OSError):
                return one.metric("samepage_libvirt_up") == 1
            return False

        one.wait_scans(1)
        killed = set()
        for _ in range(3):
            killed.add(child_of(one))
            before = scans(one)
            os.kill(child_of(one), signal.SIGKILL)
            wait_for(lambda: child_of(one) not in killed)
            wait_for(served, PATIENCE, lambda: one.log)  # at the same address
            wait_scans(one, 1)
            assert scans(one) > before
        assert one.log.count("killed by SIGKILL") == 3
        assert one.log.count("serving metrics ") == 4


def test_a_web_process_that_is_stopped_delays_no_scan_and_shows_the_newest_when_it_goes_on(
    samepaged: Samepaged, pair: list[Writer]
) -> None:
    samepaged.configure(FAST)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        pid = child_of(one)
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            wait_scans(one, 4)
            assert time.monotonic() - began < 10
            assert one.process.poll() is None
        finally:
            os.kill(pid, signal.SIGCONT)
        done = scans(one)
        wait_for(lambda: (one.metric("samepage_scan_duration_seconds_count") or 0) >= done)
        assert child_of(one) == pid
        os.kill(pid, signal.SIGSTOP)
        assert one.stop() < 3  # stopped or not, it does not outlive the scanner
    assert not Path(f"/proc/{pid}").exists()


def test_the_snapshot_is_that_of_the_last_scan(samepaged: Samepaged, pair: list[Writer]) -> None:
    samepaged.configure(FAST)
    with daemon(samepaged) as one:
        one.wait_scans(1)
        port = int(one.address.rpartition(":")[2])
        answer, body = ask(port, "/api/v1/snapshot")
        assert answer.headers["Content-Type"] == "application/json"
        assert {domain["name"] for domain in json.loads(body)["domains"]} == {writer.name for writer in pair}
        assert ask(port, "/-/ready")[0].status == 200


def test_before_the_first_scan_it_is_healthy_and_not_ready(samepaged: Samepaged) -> None:
    samepaged.config.write_text(samepaged.config.read_text().replace(samepaged.uri, "qemu:///none?socket=/nowhere"))
    with daemon(samepaged) as one:
        port = int(one.address.rpartition(":")[2])
        assert [ask(port, path)[0].status for path in ("/-/healthy", "/-/ready", "/api/v1/snapshot")] == [200, 503, 503]


def configured(samepaged: Samepaged, listen: str, config: Path | None = None) -> None:
    samepaged.configure(FAST)
    more = "" if config is None else f", web_config_file: '{config}'"
    text = samepaged.config.read_text()
    samepaged.config.write_text(text.replace("listen: '127.0.0.1:0'", f"listen: '{listen}'{more}"))


def test_a_reload_moves_the_address_and_turns_tls_on_and_a_bad_one_does_neither(
    samepaged: Samepaged, public: Path, authority: Authority, server: Pair
) -> None:
    with daemon(samepaged) as one:
        first = int(one.address.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", 0)) as taken:
            configured(samepaged, f"127.0.0.1:{taken.getsockname()[1]}")
            one.process.send_signal(signal.SIGHUP)
            one.wait('configuration not reloaded error="cannot listen on ')
        assert ask(first)[0].status == 200
        config = install(public, server, authority)
        with socket.create_server(("127.0.0.1", 0)) as free:
            second = free.getsockname()[1]
        configured(samepaged, f"127.0.0.1:{second}", config)
        one.process.send_signal(signal.SIGHUP)
        one.wait(f"serving metrics url=https://127.0.0.1:{second}/metrics")
        assert ask(second, tls=trusting(authority))[0].status == 200
        with pytest.raises(OSError, match="refused"):
            ask(first)


def test_a_bad_web_configuration_ends_the_start_in_a_line(samepaged: Samepaged, public: Path) -> None:
    config = public / "web.yaml"
    config.write_text("tls_server_config: {}\n")
    configured(samepaged, "127.0.0.1:0", config)
    done = samepaged("run", "--config", str(samepaged.config), expect=2)
    assert f"samepaged: {config}: tls_server_config: cert_file is missing; set it," in done.stderr
    assert "Traceback" not in done.stderr


def test_a_real_prometheus_scrapes_over_tls_with_a_password(
    samepaged: Samepaged, pair: list[Writer], public: Path, authority: Authority, server: Pair
) -> None:
    config = install(
        public, server, authority, client_auth_type="RequireAndVerifyClientCert", client_ca_file="clients.crt"
    )
    settings = json.loads(config.read_text()) | {"basic_auth_users": {"prometheus": hashed("scrape")}}
    config.write_text(json.dumps(settings))
    configured(samepaged, "127.0.0.1:0", config)
    own = authority.sign("prometheus", "DNS:prometheus.example")
    job = (
        "  scheme: https\n"
        "  basic_auth: {username: prometheus, password: scrape}\n"
        f"  tls_config: {{ca_file: {authority.certificate}, cert_file: {own.certificate}, key_file: {own.key}}}\n"
    )
    with daemon(samepaged) as one:
        target = one.wait(r"https://(127\.0\.0\.1:\d+)/metrics")[1]
        with prometheus(public / "prometheus", target, job) as monitor:
            monitor.wait_for('up{job="samepaged"} == 1')
            assert monitor.wait_for("count(samepage_domain_self_sharing_bytes) == 2")


class Fed(Samepaged):
    """`samepaged run` with a web process that is a service."""

    feed: Path

    def command(self, *words: str) -> list[str]:
        more = ["--web-socket", str(self.feed)] if words[0] == "run" else []
        return [*super().command(*words), *more]


def test_a_daemon_finds_the_web_service_whenever_that_comes(samepaged: Samepaged, tmp_path: Path) -> None:
    fed = Fed(samepaged.uri, tmp_path)
    fed.feed = tmp_path / "feed"
    fed.configure(FAST)
    with daemon(fed) as one:
        one.wait(f'cannot connect to the web process, retrying error="{fed.feed}: No such file or directory"')
        wait_scans(one, 2)
        with service(tmp_path):
            one.wait_scans(1)
            port = int(one.address.rpartition(":")[2])
        one.wait("web process disconnected, retrying")
        wait_scans(one, 2)
        with service(tmp_path):
            wait_for(lambda: one.log.count("serving metrics ") == 2, PATIENCE, lambda: one.log)
            assert int(re.findall(r"serving metrics url=http://127\.0\.0\.1:(\d+)", one.log)[-1]) == port
            assert ask(port)[0].status == 200
            one.stop()
            wait_for(lambda: ask(port)[0].status == 503)
