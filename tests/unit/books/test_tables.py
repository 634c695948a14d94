"""The tables of the documents equal the code: nothing is missing, and nothing is too much."""

import ast
import re
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import Final, get_args, get_type_hints
from uuid import UUID

import pytest
from prometheus_client import Counter, Gauge, Histogram

from deploy.cli.config_reference import reference
from services.audit.checks import CHECKS
from services.invoice.domain import SettlementRejectionReason
from services.invoice.door.app import DoorCode
from services.payment_gateway import domain as payment
from services.payment_gateway import ledger
from services.saga import domain as saga
from services.saga import store as saga_store
from services.staff import domain as staff
from services.staff import store as staff_store
from services.staff.actions.results import ActionRefusal
from services.staff.dead_letters import Withheld
from services.staff.domain import DecisionRefusal
from services.staff.proposals import ProposalRefusal
from services.staff.runs import RunRefusal
from shared.card_data.encryption import CardRefusal
from shared.contracts.base import Contract
from shared.contracts.catalogue import MESSAGES, wire_name_without_version
from shared.contracts.invoice import AnswerReason
from shared.messaging import failures
from shared.messaging.codec import MalformedReason
from shared.messaging.topology import EXCHANGES, QUEUES, RoutingSuffix, bound_exchange, routing_key
from shared.observability import metrics
from shared.observability.sampled import SampledGauge
from shared.persistence import inbox
from tests.faults.catalogue import ROWS, Elsewhere
from tests.unit.books.documents import (
    CONFIGURATION,
    DEPLOY,
    LANGUAGE,
    ROOT,
    SERVICES,
    SHARED,
    STAFF,
    TESTS,
    code_spans,
    name_of,
    table,
    tables,
)
from tests.unit.books.source import DATABASE_URLS, attributes_of, nodes, python_files, variables_read


def assert_same(path: Path, what: str, told: Collection[str], true: Collection[str], *, source: str) -> None:
    """The document lists just these, each once."""
    twice = sorted({one for one in told if list(told).count(one) > 1})
    missing, wrong = sorted(set(true) - set(told)), sorted(set(told) - set(true))
    assert not missing, f"{name_of(path)}: {what}: add what {source} has: {missing}"
    assert not wrong, f"{name_of(path)}: {what}: take out what {source} does not have: {wrong}"
    assert not twice, f"{name_of(path)}: {what}: listed twice: {twice}"


# -- messages and topology -----------------------------------------------------------------------------------------------------------------


def short_name(message: type[Contract]) -> str:
    return wire_name_without_version(message.wire_name).rpartition(".")[2]


def queues_of(message: type[Contract]) -> set[str]:
    """Our queues that receive messages of this type, with any routing suffix."""
    exchanges = {bound_exchange(message.exchange), message.exchange}
    keys = {"", *(routing_key(message.wire_name, suffix) for suffix in get_args(RoutingSuffix))}
    return {
        queue.name
        for queue in QUEUES
        for binding in queue.bindings
        if binding.exchange in exchanges and binding.routing_key in keys
    }


def test_messages_are_those_of_the_catalogue() -> None:
    told = table(SERVICES, "message", "kind", "sent by", "exchange", "queues")
    by_name = {short_name(message): message for message in MESSAGES}
    assert_same(SERVICES, "messages", told.codes("message"), by_name, source="shared/contracts/catalogue.py")
    for row in told.rows:
        cells = dict(zip(told.header, row, strict=True))
        message = by_name[code_spans(cells["message"])[0]]
        where = f"{name_of(SERVICES)}: the row of {short_name(message)}"
        assert cells["kind"] == message.kind, f"{where}: its kind is {message.kind}"
        assert code_spans(cells["exchange"]) == [message.exchange] * bool(message.exchange), (
            f"{where}: its exchange is {message.exchange or 'none'}"
        )
        queues = set(code_spans(cells["queues"])) - {"reply_to"}
        assert queues == queues_of(message), f"{where}: its queues are {sorted(queues_of(message))}"


