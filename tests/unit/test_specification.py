"""Everything has its place in the specification: a command, fact, event, status, answer or reason without one fails here.

The message names the file to write. These tests read the tables of scenarios, which the tests beside each table run.
"""

import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

from services.invoice import domain as invoice
from services.invoice import handlers as invoice_handlers
from services.invoice.store import Loaded
from services.payment_gateway import commands as payment_commands
from services.payment_gateway import domain as payment_gateway
from services.payment_gateway import handlers as payment_gateway_handlers
from services.payment_gateway.domain import GatewayStep, PaymentStatus
from services.payment_gateway.gateways import port
from services.saga import domain as saga
from services.saga import handlers as saga_handlers
from services.staff import domain as staff
from services.staff.actions.results import ActionRefusal
from services.staff.proposals import ProposalRefusal
from shared.contracts.base import Contract
from shared.contracts.invoice import AnswerReason, CloseCommand
from shared.contracts.schemas import examples_of
from tests.service.invoice import test_close_command as close_command_served
from tests.service.invoice import test_pay_invoice as pay_invoice_served
from tests.service.saga.test_saga import STORIES
from tests.service.staff import test_accounts as accounts_served
from tests.service.staff import test_cases as cases_served
from tests.service.staff import test_dead_letters as dead_letters_served
from tests.service.staff import test_runs as runs_served
from tests.service.staff import test_second_person as second_person_served
from tests.service.staff import test_second_thoughts as second_thoughts_served
from tests.support.scenarios import Scenario
from tests.unit.invoice import test_refused_commands
from tests.unit.payment_gateway.payments import payment
from tests.unit.saga.sagas import FACTS, STATES
from tests.unit.saga.test_transitions import TABLE
from tests.unit.staff import test_cases, test_resolve

ROOT = Path(__file__).parents[2]
Scenarios = Mapping[str, Scenario[Any, Any, Any]]


