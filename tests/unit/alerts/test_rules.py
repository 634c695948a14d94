"""Every alert fires when it should, ends when its cause ends, has a section in the runbook, and names metrics that exist."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from shared.messaging.topology import WORK_QUEUES
from tests.support.environment import ROOT
from tests.support.programs import INSTALLED_WITHIN_S
from tests.unit.alerts.known_metrics import metrics_in, unknown_metrics
from tests.unit.alerts.promtool import check_rules, run
from tests.unit.books.documents import anchors

RULES: Final = ROOT / "deploy/prometheus/rules.yml"
CONFIG: Final = ROOT / "deploy/prometheus/prometheus.yml"
RUNBOOK: Final = ROOT / "deploy/RUNBOOK.md"
ALERTS: Final = re.findall(r"^      - alert: (\w+)$", RULES.read_text(), re.MULTILINE)

pytestmark = pytest.mark.timeout(INSTALLED_WITHIN_S)
HOUR: Final = 60
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AlertTrial:
    """The series of one test, by the minute, and what they make of an alert: it fires at `fires` and is silent before and after.

    `quiet` are minutes at which it does not fire, the last one after its cause has ended.
    """

    series: Mapping[str, str]
    fires: int
    labels: Labels
    summary: str
    quiet: tuple[int, ...]


def _of(job: str, name: str, **labels: str) -> str:
    shown = {"job": job, "instance": "10.0.0.1:8080"} | labels
    return name + "{" + ",".join(f'{label}="{value}"' for label, value in shown.items()) + "}"


def _age(name: str, job: str, **labels: str) -> dict[str, str]:
    """An age that grows by a minute each minute for two hours on two instances, and is then 0 for an hour."""
    grows = f"0+60x{2 * HOUR} 0x{HOUR}"
    return {_of(job, name, **labels): grows, _of(job, name, **labels | {"instance": "10.0.0.2:8080"}): grows}


def _there(name: str, job: str, value: int = 3, **labels: str) -> dict[str, str]:
    """A number that is 0 for ten minutes, `value` for twenty, and 0 again; two instances show it."""
    values = f"0x9 {value}x19 0x{HOUR}"
    return {_of(job, name, **labels): values, _of(job, name, **labels | {"instance": "10.0.0.2:8080"}): values}


def _rise(name: str, job: str, **labels: str) -> dict[str, str]:
    """A counter that rises by 2 after ten minutes."""
    return {_of(job, name, **labels): f"5x9 7x{HOUR}"}


def _queue(name: str, messages: str, consumers: int = 2) -> dict[str, str]:
    return {
        _of("rabbitmq_queues", "rabbitmq_detailed_queue_messages", queue=name): messages,
        _of("rabbitmq_queues", "rabbitmq_detailed_queue_consumers", queue=name): f"{consumers}x200",
    }


TRIALS: Final[Mapping[str, AlertTrial]] = {
    "MoneyInDoubtTooLong": AlertTrial(
        _age("remit_money_in_doubt_oldest_seconds", "payment_gateway", state="in_doubt", currency="EUR")
        | _age("remit_money_in_doubt_oldest_seconds", "payment_gateway", state="needs_decision", currency="USD"),
        40,
        {"severity": "page", "state": "in_doubt", "currency": "EUR"},
        "Nobody has known for 40m 0s what became of money in EUR (in_doubt).",
        (29, 31, 2 * HOUR + 2),
    ),
    "MoneyInDoubtTooMuch": AlertTrial(
        {
            _of("payment_gateway", "remit_money_in_doubt", state="in_doubt", currency="EUR"): "0x9 9000x40 0x60",
            _of("payment_gateway", "remit_money_in_doubt", state="needs_decision", currency="EUR"): "0x20 3000x10 0x80",
            _of("payment_gateway", "remit_money_in_doubt", state="in_doubt", currency="JPY"): "900000x100",
            _of("payment_gateway", "remit_money_in_doubt", state="in_doubt", currency="CHF"): "9000x100",
        },
        25,
        {"severity": "page", "currency": "EUR"},
        "12k EUR are in doubt.",
        (15, 21, 35),
    ),
    "MoneyInDoubtUnknown": AlertTrial(
        {_of("payment_gateway", "remit_payments_in_doubt", state="in_doubt"): "0x9 stale _x19 0x60"},
        20,
        {"severity": "page"},
        "No instance of payment_gateway knows how much money is in doubt.",
        (5, 12, 40),
    ),
    "CasesWaiting": AlertTrial(
        _age("remit_cases_oldest_seconds", "staff", state="needs_decision", reason="disputed")
        | _age("remit_cases_oldest_seconds", "staff", state="in_doubt", reason="processing"),
        90,
        {"severity": "ticket", "state": "needs_decision", "reason": "disputed"},
        "A payment has waited for a person for 1h 30m 0s: needs_decision, disputed.",
        (HOUR, 2 * HOUR + 2),
    ),
    "LateCapture": AlertTrial(
        _rise("remit_late_captures_total", "payment_gateway"),
        12,
        {"severity": "ticket"},
        "A card was charged for a payment that had been told as failed. The money goes back by itself.",
        (9, 30),
    ),
    "Contradiction": AlertTrial(
        _rise("remit_contradictions_total", "payment_gateway"),
        12,
        {"severity": "ticket"},
        "The gateway says something else of a settled payment than we do.",
        (9, 30),
    ),
    "JournalBroken": AlertTrial(
        {_of("staff", "remit_journal_intact"): "1x9 0x19 1x60"},
        15,
        {"severity": "page"},
        "An entry of the journal that was there is gone or changed.",
        (9, 30),
    ),
    "GatewayRefusesAccess": AlertTrial(
        {_of("payment_gateway", "remit_ready", component="gateway access"): "1x9 0x19 1x60"},
        15,
        {"severity": "page"},
        "The gateway refuses our key, a permission of it, its mode or the URL. No payment is claimed.",
        (9, 10, 30),
    ),
    "GatewaySilent": AlertTrial(
        {_of("payment_gateway", "remit_ready", component="gateway"): "1x9 0x19 1x60"},
        20,
        {"severity": "page"},
        "Payments get no readable answer from the gateway.",
        (9, 12, 30),
    ),
    "GatewayLimits": AlertTrial(
        {_of("payment_gateway", "remit_gateway_pace"): "1x9 0.25x29 1x60"},
        30,
        {"severity": "ticket"},
        "The gateway answers 429: calls go at 25% of their pace.",
        (9, 20, 41),
    ),
    "PaymentsNotClaimed": AlertTrial(
        _there("remit_payments_due_oldest_seconds", "payment_gateway", 90),
        15,
        {"severity": "page"},
        "A payment has been due for 1m 30s, and no instance works on it.",
        (9, 11, 30),
    ),
    "WebhookForged": AlertTrial(
        _rise("remit_webhooks_total", "payment_gateway", outcome="forged"),
        12,
        {"severity": "ticket"},
        "Events arrived at the webhook whose signature is not Stripe's.",
        (9, 30),
    ),
    "SagasOverdue": AlertTrial(
        _age("remit_sagas_oldest_seconds", "saga", state="settling")
        | _age("remit_sagas_oldest_seconds", "saga", state="in_doubt"),
        30,
        {"severity": "page", "state": "settling"},
        "A payment has been settling for 30m 0s: messages are late or lost.",
        (15, 2 * HOUR + 2),
    ),
    "DeadLetters": AlertTrial(
        _there("remit_dead_letters_open", "staff", reason="not_json"),
        15,
        {"severity": "ticket", "reason": "not_json"},
        "3 messages could not be handled: not_json.",
        (9, 10, 30),
    ),
    "DeadLettersUnreadable": AlertTrial(
        _there("remit_dead_letters_unreadable", "staff"),
        15,
        {"severity": "ticket"},
        "3 messages ended the connection of the staff service whenever they were delivered.",
        (9, 30),
    ),
    "OutboxLag": AlertTrial(
        _there("remit_outbox_oldest_seconds", "saga", 70, lane="inside")
        | _there("remit_outbox_oldest_seconds", "saga", 70, lane="public"),
        15,
        {"severity": "page", "job": "saga", "lane": "inside"},
        "A message of saga (inside) has waited for 1m 10s to be published.",
        (9, 10, 30),
    ),
    "ListenerRefuses": AlertTrial(
        _age("remit_outbox_oldest_seconds", "invoice", lane="public"),
        60,
        {"severity": "ticket", "job": "invoice", "lane": "public"},
        "A queue of others has refused messages of invoice (public) for 1h 0m 0s.",
        (15, 20, 2 * HOUR + 2),
    ),
    "ListenerSlows": AlertTrial(
        _rise("remit_public_copies_slow_total", "invoice"),
        15,
        {"severity": "ticket", "job": "invoice"},
        "What somebody bound to the public events of invoice costs the broker too much: all listeners hear late.",
        (9, 40),
    ),
    "OutboxQuarantined": AlertTrial(
        _there("remit_outbox_quarantined", "invoice", 1, lane="inside"),
        15,
        {"severity": "page", "job": "invoice", "lane": "inside"},
        "1 messages of invoice end the broker's connection at each try, and are not tried any more.",
        (9, 30),
    ),
    "NobodyConsumes": AlertTrial(
        {
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_consumers", queue="saga.events"): "2x9 0x19 1x60",
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_consumers", queue="dead-letters.unreadable"): "0x100",
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_consumers", queue="shop.answers"): "0x100",
        },
        15,
        {"severity": "page", "queue": "saga.events"},
        "Nobody consumes the queue saga.events.",
        (9, 11, 30),
    ),
    "QueueGrows": AlertTrial(
        {
            _of(
                "rabbitmq_queues", "rabbitmq_detailed_queue_messages_ready", queue="invoice.commands"
            ): "0x9 20000x19 0x60",
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_messages_ready", queue="crm.events"): "90000x100",
        },
        20,
        {"severity": "page", "queue": "invoice.commands"},
        "20k messages wait in the queue invoice.commands.",
        (9, 12, 30),
    ),
    "QueueStuck": AlertTrial(
        {
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_messages", queue="invoice.commands"): "5x9 6x29 5x60",
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_messages_ready", queue="invoice.commands"): "3x100",
            _of("rabbitmq_queues", "rabbitmq_detailed_queue_messages_unacked", queue="invoice.commands"): "2x100",
        },
        25,
        {"severity": "ticket", "queue": "invoice.commands"},
        "1 messages in the queue invoice.commands are neither ready nor with a consumer.",
        (9, 15, 40),
    ),
    "QueueStandsStill": AlertTrial(
        {
            **_queue("invoice.commands", "0x9 5000x100 4000 0x60"),  # all ready
            **_queue("saga.events", " ".join(["3 1 7 5"] * 50)),  # steady traffic that never leaves it empty
            **_queue("invoice.settlement", "0+50x100 0x60", consumers=0),  # nobody consumes: another alert
            **_queue("crm.events", "9x200"),  # somebody else's
        },
        80,
        {"severity": "page", "queue": "invoice.commands"},
        "The queue invoice.commands is consumed, and has not become shorter for an hour: 5k messages or more.",
        (9, 60, 112),
    ),
    "BrokerAlarm": AlertTrial(
        {
            _of("rabbitmq", "rabbitmq_alarms_memory_used_watermark"): "0x100",
            _of("rabbitmq", "rabbitmq_alarms_free_disk_space_watermark"): "0x9 1x19 0x60",
        },
        15,
        {"severity": "page", "instance": "10.0.0.1:8080"},
        "The broker 10.0.0.1:8080 takes no messages: it is short of memory or disk.",
        (9, 30),
    ),
    "ServiceAway": AlertTrial(
        {_of(job, "up"): "1x100" for job in ("invoice", "payment_gateway", "saga")}
        | {_of("staff", "up"): "1x9 0x19 1x60"},
        15,
        {"severity": "page", "job": "staff"},
        "No instance of staff answers.",
        (9, 11, 30),
    ),
    "DeskAway": AlertTrial(
        {_of("desk", "up"): "1x9 0x19 1x60"},
        20,
        {"severity": "page", "job": "desk"},
        "The staff desk does not answer: staff see no alert's page.",
        (9, 14, 30),
    ),
    "DoorAway": AlertTrial(
        {_of("door", "up"): "1x9 0x19 1x60"},
        20,
        {"severity": "page", "job": "door"},
        "The door does not answer: senders cannot ask what became of their commands.",
        (9, 11, 30),
    ),
    "NotReady": AlertTrial(
        {
            _of("saga", "remit_ready", component="publisher"): "1x9 0x19 1x60",
            _of("saga", "remit_ready", component="publisher outside"): "0x100",
            _of("payment_gateway", "remit_ready", component="gateway access"): "0x100",
        },
        15,
        {"severity": "page", "job": "saga", "instance": "10.0.0.1:8080", "component": "publisher"},
        "saga at 10.0.0.1:8080 is not ready: publisher.",
        (9, 11, 30),
    ),
    "BackgroundFails": AlertTrial(
        {_of("saga", "remit_background_failures_total", task="outbox_sweeper"): "0x9 0+10x19 190x60"},
        25,
        {"severity": "ticket", "job": "saga", "task": "outbox_sweeper"},
        "outbox_sweeper of saga fails again and again.",
        (9, 14, 45),
    ),
    "DifferentBuilds": AlertTrial(
        {
            _of("saga", "remit_build_info", version="0.1.0", revision="a"): "1x200",
            _of("invoice", "remit_build_info", version="0.2.0", revision="b"): "_x9 1x90 stale",
        },
        90,
        {"severity": "ticket"},
        "2 different builds have run side by side for an hour.",
        (9, 40, 120),
    ),
}

GONE: Final = {
    alert: replace(TRIALS[alert], series={**TRIALS[alert].series, _of(job, "up"): "1x9 stale _x18 1x60"})
    for alert, job in (("ServiceAway", "staff"), ("DeskAway", "desk"), ("DoorAway", "door"))
}
"""The same where the last instance's name goes with it, as it does with a container that is stopped: then there is no target."""

