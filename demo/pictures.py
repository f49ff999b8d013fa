"""`python -m demo.pictures [DIRECTORY]`, run by `make pictures`: the pictures of the documentation, from a real daemon.

Three guests run for some minutes, at first with KSM off and then with KSM on. A Prometheus scrapes the daemon. Headless
Chromium draws the status page, the output of `samepaged advise`, and Grafana's panels with the data of that Prometheus.
"""

from __future__ import annotations

import contextlib
import html
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import libvirt

from demo.__main__ import SAMEPAGED, daemon, first_scan, free_port, refused, wait_while_alive, write_config
from demo.guests import PREFIX, Machines, booted
from demo.host import boots_with_kvm, hypervisor
from demo.progress import say
from demo.stop import Stop
from tests.support.browser import browser
from tests.support.prometheus import prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.browser import Tab

TREE: Final = Path(__file__).parents[1]
IMAGES: Final = TREE / "docs" / "images"
RENDER: Final = TREE / "observability" / "grafana" / "render"
DASHBOARD: Final = TREE / "observability" / "grafana" / "dashboards" / "samepaged-host.json"
KSM: Final = Path("/sys/kernel/mm/ksm")
KSM_SETTINGS: Final = {"pages_to_scan": "2000", "run": "1"}
# The panels draw half an hour at most; sharing changes when KSM starts and when a guest replaces its site.
KSM_OFF_SECONDS: Final = 60.0
KSM_ON_SECONDS: Final = 150.0
ROWS: Final = ("Now", "Memory and sharing", "KSM and its potential", "Page attribution")
TERMINAL: Final = """\
<!doctype html><meta charset="utf-8"><title>terminal</title>
<body style="margin:0;background:#1d1f21;color:#e8e8e8"><pre style="display:inline-block;margin:0;padding:18px 22px;
font:15px/1.35 'DejaVu Sans Mono',monospace">{text}</pre>
"""


@contextlib.contextmanager
def ksm_settings_kept() -> Iterator[None]:
    """Restore the kernel's KSM settings on leaving."""
    before = {name: (KSM / name).read_text() for name in KSM_SETTINGS}
    try:
        yield
    finally:
        for name, value in before.items():
            (KSM / name).write_text(value)


def start_ksm() -> None:
    """Apply `KSM_SETTINGS`."""
    for name, value in KSM_SETTINGS.items():
        (KSM / name).write_text(value)


def terminal_page(command: list[str], shown: str, directory: Path) -> str:
    """The address of a page that shows the command and its output as a terminal does."""
    done = subprocess.run([*SAMEPAGED, *command], check=True, capture_output=True, text=True)
    page = directory / "terminal.html"
    page.write_text(TERMINAL.format(text=html.escape(f"$ {shown}\n{done.stdout}")))
    return page.as_uri()


def draw_panels(picture: Path, server: str, instance: str) -> None:
    """Write Grafana's panels of `ROWS` of the host dashboard as a picture."""
    command = ["node", "render.mjs", str(DASHBOARD), str(picture), "--prometheus", server, "--instance", instance]
    subprocess.run([*command, "--minutes", "4", "--rows", ",".join(ROWS)], cwd=RENDER, check=True)


def draw(directory: Path, images: Path, stop: Stop) -> None:
    """Run guests, daemon and Prometheus below `directory`, and write the pictures into `images`."""
    with contextlib.ExitStack() as stack:
        machines = Machines(directory)
        uri = stack.enter_context(hypervisor(directory / "libvirt", stop))
        connection = stack.enter_context(contextlib.closing(libvirt.open(uri)))
        kvm = boots_with_kvm(connection, machines.kernel, machines.web, stop)
        say("booting three guests")
        stack.enter_context(booted(connection, machines, "kvm" if kvm else "qemu", stop))
        port = free_port()
        config, log = write_config(directory, uri, port), directory / "samepaged.log"
        content = json.loads(config.read_text())
        content["groups"] = [{"name": "shop", "match": [f"{PREFIX}*"]}]
        content["sources"] = {"enabled": True, "names": True, "every": 1}
        config.write_text(json.dumps(content))
        process = stack.enter_context(daemon(config, log))
        instance = f"127.0.0.1:{port}"
        first_scan(process, f"http://{instance}/metrics", log, stop)
        server = stack.enter_context(prometheus(directory / "prometheus", instance))
        stack.enter_context(ksm_settings_kept())
        (KSM / "run").write_text("2")  # merged pages of earlier runs are separated
        (KSM / "run").write_text("0")
        say(f"KSM off for {KSM_OFF_SECONDS:.0f} s")
        wait_while_alive(process, KSM_OFF_SECONDS, log, stop)
        tab: Tab = stack.enter_context(browser()).tab()

        def take(name: str, url: str, width: int) -> None:
            tab.show(url, width=width, height=100)  # the picture is as high as the page, and at least as the window
            (images / f"{name}.png").write_bytes(tab.picture())
            say(f"{images / name}.png")

        shown = "samepaged advise"
        take("advise", terminal_page(["advise", "--config", str(config)], shown, directory), 780)
        start_ksm()
        say(f"KSM on for {KSM_ON_SECONDS:.0f} s")
        wait_while_alive(process, KSM_ON_SECONDS, log, stop)
        take("page-small", f"http://{instance}/", 1200)
        take("page-phone", f"http://{instance}/", 400)
        draw_panels(images / "grafana-host.png", server.url, instance)


def main() -> int:
    """The exit status: 0 all pictures are written, 2 refused."""
    if why := refused():
        say(f"pictures: {why}")
        return 2
    if shutil.which("node") is None or not (RENDER / "node_modules").is_dir():
        say(f"pictures: Grafana's panels are not installed; run npm install in {RENDER}")
        return 2
    images = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory(prefix="samepaged-demo-", dir="/var/tmp") as path:
        draw(Path(path), images.resolve(), Stop())
    return 0


if __name__ == "__main__":
    sys.exit(main())