def test_exchanges_are_those_of_the_topology() -> None:
    told = table(DEPLOY, "exchange", "type")
    types = {name: cells[1] for cells in told.rows for name in code_spans(cells[0])}
    true = {exchange.name: exchange.type for exchange in EXCHANGES}
    assert types == true, f"{name_of(DEPLOY)}: exchanges and their types are {true} (shared/messaging/topology.py)"


# -- reasons -------------------------------------------------------------------------------------------------------------------------------

OF_A_CASE: Final = {
    payment.OutcomeReason.CAPTURE_DIFFERS,
    payment.OutcomeReason.CANCEL_UNCONFIRMED,
    payment.OutcomeReason.NO_READABLE_ANSWER,
    payment.OutcomeReason.PROCESSING,
    payment.OutcomeReason.UNCONFIRMED,
    payment.OutcomeReason.UNKNOWN_TO_GATEWAY,
    payment.OutcomeReason.REFUND_PENDING,
    payment.OutcomeReason.REFUNDED_AT_GATEWAY,
    payment.OutcomeReason.DISPUTED,
    payment.OutcomeReason.NOT_CAPTURED,
    payment.OutcomeReason.UNKNOWN_HERE,
    payment.OutcomeReason.NOT_REFUNDED,
    payment.OutcomeReason.REOPENED,
    payment.OutcomeReason.REFUND_TOO_LARGE,
    payment.OutcomeReason.NOTHING_LEFT,
}
"""Reasons why an outcome is unknown: staff see these, senders do not."""
OF_BOTH: Final = {payment.OutcomeReason.GATEWAY_UNAVAILABLE, payment.OutcomeReason.DECIDED}
BY_A_SERVICE: Final = {
    *MalformedReason,
    "handler_failed",
    Withheld.UNREADABLE,
    Withheld.UNSTORABLE,
    failures.MOVED_BACK,
}
BY_THE_BROKER: Final = {*(f"broker_{reason}" for reason in failures.BROKER_REASONS), "unknown"}


def test_reasons_of_answers_are_those_that_senders_get() -> None:
    told = table(LANGUAGE, "reason", "meaning", "what to do").codes("reason")
    assert_same(LANGUAGE, "reasons of answers", told, set(AnswerReason), source="shared/contracts/invoice.py")


def test_senders_are_told_what_to_do_about_each_reason() -> None:
    told = table(LANGUAGE, "reason", "meaning", "what to do")
    silent = [row[0] for row, what in zip(told.rows, told.column("what to do"), strict=True) if not what]
    assert not silent, f"{name_of(LANGUAGE)}: say what to do about {silent}"


def test_problems_of_the_door_are_those_that_senders_can_meet() -> None:
    told = table(LANGUAGE, "status", "code", "what to do")
    assert_same(
        LANGUAGE, "problems of the door", told.codes("code"), set(DoorCode), source="services/invoice/door/app.py"
    )
    assert all(told.column("what to do")), f"{name_of(LANGUAGE)}: say what to do about each problem of the door"


def test_reasons_of_failed_payments_are_ours() -> None:
    told = table(LANGUAGE, "reason", "meaning").codes("reason")
    ours = set(payment.OutcomeReason) - OF_A_CASE | set(CardRefusal) | {saga.REJECTED_CODE, saga.REFUNDED_CODE}
    source = "OutcomeReason (payment_gateway/domain.py), CardRefusal (card_data/encryption.py) or the saga's domain.py"
    assert_same(LANGUAGE, "reasons of failed payments", told, ours, source=source)


def test_reasons_of_cases_are_those_of_the_payment_gateway() -> None:
    told = table(STAFF, "reason", "meaning").codes("reason")
    assert_same(STAFF, "reasons of cases", told, OF_A_CASE | OF_BOTH, source="services/payment_gateway/domain.py")


def test_reasons_of_dead_letters_are_those_of_the_code() -> None:
    told = table(STAFF, "reason", "what happened", "what to do").codes("reason")
    source = "MalformedReason (shared/messaging/codec.py), shared/batch or shared/messaging/failures.py"
    assert_same(STAFF, "reasons of dead letters", told, BY_A_SERVICE | BY_THE_BROKER, source=source)


