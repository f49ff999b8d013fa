from __future__ import annotations

import logging
import queue
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from samepaged.errors import ConfigError, SamepagedError
from samepaged.web import client as publishing
from samepaged.web.client import BEAT_SECONDS, MIN_RENDER_SECONDS, REFRESH_SECONDS, FeedSchedule, WebClient, WebListener
from samepaged.web.protocol import Answer, Document, Documents, FrameReader, Message, Report, Settings, encode
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = WebListener("127.0.0.1", 0, Path("/etc/web.yaml"))


def never() -> bool:
    return False


@dataclass
class Web:
    """The web process's end of a feed, simulated by the test."""

    connection: socket.socket
    reader: FrameReader = field(default_factory=FrameReader)
    heard: list[Message] = field(default_factory=list)

    def hear(self) -> Message:
        while not self.heard:
            data = self.connection.recv(1 << 16)
            assert data, "the feed was closed"
            self.heard += self.reader.feed(data)
        return self.heard.pop(0)

    def documents(self) -> dict[str, bytes]:
        message = self.hear()
        assert isinstance(message, Documents), message
        return {one.path: one.body for one in message.documents}

    def settings(self) -> Settings:
        while not isinstance(message := self.hear(), Settings):
            pass
        return message

    def say(self, message: Message) -> None:
        self.connection.sendall(b"".join(encode(message)))

    def accept(self, port: int = 9953) -> Settings:
        settings = self.settings()
        self.say(Answer(settings.number, settings.host, port))
        return settings


class Webs:
    """Simulated web processes, one after another; with `away`, connections fail."""

    def __init__(self) -> None:
        self.away = False
        self.opened: queue.Queue[Web] = queue.Queue()
        self.all: list[Web] = []
        self.closed = 0

    def open(self) -> socket.socket:
        if self.away:
            raise OSError(11, "Resource temporarily unavailable")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(30)
        self.all.append(Web(theirs))
        self.opened.put(self.all[-1])
        return ours

    def close(self, feed: socket.socket) -> str:
        feed.close()
        self.closed += 1
        return "killed by SIGKILL"

    def next(self) -> Web:
        return self.opened.get(timeout=30)


@dataclass
class Pages:
    """The rendered documents, and the number of renderings."""

    body: bytes = b"1\n"
    renderings: int = 0

    def __call__(self) -> list[Document]:
        self.renderings += 1
        return [Document("/", "text/html", b"index"), Document("/metrics", "text/plain", self.body)]


@dataclass
class Scene:
    webs: Webs
    pages: Pages
    publisher: WebClient

    def started(self) -> Web:
        """Return the web process of a started client."""
        thread = threading.Thread(target=self.publisher.start, args=(never,))
        thread.start()
        web = self.webs.next()
        web.accept()
        thread.join(30)
        assert not thread.is_alive()
        return web

    def change(self, wanted: WebListener) -> queue.Queue[SamepagedError | None]:
        """Change the settings in another thread, and return the result."""
        outcome: queue.Queue[SamepagedError | None] = queue.Queue()

        def run() -> None:
            try:
                self.publisher.change(wanted, never)
            except SamepagedError as error:
                outcome.put(error)
            else:
                outcome.put(None)

        threading.Thread(target=run).start()
        return outcome


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(publishing, "MIN_RENDER_SECONDS", 0.0)
    monkeypatch.setattr(publishing, "MAX_WAIT_SECONDS", 0.01)
    webs, pages = Webs(), Pages()
    publisher = WebClient(webs, pages, WANTED)
    publisher._backoff.first = 0.01
    yield Scene(webs, pages, publisher)
    publisher.stop()
    for web in webs.all:
        web.connection.close()