HEALTHY: Final = {
    **{_of(job, "up"): "1x200" for job in ("invoice", "payment_gateway", "saga", "staff", "desk", "door")},
    **{
        _of(job, "remit_ready", component="started"): "1x200" for job in ("invoice", "payment_gateway", "saga", "staff")
    },
    **{_of(job, "remit_build_info", version="0.1.0", revision="a"): "1x200" for job in ("invoice", "saga")},
    _of("payment_gateway", "remit_payments_in_doubt", state="in_doubt"): "0 1 0x198",
    _of("payment_gateway", "remit_money_in_doubt", state="in_doubt", currency="EUR"): "0 12 0x198",
    _of("payment_gateway", "remit_money_in_doubt_oldest_seconds", state="in_doubt", currency="EUR"): "0 5 0x198",
    _of("payment_gateway", "remit_late_captures_total"): "4x200",
    _of("payment_gateway", "remit_gateway_pace"): "1x200",
    _of("payment_gateway", "remit_payments_due_oldest_seconds"): "0x200",
    _of("staff", "remit_dead_letters_open", reason="not_json"): "0x200",
    _of("staff", "remit_journal_intact"): "1x200",
    _of("saga", "remit_outbox_oldest_seconds", lane="inside"): "0.1x200",
    _of("saga", "remit_outbox_quarantined", lane="inside"): "0x200",
    _of("saga", "remit_sagas_oldest_seconds", state="settling"): "0.01x200",
    _of("rabbitmq", "rabbitmq_alarms_memory_used_watermark"): "0x200",
    _of("rabbitmq", "rabbitmq_alarms_free_disk_space_watermark"): "0x200",
    **_queue("saga.events", " ".join(["3 1 7 5"] * 50)),
}