def test_each_reason_why_a_body_is_missing_is_explained() -> None:
    sentence = re.search(r"^Why a body is missing .*?\n\n", STAFF.read_text(), re.MULTILINE | re.DOTALL)
    assert sentence, f"{name_of(STAFF)} has lost the sentence `Why a body is missing`"
    told = [code for code in code_spans(sentence[0]) if code != "withheld"]
    assert_same(STAFF, "why a body is missing", told, set(Withheld), source="services/staff/dead_letters.py")


def test_refusals_of_staff_are_those_of_the_actions() -> None:
    told = table(STAFF, "refusal", "meaning").codes("refusal")
    true = {*ActionRefusal, *DecisionRefusal, *ProposalRefusal, *RunRefusal}
    assert_same(STAFF, "refusals", told, true, source="services/staff/actions/results.py, domain.py and proposals.py")


def test_refusals_of_decisions_are_those_of_the_payment_gateway() -> None:
    last_word = STAFF.read_text().partition("has the last word")[2]
    true = get_args(get_type_hints(payment.ResolutionRefused)["reason"])
    assert_same(STAFF, "refused decisions", code_spans(last_word), true, source="services/payment_gateway/domain.py")


SHOWN: Final = staff.GatewaySide(staff.CAPTURED)


def test_decisions_are_those_that_a_case_allows() -> None:
    told = table(STAFF, "the case stands", "it can be resolved as")
    for stands, resolutions in told.rows:
        words = set(code_spans(resolutions)) - {"--receipt"}
        for status in code_spans(stands):
            case = staff.Case(
                UUID(int=1),
                "INV-1",
                staff.CaseStatus(status),
                gateway=SHOWN if "shows" in stands else None,
                settled_as="captured" if "was told" in stands else None,
            )
            allowed = staff.decisions_for(case)
            assert words == allowed, f"{name_of(STAFF)}: a case {status} can be resolved as {sorted(allowed)}"
    open_cases = set(told.codes("the case stands"))
    assert_same(STAFF, "open cases", open_cases, staff.OPEN, source="services/staff/domain.py")


def test_reasons_of_rejected_settlements_are_the_invoices() -> None:
    told = table(SERVICES, "reason of `InvoiceSettlementRejected`", "meaning")
    assert_same(
        SERVICES,
        "rejected settlements",
        told.codes(told.header[0]),
        set(SettlementRejectionReason),
        source="services/invoice/domain.py",
    )


# -- metrics -------------------------------------------------------------------------------------------------------------------------------

Metric = Counter | Gauge | Histogram | SampledGauge
METRICS: Final[dict[str, Metric]] = {name: one for name, one in vars(metrics).items() if isinstance(one, Metric)}


def full_name(metric: Metric) -> str:
    """The name by which a scraper sees it."""
    if isinstance(metric, SampledGauge):
        return metric.name
    return f"{metric._name}_total" if isinstance(metric, Counter) else metric._name


def test_metrics_are_those_of_the_code() -> None:
    told = table(DEPLOY, "metric", "kind", "labels")
    by_name = {full_name(metric): metric for metric in METRICS.values()}
    assert_same(DEPLOY, "metrics", told.codes("metric"), by_name, source="shared/observability/metrics.py")
    for name, kind, labels, *_ in told.rows:
        metric = by_name[code_spans(name)[0]]
        where = f"{name_of(DEPLOY)}: the row of {full_name(metric)}"
        its_kind, its_labels = (
            (metric.kind, metric.labels) if isinstance(metric, SampledGauge) else (metric._type, metric._labelnames)
        )
        assert kind == its_kind, f"{where}: it is a {its_kind}"
        assert code_spans(labels) == list(its_labels), f"{where}: its labels are {its_labels}"


def test_every_metric_is_emitted() -> None:
    home = ROOT / "shared/observability/metrics.py"
    files = [path for path in python_files("services", "shared") if path != home]
    used = attributes_of("metrics", files) | {name for path in files for name in imported_from_metrics(path)}
    unused = sorted(METRICS.keys() - used)
    assert not unused, f"{name_of(home)}: no code sets {unused}: set it, or delete it here and in {name_of(DEPLOY)}"


