"""The trials of alerts: each alert has a fault that must raise it, by rules that differ from those of production only in time."""

import re
from pathlib import Path

from tests.faults.alerts import FAULTS
from tests.faults.prometheus import FASTER, RULES, alerts_of, faster
from tests.unit.alerts.promtool import run


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