def test_documents_precede_listening(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    thread = threading.Thread(target=scene.publisher.start, args=(never,))
    with caplog.at_level(logging.INFO):
        thread.start()
        web = scene.webs.next()
        assert web.documents() == {"/": b"index", "/metrics": b"1\n"}
        settings = web.settings()
        assert (settings.host, settings.port, settings.web_config_file) == ("127.0.0.1", 0, "/etc/web.yaml")
        assert thread.is_alive()
        web.say(Answer(settings.number, "127.0.0.1", 40_000, tls=True))
        thread.join(30)
    assert caplog.messages == ["serving metrics url=https://127.0.0.1:40000/metrics"]


def test_ipv6_address_has_url_form(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    thread = threading.Thread(target=scene.publisher.start, args=(never,))
    with caplog.at_level(logging.INFO):
        thread.start()
        web = scene.webs.next()
        web.say(Answer(web.settings().number, "::1", 9953))
        thread.join(30)
    assert caplog.messages == ['serving metrics url="http://[::1]:9953/metrics"']


@pytest.mark.parametrize("misconfigured", [False, True])
def test_start_refusal_is_one_line(
    scene: Scene,
    misconfigured: bool,  # noqa: FBT001 - pytest
) -> None:
    def refuse() -> None:
        web = scene.webs.next()
        error = "cannot listen\n\x1b[2Jsamepaged: all is well"
        web.say(Answer(web.settings().number, error=error, misconfigured=misconfigured))

    threading.Thread(target=refuse).start()
    with pytest.raises(SamepagedError) as raised:
        scene.publisher.start(never)
    assert isinstance(raised.value, ConfigError) is misconfigured
    assert raised.value.exit_status == (2 if misconfigured else 1)
    assert str(raised.value).isprintable()


def test_missing_web_process_is_retried(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.webs.away = True
    scene.publisher.start(never)
    assert 'cannot connect to the web process, retrying error="Resource temporarily unavailable"' in caplog.text
    scene.webs.away = False
    web = scene.webs.next()
    assert web.documents()
    web.accept()


def test_unchanged_documents_are_not_resent(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    web = scene.started()
    scene.pages.body = b"2\n"
    scene.publisher.changed()
    assert web.documents() == {"/metrics": b"2\n"}
    monkeypatch.setattr(publishing, "BEAT_SECONDS", 0.01)
    scene.publisher.changed()
    assert web.documents() == {}
    assert web.documents() == {}


def test_idle_feed_sends_keep_alives(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "REFRESH_SECONDS", 3600.0)
    web = scene.started()
    for _ in range(20):
        assert web.documents() == {}
    assert scene.pages.renderings == 1
    scene.publisher.changed()
    while scene.pages.renderings < 2:
        assert web.documents() == {}


def test_feed_schedule_due_times() -> None:
    schedule = FeedSchedule()
    assert schedule.render_due(changed=False) < 0
    schedule.rendered = schedule.sent = 100.0
    assert schedule.render_due(changed=True) == 100 + MIN_RENDER_SECONDS
    assert schedule.render_due(changed=False) == 100 + REFRESH_SECONDS
    assert schedule.keep_alive_due() == 100 + BEAT_SECONDS


def test_stalled_reader_costs_one_frame(scene: Scene) -> None:
    web = scene.started()
    scene.pages.body = bytes(8 << 20)
    scene.publisher.changed()
    wait_for(lambda: scene.pages.renderings >= 2)
    rendered = scene.pages.renderings
    for number in range(200):
        scene.pages.body = b"%d\n" % number
        scene.publisher.changed()
    time.sleep(0.1)
    assert scene.pages.renderings == rendered
    # after the stall, it receives the rest of the interrupted frame, and then the newest documents
    assert len(web.documents()["/metrics"]) == 8 << 20
    assert web.documents() == {"/metrics": b"199\n"}


def test_stalled_web_process_is_dropped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.started()
    monkeypatch.setattr(publishing, "STALLED_SECONDS", 0.05)
    monkeypatch.setattr(publishing, "BEAT_SECONDS", 0.1)
    scene.pages.body = bytes(8 << 20)
    scene.publisher.changed()
    another = scene.webs.next()
    assert len(another.documents()["/metrics"]) == 8 << 20
    assert scene.webs.closed == 1


def test_restarted_web_process_keeps_port(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    web = scene.started()
    web.connection.close()
    another = scene.webs.next()
    assert another.documents() == {"/": b"index", "/metrics": b"1\n"}
    assert another.accept().port == 9953
    assert 'web process disconnected, retrying error="killed by SIGKILL"' in caplog.text


@pytest.mark.parametrize("said", [Settings(1, "a", 1), b"\xff" * 8])
def test_protocol_violation_drops_web_process(scene: Scene, said: Settings | bytes) -> None:
    web = scene.started()
    web.connection.sendall(said if isinstance(said, bytes) else b"".join(encode(said)))
    another = scene.webs.next()
    assert another.documents()


def test_other_settings_are_taken_over(scene: Scene) -> None:
    web = scene.started()
    outcome = scene.change(WebListener("0.0.0.0", 80))  # noqa: S104 - never bound
    settings = web.accept(80)
    assert (settings.host, settings.port, settings.web_config_file) == ("0.0.0.0", 80, None)  # noqa: S104
    assert outcome.get(timeout=30) is None


def test_refused_settings_change_nothing(scene: Scene) -> None:
    web = scene.started()
    outcome = scene.change(WebListener("10.9.9.9", 80))
    refused = web.settings()
    web.say(Answer(refused.number, error="cannot listen on 10.9.9.9:80"))
    error = outcome.get(timeout=30)
    assert error is not None
    assert str(error) == "cannot listen on 10.9.9.9:80"
    # The client may repeat the refused settings before it restores the previous ones.
    while (again := web.settings()).number == refused.number:
        pass
    assert again.number > refused.number
    assert (again.host, again.port, again.web_config_file) == ("127.0.0.1", 9953, "/etc/web.yaml")


def test_unanswered_settings_change_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    web = scene.started()
    monkeypatch.setattr(publishing, "ANSWER_SECONDS", 0.05)
    with pytest.raises(SamepagedError, match="does not respond"):
        scene.publisher.change(WebListener("10.9.9.9", 80), never)
    assert [web.settings().host, web.settings().host] == ["10.9.9.9", "127.0.0.1"]


def test_settings_wait_for_web_process(scene: Scene) -> None:
    scene.webs.away = True
    scene.publisher.start(never)
    scene.publisher.change(WebListener("::1", 80), never)
    scene.webs.away = False
    web = scene.webs.next()
    assert web.settings().host == "::1"


def test_late_refusal_is_retried(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.started().connection.close()
    web = scene.webs.next()
    for _ in range(3):
        web.say(Answer(web.settings().number, error="the port is taken"))
    web.accept()
    assert [record.message for record in caplog.records].count('cannot serve metrics error="the port is taken"') == 1


def test_web_configuration_error_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    web = scene.started()
    web.say(Report("/etc/web.yaml: is not\nYAML"))
    wait_for(lambda: r'keeps its previous configuration error="/etc/web.yaml: is not\nYAML"' in caplog.text)


def test_stop_is_safe_any_time(scene: Scene) -> None:
    WebClient(Webs(), Pages(), WANTED).stop()
    scene.started().connection.close()
    scene.publisher.stop()
    scene.publisher.stop()
    scene.publisher.changed()


def test_stop_ends_wait_for_answer(scene: Scene) -> None:
    scene.publisher.start(lambda: True)
    web = scene.webs.next()
    scene.publisher.stop()
    while web.connection.recv(1 << 16):
        pass