def imported_from_metrics(path: Path) -> list[str]:
    return [
        name.name
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.module == metrics.__name__
        for name in node.names
    ]


# -- settings and limits -------------------------------------------------------------------------------------------------------------------

OF_THE_MACHINE: Final = {"PATH"}
"""Variables that every program has."""
NOT_OURS: Final = {ROOT / "tests/bench/peers", ROOT / "tests/unit", ROOT / "shared/kit"}
"""Other systems with settings of their own, senders, and made-up variables with which the settings reader is tested."""


def test_variables_are_those_that_are_read() -> None:
    """Those of `variable` in CONFIGURATION.md, which is written from the declarations; the others by hand, elsewhere."""
    told = [
        name
        for path in (CONFIGURATION, DEPLOY, TESTS)
        for one in tables(path, "variable")
        for name in one.codes("variable")
    ]
    files = [path for path in python_files("services", "shared", "deploy", "tests") if not NOT_OURS & set(path.parents)]
    read = variables_read(files) - OF_THE_MACHINE | DATABASE_URLS
    assert_same(DEPLOY, f"variables (or {name_of(CONFIGURATION)}, {name_of(TESTS)})", told, read, source="the code")


def test_the_reference_of_settings_is_that_of_the_declarations() -> None:
    assert CONFIGURATION.read_text() == reference(), f"{name_of(CONFIGURATION)}: run `make config`"


UNITS: Final = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "s": 1, "days": 1}


@pytest.mark.parametrize("row", table(SHARED, "limit", "value", "name", "where").rows)
def test_limit_is_that_of_the_code(row: tuple[str, ...]) -> None:
    what, value, name, where = row
    module = import_module("shared." + code_spans(where)[0].removesuffix(".py").replace("/", "."))
    number, _, unit = value.partition(" ")
    true = getattr(module, code_spans(name)[0])
    assert float(number) * UNITS[unit] == true, f"{name_of(SHARED)}: {what}: the code has {true}"


def test_retention_is_that_of_the_code() -> None:
    rules = (
        inbox.RETENTION,
        saga_store.FIRED_RETENTION,
        saga_store.JOURNAL_RETENTION,
        ledger.ATTEMPTS_RETENTION,
        staff_store.BODY_RETENTION,
    )
    told = [
        int(days)
        for cell in table(DEPLOY, "what", "where", "how long").column("how long")
        for days in re.findall(r"(\d+) days", cell)
    ]
    assert sorted(told) == sorted(rule.days for rule in rules), (
        f"{name_of(DEPLOY)}: what is kept, and how long: {[(rule.name, rule.days) for rule in rules]}"
    )


# -- the proof -----------------------------------------------------------------------------------------------------------------------------


def test_checks_are_those_that_the_audit_makes() -> None:
    told = {code_spans(name)[0]: title for name, title in table(TESTS, "check", "it holds that").rows}
    true = {check.name: check.title for check in CHECKS}
    assert_same(TESTS, "checks of the audit", told, true, source="services/audit/checks.py")
    for name, title in true.items():
        assert told[name] == title, f"{name_of(TESTS)}: the title of {name} is {title!r} (services/audit/checks.py)"


def test_faults_are_those_of_the_catalogue() -> None:
    told = {int(number): (point, faults) for number, point, faults, _ in table(TESTS, "#", "point").rows}
    true = {number: (row.point, "; ".join(fault(*one) for one in row.faults.items())) for number, row in ROWS.items()}
    for number in true.keys() | told.keys():
        assert told.get(number) == true.get(number), (
            f"{name_of(TESTS)}: row {number} of the catalogue must read {true.get(number)}"
        )


def fault(name: str, trials: str | Elsewhere) -> str:
    """A fault as the document shows it, with the patterns of its trials."""
    if isinstance(trials, Elsewhere):
        return f"{name} ({trials.why})"
    return f"{name} {', '.join(f'`{pattern}`' for pattern in trials.split(','))}"
