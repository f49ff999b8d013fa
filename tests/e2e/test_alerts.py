"""From a guest to the alert at Alertmanager, and from KSM to the ratio of captured sharing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.conftest import COMPRESSED, Watch
from tests.support.daemon import daemon
from tests.support.guests import Spec, held, running
from tests.support.ksm import KSM, ksm_runs_to_completion, mergeable_by_others

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.command import Samepaged

TOOLS: Final = Path(__file__).parents[2] / "tools"
# Whole at once, however busy the machine is: in slices, a scan of these guests may take half a minute.
FAST: Final = "scan: {interval: 1s, jitter: 0, max_drift: 1, mode: snapshot, max_pause: 5s}"
# MiB and pages filled by the test: above the alert's minimum.
REGION: Final = 128
PAGES: Final = REGION * 256
DAY: Final = COMPRESSED["1d"]


def test_rules_pass_promtool() -> None:
    assert shutil.which("promtool"), "promtool is not installed; run `make deps`"

    subprocess.run([TOOLS / "check-rules"], check=True, timeout=240)


def test_lost_sharing_fires_an_alert(
    samepaged: Samepaged, connection: Any, root: Path, watch: Callable[[str], Watch]
) -> None:
    specs = (Spec(f"samepaged-test-{name}", memory=224, cmdline=f"region={REGION}") for name in ("losing", "keeping"))
    samepaged.configure(FAST)
    with running(connection, root, *specs) as (losing, keeping), daemon(samepaged) as one:
        for writer in (losing, keeping):
            writer.fill(0, PAGES, 1, 10)
        watching = watch(one.address)
        metrics, alerts = watching.prometheus, watching.alertmanager
        metrics.wait_for(f'domain:samepage_self_sharing_bytes:avg1h{{domain="{losing.name}"}} offset {DAY}', timeout=90)
        assert alerts.alerts("SamepageSharingDropped") == []

        losing.fill(0, PAGES, 2, PAGES)
        (alert,) = alerts.wait_for("SamepageSharingDropped", firing=True)
        assert (
            alert["labels"] | {"domain": losing.name, "severity": "warning", "instance": one.address} == alert["labels"]
        )
        assert f"Guest {losing.name} has lost 12" in alert["annotations"]["summary"]  # 128 MiB minus the rest

        losing.fill(0, PAGES, 1, 10)
        alerts.wait_for("SamepageSharingDropped", firing=False)
        # It ended since the sharing is back, not since the loss is forgotten.
        own = f'samepage_domain_self_sharing_bytes{{domain="{losing.name}"}}'
        assert metrics.query(f"{own} > 2 * min_over_time({own}[{DAY}])")


def test_stopped_samepaged_fires_an_alert(samepaged: Samepaged, watch: Callable[[str], Watch]) -> None:
    samepaged.configure(FAST)
    with daemon(samepaged) as one:
        watching = watch(one.address)
        watching.prometheus.wait_for('up{job="samepaged"} == 1')
        address = one.address
        assert watching.alertmanager.alerts("SamepagedDown") == []
        one.stop()

        (alert,) = watching.alertmanager.wait_for("SamepagedDown", firing=True)

    assert alert["labels"]["instance"] == address
    assert alert["annotations"]["summary"] == f"samepaged on {address} is down"


@pytest.mark.skipif(not KSM.exists(), reason="this kernel has no KSM")
def test_ksm_captures_idle_guests(
    samepaged: Samepaged, connection: Any, root: Path, watch: Callable[[str], Watch]
) -> None:
    specs = [Spec(f"samepaged-test-merged-{name}", cmdline="region=16") for name in "ab"]
    others = sorted(mergeable_by_others())
    if others:
        pytest.skip(f"KSM is not this test's alone: processes {others} offer memory to it, too")
    host = 'samepage_ksm_capture_ratio{domain=""}'
    samepaged.configure(FAST)
    with running(connection, root, *specs) as (a, b):
        a.fill(0, 2000, 21, 100)
        b.fill(0, 1500, 21, 150)
        with held(a, b), daemon(samepaged) as one:
            metrics = watch(one.address).prometheus
            metrics.wait_for(f"{host} < 0.01")
            assert metrics.query("samepage_ksm_running == 0")
            with ksm_runs_to_completion():
                # Guests are scanned all the while: reading memory must not undo its merging.
                metrics.wait_for(f"{host} > 0.95", timeout=60)
                (captured,) = metrics.query(host)
                guests = metrics.query('samepage_ksm_capture_ratio{domain!=""}')
                assert metrics.query("samepage_ksm_running == 1")
                assert metrics.query("samepage_ksm_profit_bytes > 0")
                assert metrics.query(f"resets({host}[1m]) == 0"), "it has fallen in between"
    # KSM sees QEMU's own ROM blocks, too
    assert float(captured["value"][1]) < 1.05
    assert {one["metric"]["domain"] for one in guests} == {spec.name for spec in specs}
    assert all(float(one["value"][1]) > 0.95 for one in guests)