def _test(alert: str, trial: AlertTrial) -> Mapping[str, Any]:
    fired = {
        "exp_labels": dict(trial.labels),
        "exp_annotations": {"summary": trial.summary, "runbook": f"deploy/RUNBOOK.md#{alert.lower()}"},
    }
    return {
        "name": alert,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in trial.series.items()],
        "alert_rule_test": [
            {"eval_time": f"{trial.fires}m", "alertname": alert, "exp_alerts": [fired]},
            *({"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []} for minute in trial.quiet),
        ],
    }


def test_every_alert_is_tried() -> None:
    assert len(ALERTS) == len(set(ALERTS)) > 20
    assert sorted(TRIALS) == sorted(ALERTS), "write what makes it fire, and what ends it"
    for alert, trial in TRIALS.items():
        assert max(trial.quiet) > trial.fires > min(trial.quiet), f"{alert}: it has to be silent before and after"


def test_every_alert_fires_once_and_ends(tmp_path: Path) -> None:
    check_rules(tmp_path, RULES, [_test(alert, trial) for alert, trial in [*TRIALS.items(), *GONE.items()]])


def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    healthy = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in HEALTHY.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []}
            for alert in ALERTS
            for minute in (30, 180)
        ],
    }
    check_rules(tmp_path, RULES, [healthy])


