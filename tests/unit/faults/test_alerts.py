"""The trials of alerts: each alert has a fault that must raise it, by rules that differ from those of production only in time."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, cast

from tests.faults.alerts import FAULTS
from tests.faults.prometheus import FASTER, RULES, Alerts, alerts_of, faster
from tests.support.waiting import until
from tests.unit.alerts.promtool import run

if TYPE_CHECKING:
    from tests.faults.testbed import Testbed


def test_every_alert_has_a_fault_that_raises_it() -> None:
    raised = [alert for fault in FAULTS for alert in fault.alerts]
    assert sorted(raised) == sorted(alerts_of(RULES.read_text())), "name the fault in tests/faults/alerts.py"


def test_an_hour_is_a_minute() -> None:
    rules = (
        '  - alert: A\n    expr: max(remit_cases_oldest_seconds{state=~"x"}) > 3600\n    for: 1h\n'
        "  - alert: B\n    expr: sum(increase(remit_x_total[15m])) > 0\n    for: 2m\n"
    )
    fast = faster(rules)
    assert re.findall(r"for: (\S+)|> (\d+)$|\[(\S+)\]", fast, re.MULTILINE) == [
        ("", "60", ""), ("60000ms", "", ""), ("", "", "15s"), ("", "0", ""), ("2000ms", "", ""),
    ]  # fmt: skip
    assert FASTER == 60


def test_prometheus_takes_the_faster_rules_and_nothing_but_time_differs(tmp_path: Path) -> None:
    rules, fast = RULES.read_text(), faster(RULES.read_text())
    file = tmp_path / "rules.yml"
    file.write_text(fast)
    assert "SUCCESS" in run("check", "rules", str(file))
    without_numbers = re.compile(r"\d+(\.\d+)?(ms|[smh])?")
    assert without_numbers.sub("N", fast) == without_numbers.sub("N", rules.rstrip("\n"))
    assert len(re.findall(r"for: \d", fast)) == len(re.findall(r"for: \d", rules)) > 15


PENDING = [{"labels": {"alertname": "DeadLetters"}, "state": "pending"}]


class WaitingTestbed:
    """A testbed that can wait, and nothing else."""

    async def until(self, condition: Any, *, what: str, within_s: float) -> None:
        await until(condition, what=what, within_s=within_s)


@contextmanager
def prometheus_that_says(*answers: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Its port, and the answers that it has not given yet. The last one stays."""
    left = list(answers)

    class AlertsTold(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"alerts": told}}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), AlertsTold) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port, left
        finally:
            server.shutdown()
            serving.join()


async def test_an_alert_that_is_about_to_fire_is_not_silent() -> None:
    """It fired for what another trial had left, and then did not end with the fault."""
    with prometheus_that_says([], *[PENDING] * 50, []) as (port, left):
        alerts = Alerts(cast("Testbed", WaitingTestbed()), port)
        await alerts.until_silent(["DeadLetters"], within_s=30, for_s=0.1)
        assert left == [[]]
