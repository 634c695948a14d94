"""The second person, without I/O: what is above a limit, what refunds add up to, and who may agree."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from services.staff.domain import Case, CaseStatus, GatewaySide
from services.staff.people import Actor, Role, Via, at_terminal
from services.staff.proposals import (
    Proposal,
    ProposalRefusal,
    ProposedAct,
    SecondPersonLimits,
    Stake,
    WantedRefund,
    read_limits,
    refund_stake,
    refusal_of_answer,
    stakes_of,
    together,
)
from services.staff.settings import StaffSettings
from shared.records import replace
from shared.settings import ConfigurationError, EnvironmentVariables

NOW = datetime(2026, 11, 28, 2, tzinfo=UTC)
PAYMENT, ONE, TWO = UUID(int=7), UUID(int=1), UUID(int=2)
LIMITS = read_limits("EUR:50000, JPY:0")


def refund(id_: UUID, amount_minor: int | None, currency: str = "EUR") -> WantedRefund:
    return WantedRefund(id_, amount_minor, currency)


# -- limits ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stakes", "needed"),
    [
        ([Stake(50_000, "EUR")], False),
        ([Stake(50_001, "EUR")], True),
        ([Stake(1, "JPY")], True),
        ([Stake(1, "USD")], True),
        ([Stake(None, "EUR")], True),
        ([Stake(1, None)], True),
        ([Stake(1, "EUR"), Stake(1, "USD")], True),
        ([], False),
    ],
)
def test_a_second_person_is_needed_above_the_limit_and_for_what_is_not_known(stakes: list[Stake], needed: bool) -> None:
    assert LIMITS.need_second(stakes) is needed


def test_the_limit_is_told_in_words() -> None:
    told = [LIMITS.in_words(currency) for currency in ("EUR", "JPY", "USD", None)]
    assert told == ["above 500.00 EUR", "above 0 JPY", "for any amount in USD", "for an amount that is not known"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("EUR", "must give a whole number in the minor unit for EUR, at most 999999999999: EUR:50000 is 500.00 EUR."),
        ("EUR:500.00", "must give a whole number in the minor unit for EUR, at most 999999999999"),
        ("EUR:-1", "must give a whole number in the minor unit for EUR"),
        ("EUR:9999999999999", "must give a whole number in the minor unit for EUR"),
        ("EUR:1,EUR:2", "names EUR twice."),
        ("eur:1", "names a currency that ISO 4217 does not have: write EUR:50000,USD:50000."),
    ],
)
def test_a_slip_in_the_setting_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        StaffSettings.read(settings(text))
    assert str(raised.value).startswith(f"STAFF_SECOND_PERSON {sentence}")


@pytest.mark.parametrize(("text", "above"), [("none", {}), ("", {"EUR": 50_000, "USD": 50_000}), ("CHF:7", {"CHF": 7})])
def test_the_setting_names_each_currency_that_one_person_may_decide_about(text: str, above: dict[str, int]) -> None:
    assert read_limits(StaffSettings.read(settings(text)).second_person) == SecondPersonLimits(above)


def settings(text: str) -> EnvironmentVariables:
    urls = {"RABBITMQ_URL": "amqp://a:b@h:5672/%2F", "STAFF_DATABASE_URL": "postgresql://a:b@h:5432/staff"}
    return EnvironmentVariables({**urls, "STAFF_SECOND_PERSON": text})


# -- what is at stake --------------------------------------------------------------------------------------------------------------------


def test_what_the_gateway_captured_is_at_stake_too() -> None:
    case = Case(PAYMENT, "INV-1", CaseStatus.NEEDS_DECISION, amount_minor=100, currency="EUR")
    assert stakes_of(case) == [Stake(100, "EUR")]
    shown = Case(PAYMENT, "INV-1", amount_minor=100, currency="EUR", gateway=GatewaySide("captured", 900, 0, "USD"))
    assert stakes_of(shown) == [Stake(100, "EUR"), Stake(900, "USD")]


PAID = Case(PAYMENT, "INV-1", CaseStatus.CAPTURED, amount_minor=100_000, currency="EUR")


@pytest.mark.parametrize(
    ("asked", "wanted", "stake"),
    [
        ((), refund(ONE, 400), 400),
        ((refund(ONE, 400),), refund(TWO, 300), 700),
        ((refund(ONE, 400),), refund(ONE, 400), 400),
        ((refund(ONE, 400),), refund(ONE, 500), 500),
        ((refund(ONE, 500),), refund(ONE, 400), 500),
        ((), refund(ONE, None), 100_000),
        ((refund(ONE, None),), refund(TWO, 1), 100_000),
        ((refund(ONE, 90_000),), refund(TWO, 90_000), 100_000),
        ((), refund(ONE, None, "USD"), None),
        ((refund(ONE, 1, "USD"),), refund(TWO, 1), 100_000),
    ],
)
def test_refunds_of_one_payment_add_up(
    asked: tuple[WantedRefund, ...], wanted: WantedRefund, stake: int | None
) -> None:
    assert refund_stake(PAID, wanted, asked) == Stake(stake, wanted.currency)


def test_all_that_is_left_of_an_unknown_payment_may_be_any_amount() -> None:
    assert refund_stake(Case(PAYMENT, "INV-1"), refund(ONE, None), ()) == Stake(None, "EUR")
    assert refund_stake(Case(PAYMENT, "INV-1"), refund(ONE, 9), ()) == Stake(9, "EUR")


def test_more_than_the_invoice_is_at_stake_where_more_was_captured() -> None:
    shown = replace(PAID, gateway=GatewaySide("captured", 900_000, 0, "EUR"))
    assert refund_stake(shown, refund(ONE, None), ()) == Stake(900_000, "EUR")
    assert refund_stake(replace(shown, gateway=GatewaySide("captured", 1, 0, "USD")), refund(ONE, None), ()) == Stake(
        None, "EUR"
    )


# -- who may agree -----------------------------------------------------------------------------------------------------------------------


def actor(name: str, via: Via = Via.DESK, role: Role = Role.RESOLVER, *, is_program: bool = False) -> Actor:
    return Actor(name, via, frozenset({role}), is_program)


PROPOSAL = Proposal(
    ONE, PAYMENT, 4, ProposedAct.DECIDE, {"resolution": "not_charged"}, "ben.resolver", Via.TERMINAL, NOW
)


@pytest.mark.parametrize(
    ("who", "refusal"),
    [
        (actor("ann"), None),
        (actor("ann", Via.API), None),
        (actor("ben.resolver"), ProposalRefusal.SAME_PERSON),
        (actor(" Ben.Resolver"), ProposalRefusal.SAME_PERSON),
        (actor("ben\uff0eresolver"), ProposalRefusal.SAME_PERSON),
        (actor("ann", is_program=True), ProposalRefusal.NOT_ALLOWED),
        (actor("ann", role=Role.ADMIN), ProposalRefusal.NOT_ALLOWED),
        (at_terminal("ann"), ProposalRefusal.NOT_ALLOWED),
    ],
)
def test_another_person_who_proved_a_name_may_agree(who: Actor, refusal: ProposalRefusal | None) -> None:
    assert refusal_of_answer(PROPOSAL, 4, who) is refusal


def test_nobody_agrees_with_what_is_outdated_or_not_there() -> None:
    assert refusal_of_answer(PROPOSAL, 5, actor("ann")) is ProposalRefusal.PROPOSAL_OUTDATED
    assert refusal_of_answer(None, 4, actor("ann")) is ProposalRefusal.NO_PROPOSAL


def test_both_names_go_out() -> None:
    assert together(PROPOSAL, actor("ann.resolver")).name == "ben.resolver, ann.resolver agreed"