def test_a_trial_can_fail(tmp_path: Path) -> None:
    trial = TRIALS["DeadLetters"]
    with pytest.raises(AssertionError, match="FAILED"):
        check_rules(
            tmp_path, RULES, [_test("DeadLetters", AlertTrial(trial.series, 30, trial.labels, trial.summary, (15,)))]
        )


def test_prometheus_takes_the_configuration() -> None:
    assert "SUCCESS" in run("check", "config", str(CONFIG))


def test_rules_name_metrics_that_exist() -> None:
    assert len(metrics_in(RULES.read_text())) > 20
    assert not unknown_metrics(RULES.read_text())


def test_every_alert_has_its_section_in_the_runbook_and_every_section_its_alert() -> None:
    sections = re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(ALERTS)
    for alert, text in zip(sections, re.split(r"^## \w+$", RUNBOOK.read_text(), flags=re.MULTILINE)[1:], strict=True):
        assert re.search(r"^    \S", text, re.MULTILINE), f"{alert}: the section does not say what to type"
        assert alert.lower() in anchors(RUNBOOK)


def test_every_alert_leads_to_its_section() -> None:
    rules = re.split(r"^      - alert: ", RULES.read_text(), flags=re.MULTILINE)[1:]
    for rule in rules:
        alert = rule.split("\n", 1)[0]
        assert f"runbook: deploy/RUNBOOK.md#{alert.lower()}\n" in rule
        assert re.search(r"severity: (page|ticket)\b", rule), alert


def test_the_queues_that_must_be_consumed_are_ours() -> None:
    (pattern,) = re.findall(r'queue_consumers\{queue=~"([^"]+)"', RULES.read_text())
    for queue in WORK_QUEUES:
        if queue.is_optional:
            continue  # a setting may turn it off, and no payment needs it
        assert re.fullmatch(pattern, queue.name), f"NobodyConsumes does not look at {queue.name}"
