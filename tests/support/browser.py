"""Headless Chromium, controlled with the DevTools protocol over a pipe: without a port or another program."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Browser", "Tab", "browser", "program"]

TIMEOUT_SECONDS: Final = 60.0
BECOME: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class Tab:
    """One tab. `events` holds the events that it sent, oldest first."""

    def __init__(self, of: Browser, session: str) -> None:
        self._browser = of
        self._session = session
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self._browser.ask(method, self._session, **parameters)

    def show(self, url: str, *, width: int, height: int = 900, scheme: str = "light", script: bool = False) -> None:
        """Load `url` in a window of this size, with this preferred colour scheme."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.ask("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def wait(self, method: str) -> dict[str, Any]:
        """Wait for the first event of this name since the page was requested, and return its parameters."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not (found := self.told(method)):
            self._browser.hear(deadline)
        return found[0]

    def told(self, *methods: str) -> list[dict[str, Any]]:
        """Return the parameters of the events of these names so far."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression of the test. The page's own scripts stay disabled."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """Return an image of the whole page, as PNG."""
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        return base64.b64decode(data)

    def accessible(self) -> list[tuple[str, str]]:
        """Return the role and name of each accessibility node that is not ignored."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]


class Browser:
    """A running Chromium. It is controlled through the descriptors `reading` and `writing`."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._number = 0
        self._heard = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._tabs: dict[str, Tab] = {}

    def tab(self) -> Tab:
        """Open a tab that sends the events of its network, its console and its page."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Network", "Runtime", "Log", "Accessibility"):
            tab.ask(f"{domain}.enable")
        return tab

    def ask(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._number not in self._answers:
            self.hear(deadline)
        answer = self._answers.pop(self._number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def hear(self, deadline: float) -> None:
        """Receive the next messages of Chromium."""
        ready, _, _ = select.select([self._reading], [], [], max(deadline - time.monotonic(), 0))
        assert ready, "Chromium does not answer"
        data = os.read(self._reading, 1 << 20)
        assert data, "Chromium is gone"
        *messages, self._heard = (self._heard + data).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.events.append(message)


def program() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Run a Chromium with a temporary profile, which can connect to this machine only."""
    chromium = program()
    assert chromium is not None, "no chromium; `make deps` installs it"
    with contextlib.ExitStack() as stack:
        profile = stack.enter_context(tempfile.TemporaryDirectory(prefix="spb-", ignore_cleanup_errors=True))
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        for one in (our_in, our_out):
            stack.callback(os.close, one)
        # Chromium expects descriptors 3 and 4. Above 9, dup2 to these numbers cannot overwrite the other descriptor.
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (their_in, their_out)]
        command = [sys.executable, "-c", BECOME, *map(str, theirs), chromium, *ARGUMENTS]
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=theirs,
            env=os.environ | {"HOME": profile},
            stderr=subprocess.DEVNULL,
        )
        for one in (their_in, their_out, *theirs):
            os.close(one)
        running = Browser(our_in, our_out)
        try:
            yield running
            running.ask("Browser.close")
            process.wait(TIMEOUT_SECONDS)
        finally:
            process.kill()
            process.wait()