def snake(name: str) -> str:
    """`RecordPayment` -> `record_payment`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def module(path: str, about: str) -> ModuleType:
    """The test module at `path`."""
    assert (ROOT / path).exists(), f"{about} has no specification: write {path}"
    return importlib.import_module(path.removesuffix(".py").replace("/", "."))


def scenarios(path: str, about: str) -> Scenarios:
    """The table of the test module at `path`."""
    found = getattr(module(path, about), "SCENARIOS", {})
    assert found, f"{about} has no scenario: write a table SCENARIOS in {path}"
    return found


def held(expected: Iterable[object], specified: Iterable[object], *, where: str) -> None:
    """Fails if something expected is not specified."""
    missing = sorted(str(one) for one in set(expected) - set(specified))
    assert not missing, f"no scenario has {', '.join(missing)}: write one in {where}"


# -- the invoice -----------------------------------------------------------------------------------------------------------------------


def invoice_file(message: type[Contract]) -> str:
    return f"tests/unit/invoice/test_{snake(message.__name__)}.py"


INVOICE_COMMANDS = list(invoice_handlers.ROUTES)


def invoice_scenarios() -> list[Scenario[Any, Any, Any]]:
    found = [scenarios(invoice_file(message), message.__name__) for message in INVOICE_COMMANDS]
    return [scenario for table in found for scenario in table.values()]


@pytest.mark.parametrize("message", INVOICE_COMMANDS, ids=lambda message: message.__name__)
def test_every_command_of_the_invoice_is_specified_in_every_status(message: type[Contract]) -> None:
    path = invoice_file(message)
    table = scenarios(path, message.__name__).values()
    assert len({type(scenario.when) for scenario in table}) == 1, f"{path} is about one command"
    held(invoice.InvoiceStatus, {invoice.replay("INV-1", scenario.given).status for scenario in table}, where=path)


@pytest.mark.parametrize("message", INVOICE_COMMANDS, ids=lambda message: message.__name__)
def test_every_command_of_the_invoice_has_the_fields_of_its_message(message: type[Contract]) -> None:
    specified = next(iter(scenarios(invoice_file(message), message.__name__).values())).when
    example = message.model_validate_json(json.dumps(examples_of(message)[0]))
    routed = invoice_handlers.ROUTES[message](example, Loaded(invoice.Invoice("INV-1"), set()))
    assert type(routed) is type(specified), f"services/invoice/handlers.py routes {message.__name__} to another command"
    alike = {field.name for field in fields(routed)} & set(message.model_fields) - {
        "method"
    }  # without the card, since events keep only a fingerprint of it
    assert {name: getattr(routed, name) for name in alike} == {name: getattr(example, name) for name in alike}
    assert alike, f"{message.__name__} and its command have no field in common"


def test_every_event_and_reason_of_the_invoice_is_specified() -> None:
    table, where = invoice_scenarios(), "the file of its command in tests/unit/invoice"
    events = [event for scenario in table if isinstance(scenario.then, tuple) for event in scenario.then]
    rejected = [event for event in events if isinstance(event, invoice.SettlementRejected)]
    held(get_args(invoice.Command), {type(scenario.when) for scenario in table}, where=where)
    held(invoice.RejectionReason, [scenario.then for scenario in table if scenario.then not in events], where=where)
    held(get_args(invoice.Event), {type(event) for event in events}, where=where)
    held(invoice.SettlementRejectionReason, [event.reason for event in rejected], where=where)


ANSWERED_ELSEWHERE: dict[AnswerReason, Callable[..., object]] = {
    AnswerReason.COMMAND_ID_REUSED: (pay_invoice_served.test_a_used_id_with_other_data_is_rejected_and_changes_nothing),
    AnswerReason.DISCARDED: close_command_served.test_the_sender_is_answered,
    AnswerReason.REPLACED: close_command_served.test_the_sender_of_a_command_that_was_replaced_reads_by_which,
}
"""Reasons that only the database or a person can know."""


def test_every_reason_of_an_answer_is_specified() -> None:
    decided = [scenario.then for scenario in invoice_scenarios() if isinstance(scenario.then, invoice.RejectionReason)]
    border = [then for _, _, then in test_refused_commands.ADMISSIONS]
    refused = [then.reason for then in border if isinstance(then, test_refused_commands.AnsweredRejected)]
    specified = [*(AnswerReason(reason.value) for reason in decided), *refused, *ANSWERED_ELSEWHERE]
    held(AnswerReason, specified, where="tests/unit/invoice/test_refused_commands.py, or the file of its command")


# -- the payment gateway: commands -----------------------------------------------------------------------------------------------------


def command_file(command: type) -> str:
    return f"tests/unit/payment_gateway/commands/test_{snake(command.__name__)}.py"


def step_file(step: GatewayStep) -> str:
    return f"tests/unit/payment_gateway/steps/test_{step}.py"


PAYMENT_COMMANDS = get_args(payment_commands.Command)


@pytest.mark.parametrize("command", PAYMENT_COMMANDS, ids=lambda command: command.__name__)
def test_every_command_of_a_payment_is_specified_in_every_status(command: type) -> None:
    path = command_file(command)
    table = scenarios(path, command.__name__).values()
    assert {type(scenario.when) for scenario in table} == {command}, f"{path} is about {command.__name__}"
    given = {scenario.given and scenario.given.status for scenario in table}
    held([None, *PaymentStatus], given, where=path)


# -- the payment gateway: steps --------------------------------------------------------------------------------------------------------


def answers_to(step: GatewayStep) -> tuple[type, ...]:
    """The answers that the port allows to a step."""
    return get_args(get_type_hints(getattr(port.Gateway, step))["return"])


def step_scenarios(step: GatewayStep) -> list[Scenario[Any, Any, Any]]:
    return list(scenarios(step_file(step), step).values())


def transitions() -> list[payment_gateway.PaymentTransition]:
    """All transitions of the specification."""
    by_steps = [scenario.then for step in GatewayStep for scenario in step_scenarios(step)]
    return by_steps + [then for then in effects_of_commands() if isinstance(then, payment_gateway.PaymentTransition)]


def effects_of_commands() -> list[payment_gateway.PaymentTransition | payment_commands.NeverSeen]:
    tables = [scenarios(command_file(command), command.__name__) for command in PAYMENT_COMMANDS]
    return [scenario.then for table in tables for scenario in table.values()]


def reachable() -> set[tuple[PaymentStatus, GatewayStep]]:
    """The steps possible in each status: the first step of an instance that finds the row, and steps directly after another."""
    found = [payment(status, decided_by=by) for status in PaymentStatus for by in (None, "ann")]
    first = {(one.status, step) for one in found if (step := payment_gateway.next_step(one)) is not None}
    return first | {(after.payment.status, after.then) for after in transitions() if after.then is not None}


@pytest.mark.parametrize("step", GatewayStep)
def test_every_answer_to_a_step_is_specified_in_every_status(step: GatewayStep) -> None:
    for status in (status for status, taken in reachable() if taken is step):
        asked = [scenario for scenario in step_scenarios(step) if scenario.given.status is status]
        answered = {type(scenario.when) for scenario in asked if scenario.given.rung == 0}
        held(answers_to(step), answered, where=f"{step_file(step)}: the row of a payment that is {status}")


def test_every_outcome_and_every_reason_of_a_payment_is_specified() -> None:
    where = "the file of its step or command in tests/unit/payment_gateway"
    after = transitions()
    reasons = [one.payment.reason for one in after]
    pending = [one.payment.pending.reason for one in after if one.payment.pending is not None]
    refused = [one.refused.reason for one in effects_of_commands() if one.refused is not None]
    held(payment_gateway.Outcome, [one.outcome for one in after], where=where)
    held(payment_gateway.OutcomeReason, [*reasons, *pending], where=where)
    held(get_args(payment_gateway.ResolutionRefusal), refused, where=where)


# -- the saga --------------------------------------------------------------------------------------------------------------------------


def test_every_fact_of_the_saga_is_specified_in_every_status() -> None:
    held(get_args(saga.Fact), {type(fact) for fact in FACTS.values()}, where="tests/unit/saga/sagas.py: FACTS")
    held(saga.SagaStatus, {state.status for state in STATES.values()}, where="tests/unit/saga/sagas.py: STATES")
    cells = {(fact, state) for fact in FACTS for state in STATES}
    specified = {(fact, state) for fact, row in TABLE.items() for state in row}
    held(cells, specified, where="tests/unit/saga/test_transitions.py: TABLE")
    assert specified == cells, "tests/unit/saga/test_transitions.py has a row for a state or a fact that does not exist"


def test_every_command_of_the_saga_is_sent_in_the_table() -> None:
    said = {type(command) for row in TABLE.values() for cell in row.values() for command in cell.says}
    held(get_args(saga.Command), said, where="tests/unit/saga/test_transitions.py: TABLE")


# -- staff -----------------------------------------------------------------------------------------------------------------------------


def test_every_fact_about_a_case_is_specified() -> None:
    heard = {type(scenario.when) for scenario in test_cases.SCENARIOS.values()}
    held(get_args(staff.Fact), heard, where="tests/unit/staff/test_cases.py")


def test_every_refusal_of_a_decision_is_specified_in_every_status() -> None:
    table, where = test_resolve.SCENARIOS.values(), "tests/unit/staff/test_resolve.py"
    held(staff.DecisionRefusal, [scenario.then for scenario in table], where=where)
    decided = {(scenario.given.status, scenario.when.resolution) for scenario in table}
    cells = {(status, resolution) for status in staff.CaseStatus for resolution in get_args(staff.Resolution)}
    held(cells, decided, where=where)


REFUSED_BY: dict[ActionRefusal | staff.DecisionRefusal | ProposalRefusal, Callable[..., object]] = {
    ActionRefusal.UNKNOWN: dead_letters_served.test_an_unknown_id_is_reported,
    ActionRefusal.ALREADY_REPLAYED: dead_letters_served.test_one_of_two_people_who_replay_is_told,
    ActionRefusal.ALREADY_DISCARDED: dead_letters_served.test_a_discarded_command_is_answered_once,
    ActionRefusal.BODY_WITHHELD: dead_letters_served.test_no_card_number_reaches_a_table,
    ActionRefusal.NO_SUCH_QUEUE: dead_letters_served.test_a_dead_letter_of_a_foreign_queue_is_not_replayed,
    ActionRefusal.INVALID: dead_letters_served.test_reasons_that_must_not_be_stored_are_refused,
    ActionRefusal.CARD_DATA: dead_letters_served.test_reasons_that_must_not_be_stored_are_refused,
    ActionRefusal.OLD_CHARGE: dead_letters_served.test_what_charges_and_is_old_is_replayed_only_if_a_person_says_so,
    ActionRefusal.CHANGED: runs_served.test_what_came_anew_and_charges_otherwise_than_the_list_shows_is_left_out,
    ActionRefusal.TOO_LATE_TO_UNDO: second_thoughts_served.test_what_a_sweeper_has_taken_is_not_undone,
    ActionRefusal.TOLD_ALREADY: second_thoughts_served.test_only_what_nobody_was_told_of_is_brought_back,
    ActionRefusal.NOT_EDITABLE: second_thoughts_served.test_nobody_edits_before_an_admin_allows_it,
    ActionRefusal.FIELD_LOCKED: second_thoughts_served.test_what_says_whose_money_goes_where_is_locked,
    ActionRefusal.SCHEMA: second_thoughts_served.test_what_breaks_the_contract_is_refused_with_its_schema,
    ActionRefusal.NAME_TAKEN: accounts_served.test_a_name_is_given_once_whatever_its_case,
    ActionRefusal.LAST_ADMIN: accounts_served.test_the_last_admin_stays_one,
    ActionRefusal.NOT_LOCAL: accounts_served.test_what_the_provider_says_is_not_changed_here,
    staff.DecisionRefusal.NOTHING_TO_DECIDE: cases_served.test_an_invalid_decision_leaves_no_trace,
    staff.DecisionRefusal.DOES_NOT_FIT: cases_served.test_an_invalid_decision_leaves_no_trace,
    staff.DecisionRefusal.VERSION_DIFFERS: cases_served.test_an_invalid_decision_leaves_no_trace,
    staff.DecisionRefusal.RECEIPT_NUMBER_REQUIRED: cases_served.test_an_invalid_decision_leaves_no_trace,
    staff.DecisionRefusal.DECISION_ON_ITS_WAY: cases_served.test_one_of_two_people_who_decide_is_told,
    ProposalRefusal.PROPOSAL_OPEN: second_person_served.test_an_open_proposal_bars_other_decisions_until_it_is_answered,
    ProposalRefusal.PROPOSAL_OUTDATED: second_person_served.test_a_proposal_about_an_earlier_version_no_longer_counts,
    ProposalRefusal.NO_PROPOSAL: second_person_served.test_of_two_people_who_answer_one_wins_and_the_other_reads_who,
    ProposalRefusal.SAME_PERSON: second_person_served.test_above_the_limit_nothing_leaves_until_another_person_agrees,
    ProposalRefusal.NOT_ALLOWED: second_person_served.test_above_the_limit_nothing_leaves_until_another_person_agrees,
    ProposalRefusal.CLAIMED: second_person_served.test_of_two_people_who_claim_a_case_the_second_reads_who_is_on_it,
    ProposalRefusal.NOTHING_TO_NOTE: second_person_served.test_what_contradicts_a_decision_stands_on_the_case_until_somebody_takes_note,
}


def test_every_refusal_of_an_action_is_specified() -> None:
    held(
        [*ActionRefusal, *staff.DecisionRefusal, *ProposalRefusal],
        REFUSED_BY,
        where="tests/service/staff, and name it here in REFUSED_BY",
    )


# -- the services ----------------------------------------------------------------------------------------------------------------------

SERVED: list[tuple[str, type[Contract]]] = [
    ("invoice", CloseCommand),
    *(("payment_gateway", message) for message in payment_gateway_handlers.ROUTES),
]


@pytest.mark.parametrize(("service", "message"), SERVED, ids=lambda one: getattr(one, "__name__", one))
def test_every_command_is_served_somewhere(service: str, message: type[Contract]) -> None:
    module(f"tests/service/{service}/test_{snake(message.__name__)}.py", f"{message.__name__} at the {service} service")


def test_every_message_to_the_saga_has_a_story() -> None:
    arrived = {type(when) for _, when, _, _ in STORIES.values()}
    held(saga_handlers.ROUTES, arrived, where="tests/service/saga/test_saga.py: STORIES")


def test_every_status_of_the_saga_has_a_story() -> None:
    beyond: list[StrEnum] = [saga.SagaStatus.ABSENT]  # before the first message
    held(set(saga.SagaStatus) - set(beyond), [status for *_, status in STORIES.values()], where="STORIES of the saga")
