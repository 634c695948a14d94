"""The sandbox gateway: every fault of the catalogue, Stripe's rules, and a ledger that survives a kill."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import httpx
import pytest

import deploy.sandbox
from deploy.sandbox import bank
from deploy.sandbox.app import SandboxSettings
from deploy.sandbox.faults import BEHAVIOURS, CARDS, REFUNDS, Behaviour, Deed, Ending, Manner, behaviour_of, luhn_holds
from deploy.sandbox.process import start_sandbox
from deploy.sandbox.server import Sandbox
from services.payment_gateway.gateways import port
from services.payment_gateway.gateways.choose import open_gateway
from services.payment_gateway.gateways.port import Gateway
from services.payment_gateway.gateways.stripe import PAGE_SIZE
from shared.records import replace
from tests.support.hasty_gateway import HASTY_S, PATIENT_S, hasty_gateway

DEADLINE_S = 20.0
SLOW_S = 2 * HASTY_S  # longer than the hasty client waits
NOON = 1_800_000_000.0
KEY_AGE_S = 86_400.0
MOST_LOOKS = 6  # more than any payment of the catalogue needs to settle

Json = dict[str, Any]
REFUND = port.RefundOrder(UUID(int=99), UUID(int=1), 1250, "EUR")


class Clock:
    def __init__(self) -> None:
        self.now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class SandboxClient:
    """A sandbox, the production adapter in front of it, and reads of its ledger."""

    sandbox: Sandbox
    gateway: Gateway
    hasty: Gateway
    ledger: Path
    clock: Clock
    may_act: asyncio.Event
    """Is set. While a test has cleared it, what is slow does not act at all, however slow the machine is."""

    def rows(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.ledger)) as reader:
            return reader.execute(sql, args).fetchall()

    def charges(self, gateway_id: str) -> int:
        return len(self.rows("SELECT 1 FROM charges WHERE payment_intent = ?", gateway_id))

    async def prepared(self, method: str = "pm_card_visa", number: int = 1) -> str:
        order = port.Order(UUID(int=number), f"inv-{number}", AMOUNT_MINOR, "EUR", method)
        answer = await self.gateway.prepare(order, key=f"prepare {number}")
        assert isinstance(answer, port.Prepared), answer
        return answer.gateway_id

    async def captured(self, method: str = "pm_card_visa") -> str:
        gateway_id = await self.prepared(method)
        assert isinstance(await self.gateway.execute(gateway_id, key="execute"), port.Captured)
        return gateway_id

    async def raw(self, method: str, path: str, key: str | None = None, **data: Any) -> tuple[int, Json, bool]:
        """Send a request; returns status, body, and whether the answer was replayed."""
        headers = {"Authorization": "Bearer sk_test_1"} | ({"Idempotency-Key": key} if key else {})
        async with aiohttp.ClientSession(headers=headers) as session:
            where = {"params": data} if method == "GET" else {"data": data}
            async with session.request(method, self.sandbox.url + path, **where) as answer:  # type: ignore[arg-type]
                return answer.status, await answer.json(), "Idempotent-Replayed" in answer.headers

    async def do(self, deed: Deed, gateway_id: str) -> None:
        """Do to a payment what others may do beside the API."""
        async with aiohttp.ClientSession() as session:
            url = f"{self.sandbox.admin_url}/_sandbox/payments/{gateway_id}/{deed.value}"
            async with session.post(url) as answer:
                assert answer.status == 200

    async def mode(self, mode: str, **more: Any) -> None:
        async with aiohttp.ClientSession() as session:
            url = f"{self.sandbox.admin_url}/_sandbox/mode"
            async with session.post(url, json={"mode": mode, **more}) as answer:
                assert answer.status == 200


@asynccontextmanager
async def open_bench(folder: Path) -> AsyncIterator[SandboxClient]:
    clock, ledger = Clock(), folder / "ledger.sqlite"
    settings = SandboxSettings(key_age_s=KEY_AGE_S, slow_s=SLOW_S)
    may_act = asyncio.Event()
    may_act.set()

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        await may_act.wait()

    async with Sandbox(ledger, clock=clock, settings=settings, sleep=sleep) as sandbox:
        gateway = open_gateway(sandbox.url, api_key="sk_test_1", timeout_s=PATIENT_S, connections=8)
        hasty = hasty_gateway(sandbox.url)
        await _until_connected(hasty)
        yield SandboxClient(sandbox, gateway, hasty, ledger, clock, may_act)
        await hasty.close()
        await gateway.close()


async def _until_connected(gateway: Gateway) -> None:
    """Wait for a kept connection: over it a request arrives, however soon its client gives up."""
    async with asyncio.timeout(DEADLINE_S):
        while not isinstance(await gateway.inquire("pi_nobody_knows"), port.NotFound):
            pass


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[SandboxClient]:
    async with open_bench(tmp_path) as opened:
        yield opened


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


# -- the catalogue


AMOUNT_MINOR = 1_250


async def careful(gateway: Gateway, gateway_id: str) -> Ending:
    """A client that never guesses: it confirms, asks while the result is unknown, and cancels before it reports "not charged"."""
    answer: port.ExecuteAnswer = await gateway.execute(gateway_id, key="execute")
    for step in range(MOST_LOOKS):
        match answer:
            case port.Captured():
                return Ending.CAPTURED if answer.amount_minor == AMOUNT_MINOR else Ending.PERSON
            case port.Cancelled():
                return Ending.NOT_CHARGED
            case port.Declined() | port.ActionRequired() | port.Unconfirmed() | port.Refused():
                declined = isinstance(answer, port.Declined | port.ActionRequired)
                ending = Ending.DECLINED if declined else Ending.NOT_CHARGED
                answer = await gateway.cancel(gateway_id, key=f"cancel {step}")
                if isinstance(answer, port.Cancelled):
                    return ending
            case port.NotSent() | port.Limited():
                answer = await gateway.execute(gateway_id, key=f"execute {step}")
            case _:
                answer = await gateway.inquire(gateway_id)
    return Ending.PERSON


@pytest.mark.parametrize("token", BEHAVIOURS)
async def test_a_careful_client_ends_where_the_catalogue_says(bench: SandboxClient, token: str) -> None:
    gateway_id = await bench.prepared(token)
    ending = await careful(bench.hasty if _stalls(BEHAVIOURS[token]) else bench.gateway, gateway_id)
    assert ending in BEHAVIOURS[token].ends
    if ending is not Ending.PERSON:
        assert bench.charges(gateway_id) == (1 if ending is Ending.CAPTURED else 0)
    assert bench.charges(gateway_id) <= 1


def _stalls(behaviour: Behaviour) -> bool:
    return any(confirm.manner is Manner.HANG or confirm.late for confirm in behaviour.confirms)


def test_the_readme_shows_the_same_catalogue() -> None:
    readme = Path(deploy.sandbox.__file__).with_name("README.md").read_text()
    for token, behaviour in BEHAVIOURS.items():
        ends = " or ".join(ending.value for ending in behaviour.ends)
        assert f"| `{token}` | {behaviour.about} | {ends} |" in readme
    for name in REFUNDS:
        assert f"| `pm_remit_{name}` |" in readme


def test_every_card_is_a_valid_number_of_a_known_behaviour() -> None:
    for number, token in CARDS.items():
        assert luhn_holds(number)
        assert behaviour_of(token)


@pytest.mark.parametrize("token", ["pm_nope", "pm_card_visa__nope", "pm_nope__refund_fails", "", "pm_remit_"])
def test_an_unknown_token_is_refused(token: str) -> None:
    assert behaviour_of(token) is None


async def test_a_saved_500_is_replayed_although_it_charged(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_charged_then_500")
    path = f"/v1/payment_intents/{gateway_id}/confirm"
    first = await bench.raw("POST", path, "k", off_session="true")
    second = await bench.raw("POST", path, "k", off_session="true")
    assert (first[0], first[2]) == (500, False)
    assert (second[0], second[2]) == (500, True)
    assert first[1] == second[1]
    assert bench.charges(gateway_id) == 1
    assert bench.rows("SELECT kind, idempotency_key, result FROM confirms") == [
        ("confirm", "k", "500 captured"),
        ("confirm", "k", "replayed 500"),
    ]


async def test_the_books_tell_people_what_was_charged(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_card_visa")

    async def books(payment: str) -> str:
        async with httpx.AsyncClient(base_url=bench.sandbox.admin_url) as people:
            return (await people.get(f"/_sandbox/books/{payment}")).text

    assert "charges: none" in await books(gateway_id)
    assert isinstance(captured := await bench.gateway.execute(gateway_id, key="k"), port.Captured)
    assert f"charge {captured.receipt_number}: {AMOUNT_MINOR}" in await books(gateway_id)
    assert "There is no such payment here." in await books("pi_nobody_knows")


async def test_a_confirm_cut_before_it_acted_may_be_repeated_with_its_key(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_reset_before_charge")
    assert isinstance(await bench.gateway.execute(gateway_id, key="k"), port.Unknown)
    assert bench.charges(gateway_id) == 0
    assert isinstance(await bench.gateway.execute(gateway_id, key="k"), port.Captured)


async def test_a_rate_limit_passes(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_rate_limited")
    answers = [await bench.gateway.execute(gateway_id, key="k") for _ in range(3)]
    assert [type(answer) for answer in answers] == [port.Limited, port.Limited, port.Captured]
    assert isinstance(answers[0], port.Limited)
    assert answers[0].retry_after_s == 1


@pytest.mark.parametrize(("token", "looks"), [("pm_remit_processing", 2), ("pm_remit_late_success", 3)])
async def test_a_late_success_comes_after_a_counted_number_of_looks(
    bench: SandboxClient, token: str, looks: int
) -> None:
    gateway_id = await bench.prepared(token)
    await bench.gateway.execute(gateway_id, key="k")
    for _ in range(looks):
        assert isinstance(await bench.gateway.inquire(gateway_id), port.Processing)
        refused = await bench.raw("POST", f"/v1/payment_intents/{gateway_id}/cancel")
        assert refused[1]["error"]["payment_intent"]["status"] == "processing"
    assert isinstance(await bench.gateway.inquire(gateway_id), port.Captured)


async def test_a_slow_confirm_charges_even_if_its_client_has_gone(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_slow")
    bench.may_act.clear()
    assert isinstance(await bench.hasty.execute(gateway_id, key="k"), port.Unknown)
    assert isinstance(await bench.gateway.inquire(gateway_id), port.Unconfirmed)
    bench.may_act.set()
    await until(lambda: bench.charges(gateway_id) == 1)


async def test_a_slow_confirm_cannot_charge_what_was_cancelled_meanwhile(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_slow")
    bench.may_act.clear()
    assert isinstance(await bench.hasty.execute(gateway_id, key="k"), port.Unknown)
    assert isinstance(await bench.gateway.cancel(gateway_id, key="c"), port.Cancelled)
    bench.may_act.set()
    late = "SELECT 1 FROM confirms WHERE kind = 'confirm' AND result = '400 nothing'"
    await until(lambda: bench.rows(late))
    assert bench.charges(gateway_id) == 0


async def test_a_person_can_settle_and_heal(bench: SandboxClient) -> None:
    forever, silent = (
        await bench.prepared("pm_remit_processing_forever"),
        await bench.prepared("pm_remit_never_answers", 2),
    )
    await bench.gateway.execute(forever, key="e1")
    await bench.hasty.execute(silent, key="e2")
    assert isinstance(await bench.hasty.refund(silent, REFUND, key="r"), port.Unknown)
    assert (await bench.raw("POST", f"/_sandbox/payments/{forever}/settle"))[1] == {"done": True}
    assert (await bench.raw("POST", f"/_sandbox/payments/{silent}/heal"))[1] == {"done": True}
    assert (await bench.raw("POST", "/_sandbox/payments/pi_none/settle"))[0] == 404
    assert isinstance(await bench.gateway.inquire(forever), port.Captured)
    assert isinstance(await bench.gateway.inquire(silent), port.Captured)
    shown = (await bench.raw("GET", "/_sandbox/ledger", payment=str(UUID(int=1))))[1]
    assert [row["id"] for row in shown["payment_intents"]] == [forever]
    assert [row["payment_intent"] for row in shown["charges"]] == [forever]
    assert "pm_remit_slow" in (await bench.raw("GET", "/_sandbox/faults"))[1]


# -- Stripe's rules (shared/README.md, "The gateway")


async def test_a_declined_payment_stays_confirmable_until_it_is_cancelled(bench: SandboxClient) -> None:
    """Stripe detaches the declined method. Yet a confirm that names one charges."""
    gateway_id = await bench.prepared("pm_card_chargeDeclined")
    path = f"/v1/payment_intents/{gateway_id}/confirm"
    status, body, _ = await bench.raw("POST", path, "k1", off_session="true")
    assert (status, body["error"]["type"], body["error"]["decline_code"]) == (402, "card_error", "generic_decline")
    assert body["error"]["payment_intent"]["status"] == "requires_payment_method"
    assert body["error"]["payment_intent"]["payment_method"] is None
    status, body, _ = await bench.raw("POST", path, "k2", off_session="true")
    assert (status, body["error"]["code"]) == (400, "payment_intent_unexpected_state")
    status, body, _ = await bench.raw("POST", path, "k3", payment_method="pm_card_visa", off_session="true")
    assert (status, body["status"], body["amount_received"]) == (200, "succeeded", 1250)


async def test_a_declined_payment_that_keeps_its_method_would_be_charged_by_a_second_confirm(
    bench: SandboxClient,
) -> None:
    gateway_id = await bench.prepared("pm_remit_declined_then_confirmable")
    assert isinstance(await bench.gateway.execute(gateway_id, key="k1"), port.Declined)
    assert isinstance(await bench.gateway.execute(gateway_id, key="k2"), port.Captured)


async def test_a_succeeded_payment_is_neither_confirmed_nor_cancelled_again(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    for deed in ("confirm", "cancel"):
        status, body, _ = await bench.raw("POST", f"/v1/payment_intents/{gateway_id}/{deed}", f"again {deed}")
        assert (status, body["error"]["code"]) == (400, "payment_intent_unexpected_state")
        assert body["error"]["payment_intent"]["status"] == "succeeded"
    assert bench.charges(gateway_id) == 1


async def test_a_key_is_replayed_and_takes_no_other_parameters(bench: SandboxClient) -> None:
    order = {"amount": 50, "currency": "eur", "payment_method": "pm_card_visa"}
    first = await bench.raw("POST", "/v1/payment_intents", "k", **order)
    again = await bench.raw("POST", "/v1/payment_intents", "k", **dict(reversed(order.items())))
    other = await bench.raw("POST", "/v1/payment_intents", "k", **order | {"amount": 60})
    elsewhere = await bench.raw("POST", "/v1/refunds", "k", payment_intent=first[1]["id"])
    assert again == (200, first[1], True)
    assert {(status, body["error"]["type"]) for status, body, _ in (other, elsewhere)} == {(400, "idempotency_error")}
    assert bench.rows("SELECT count(*), max(replays), max(mismatches) FROM idempotency_keys") == [(1, 1, 2)]


async def test_other_parameters_under_a_key_are_unknown_to_the_adapter(bench: SandboxClient) -> None:
    await bench.prepared()
    order = port.Order(UUID(int=1), "inv-1", 9999, "EUR", "pm_card_visa")
    answer = await bench.gateway.prepare(order, key="prepare 1")
    assert isinstance(answer, port.Unknown)
    assert answer.key_taken
    assert "idempotency_error" in answer.evidence


async def test_a_key_in_flight_is_a_conflict(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_slow")
    bench.may_act.clear()
    assert isinstance(await bench.hasty.execute(gateway_id, key="k"), port.Unknown)
    answer = await bench.gateway.execute(gateway_id, key="k")
    assert isinstance(answer, port.Unknown)
    assert "HTTP 409" in answer.evidence


async def test_an_expired_key_acts_again(bench: SandboxClient) -> None:
    first = await bench.prepared()
    bench.clock.now_s += KEY_AGE_S - 1
    assert await bench.prepared() == first
    bench.clock.now_s += 1
    assert await bench.prepared() != first


async def test_a_replayed_answer_may_be_outdated_so_the_adapter_asks(bench: SandboxClient) -> None:
    """Under the first confirm's key Stripe goes on answering "declined", whatever has happened since."""
    gateway_id = await bench.prepared("pm_remit_declined_then_confirmable")
    assert isinstance(await bench.gateway.execute(gateway_id, key="k1"), port.Declined)
    assert isinstance(await bench.gateway.execute(gateway_id, key="k2"), port.Captured)
    assert isinstance(await bench.gateway.execute(gateway_id, key="k1"), port.Captured)


async def test_payments_are_listed_by_time_and_page_and_not_by_metadata(bench: SandboxClient) -> None:
    async def listed(**params: Any) -> list[str]:
        _, body, _ = await bench.raw("GET", "/v1/payment_intents", **params)
        return [intent["id"] for intent in body["data"]]

    first = await bench.prepared(number=7)
    bench.clock.now_s += 10
    later = [await bench.prepared(number=number) for number in (8, 9)]
    assert await listed() == [*reversed(later), first]
    assert await listed(limit=2, starting_after=later[1]) == [later[0], first]
    assert await listed(**{"created[lte]": int(NOON)}) == [first]
    assert await listed(**{"created[gte]": int(NOON) + 1}) == [*reversed(later)]
    filtered = await bench.raw("GET", "/v1/payment_intents", **{"metadata[payment_id]": str(UUID(int=7))})
    assert (filtered[0], filtered[1]["error"]["code"]) == (400, "parameter_unknown")


async def test_keys_of_the_wrong_kind_are_turned_away(bench: SandboxClient) -> None:
    for key, status in {"wrong": 401, "rk_test_1": 403, "sk_live_1": 401}.items():
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{bench.sandbox.url}/v1/payment_intents") as answer,
        ):
            assert answer.status == status


async def test_the_parameter_that_stripe_dropped_is_refused(bench: SandboxClient) -> None:
    """https://docs.stripe.com/changelog, endive 2026-09-30."""
    intent: Json = {"amount": 5, "currency": "eur", "payment_method_types[0]": "card"}
    _, body, _ = await bench.raw("POST", "/v1/payment_intents", None, **intent)
    assert body["error"]["code"] == "payment_method_types_no_longer_supported"


# -- refunds


async def test_a_second_refund_finds_the_first(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    first = await bench.gateway.refund(gateway_id, REFUND, key="r1")
    second = await bench.gateway.refund(gateway_id, REFUND, key="r2")
    assert isinstance(first, port.Refunded)
    assert isinstance(second, port.Refunded)
    assert first.refund_id == second.refund_id
    assert bench.rows("SELECT count(*), sum(amount) FROM refunds") == [(1, 1250)]


async def test_a_failed_refund_gives_nothing_back(bench: SandboxClient) -> None:
    gateway_id = await bench.captured("pm_remit_refund_fails")
    failed = await bench.gateway.refund(gateway_id, REFUND, key="r1")
    assert isinstance(failed, port.RefundFailed)
    assert failed.code == "expired_or_canceled_card"
    assert isinstance(await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id), port.RefundFailed)


async def test_a_pending_refund_settles_after_two_looks(bench: SandboxClient) -> None:
    gateway_id = await bench.captured("pm_remit_refund_pending")
    answers = [await bench.gateway.refund(gateway_id, REFUND, key="r1")]
    answers += [await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id) for _ in range(3)]
    assert [type(answer) for answer in answers] == [port.RefundPending] * 3 + [port.Refunded]


@pytest.mark.parametrize("token", ["pm_remit_refund_then_500", "pm_remit_refund_then_timeout"])
async def test_a_refund_without_an_answer_is_found_by_asking(bench: SandboxClient, token: str) -> None:
    gateway_id = await bench.captured(token)
    assert isinstance(await bench.hasty.refund(gateway_id, REFUND, key="r1"), port.Unknown)
    assert isinstance(await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id), port.Refunded)


async def test_a_refund_is_known_by_its_own_id(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    made = await bench.gateway.refund(gateway_id, replace(REFUND, amount_minor=1), key="r1")
    assert isinstance(made, port.Refunded)
    by_hand = (await bench.raw("POST", "/v1/refunds", payment_intent=gateway_id, amount=1))[1]["id"]
    for id_ in (gateway_id, made.refund_id, by_hand):
        assert await bench.gateway.owner(id_) == port.MadeFor(UUID(int=1))
    assert isinstance(await bench.gateway.owner("re_nowhere"), port.NotFound)


async def test_a_partial_refund_by_hand_leaves_the_rest(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    assert (await bench.raw("POST", "/v1/refunds", payment_intent=gateway_id, amount=250))[0] == 200
    known = await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id)
    assert isinstance(known, port.NoRefund)
    assert known.left_minor == 1000
    too_much = await bench.gateway.refund(gateway_id, REFUND, key="r")
    assert isinstance(too_much, port.RefundFailed)
    assert (too_much.code, too_much.left_minor) == ("invalid_request_error", 1000)
    rest = replace(REFUND, amount_minor=1000)
    assert isinstance(await bench.gateway.refund(gateway_id, rest, key="r2"), port.Refunded)
    assert isinstance(await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id), port.Refunded)


async def test_refunds_are_told_apart_by_our_ids(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    parts = [port.RefundOrder(UUID(int=100 + n), UUID(int=1), 10, "EUR") for n in range(3)]
    for part in parts:
        assert isinstance(await bench.gateway.refund(gateway_id, part, key=str(part.refund_id)), port.Refunded)
    found = [await bench.gateway.inquire_refund(gateway_id, part.refund_id) for part in parts]
    assert len({answer.refund_id for answer in found if isinstance(answer, port.Refunded)}) == 3
    other = await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id)
    assert isinstance(other, port.NoRefund)
    assert other.left_minor == 1220


async def test_ours_is_found_on_the_second_page_of_refunds(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    first = replace(REFUND, amount_minor=100)
    assert isinstance(await bench.gateway.refund(gateway_id, first, key="r"), port.Refunded)
    for _ in range(PAGE_SIZE):
        assert (await bench.raw("POST", "/v1/refunds", payment_intent=gateway_id, amount=1))[0] == 200
    assert isinstance(await bench.gateway.inquire_refund(gateway_id, first.refund_id), port.Refunded)


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": 1251}, None, "amount"),
        ({"amount": 0}, "parameter_invalid_integer", "amount"),
        ({"amount": "all"}, "parameter_invalid_integer", "amount"),
        ({"reason": "bored"}, None, "reason"),
        ({"metadata[m]": "x" * 501}, None, "metadata"),
        ({"refund_application_fee": "true"}, "parameter_unknown", "refund_application_fee"),
    ],
)
async def test_a_refund_that_breaks_a_rule_is_refused(
    bench: SandboxClient, params: Json, code: str | None, param: str
) -> None:
    gateway_id = await bench.captured()
    status, body, _ = await bench.raw("POST", "/v1/refunds", payment_intent=gateway_id, **params)
    assert (status, body["error"].get("code"), body["error"]["param"]) == (400, code, param)


async def test_what_was_given_back_cannot_be_given_back_again(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    assert isinstance(await bench.gateway.refund(gateway_id, REFUND, key="r1"), port.Refunded)
    _, body, _ = await bench.raw("POST", "/v1/refunds", payment_intent=gateway_id)
    assert body["error"]["code"] == "charge_already_refunded"


async def test_a_refund_of_a_part_tells_what_is_left_of_the_charge(bench: SandboxClient) -> None:
    gateway_id = await bench.captured()
    part = replace(REFUND, amount_minor=20)
    await bench.gateway.refund(gateway_id, part, key="r1")
    some = await bench.gateway.inquire_refund(gateway_id, part.refund_id)
    await bench.raw("POST", "/v1/refunds", payment_intent=gateway_id)
    everything = await bench.gateway.inquire_refund(gateway_id, part.refund_id)
    assert isinstance(some, port.Refunded)
    assert isinstance(everything, port.Refunded)
    assert some.charge is not None
    assert (some.charge.gone_minor, everything.charge) == (20, None)


async def test_a_saved_500_that_made_nothing_is_replayed_until_the_key_changes(bench: SandboxClient) -> None:
    gateway_id = await bench.captured("pm_remit_refund_500_unmade")
    first = await bench.gateway.refund(gateway_id, REFUND, key="r1")
    again = await bench.gateway.refund(gateway_id, REFUND, key="r1")
    assert isinstance(first, port.Unknown)
    assert isinstance(again, port.Unknown)
    assert (first.key_spent, again.key_spent) == (False, True)
    assert isinstance(await bench.gateway.inquire_refund(gateway_id, REFUND.refund_id), port.NoRefund)
    assert isinstance(await bench.gateway.refund(gateway_id, REFUND, key="r2"), port.Refunded)


async def test_lack_of_balance_is_a_refusal_that_is_saved(bench: SandboxClient) -> None:
    gateway_id = await bench.captured("pm_remit_refund_low_balance")
    keys = ("r1", "r1", "r2", "r3")
    answers = [await bench.gateway.refund(gateway_id, REFUND, key=key) for key in keys]
    assert [getattr(answer, "code", "refunded") for answer in answers] == [
        *["insufficient_balance_for_refund"] * 3,
        "refunded",
    ]


async def test_lack_of_balance_may_also_leave_a_refund_pending(bench: SandboxClient) -> None:
    told = await bench.gateway.refund(await bench.captured("pm_remit_refund_pending_balance"), REFUND, key="r")
    assert isinstance(told, port.RefundPending)
    assert told.evidence.endswith("insufficient_funds")


async def test_behaviours_combine(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared("pm_remit_charged_then_500__refund_fails")
    assert await careful(bench.gateway, gateway_id) is Ending.CAPTURED
    assert isinstance(await bench.gateway.refund(gateway_id, REFUND, key="r"), port.RefundFailed)


# -- the whole gateway away


@pytest.mark.parametrize("mode", ["down_500", "silent"])
async def test_a_gateway_that_is_down_acts_on_nothing(bench: SandboxClient, mode: str) -> None:
    gateway_id = await bench.prepared()
    await bench.mode(mode)
    assert isinstance(await bench.hasty.execute(gateway_id, key="e1"), port.Unknown)
    await bench.mode("normal")
    assert isinstance(await bench.gateway.inquire(gateway_id), port.Unconfirmed)
    assert bench.rows("SELECT result FROM confirms") == [(mode,)]


async def test_a_gateway_that_refuses_connections_was_sent_nothing_and_comes_back(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared()
    await bench.mode("refuse")
    async with asyncio.timeout(DEADLINE_S):  # a kept connection is cut a moment after the mode is set
        while not isinstance(await bench.gateway.inquire(gateway_id), port.NotSent):
            pass
    assert isinstance(await bench.gateway.execute(gateway_id, key="e1"), port.NotSent)
    await bench.mode("normal")
    assert isinstance(await bench.gateway.execute(gateway_id, key="e1"), port.Captured)


async def test_a_slow_gateway_acts_late(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared()
    await bench.mode("slow", delay_ms=SLOW_S * 1000)
    assert isinstance(await bench.hasty.execute(gateway_id, key="e1"), port.Unknown)
    await until(lambda: bench.charges(gateway_id) == 1)


async def test_an_unknown_mode_is_an_error(bench: SandboxClient) -> None:
    status, body, _ = await bench.raw("POST", "/_sandbox/mode", mode="nope")
    assert status == 400
    assert "down_500" in body["error"]


# -- cards


@pytest.mark.parametrize(
    ("number", "code"),
    [
        ("4242424242424241", "incorrect_number"),
        ("4111111111111111", "test_mode_live_card"),
        ("424242424242424a", "incorrect_number"),
        ("", "incorrect_number"),
    ],
)
async def test_a_card_that_is_no_test_card_is_refused(bench: SandboxClient, number: str, code: str) -> None:
    answer = await bench.gateway.tokenise(port.Card(number, 12, 2030), key="t")
    assert isinstance(answer, port.Refused)
    assert answer.code == code


async def test_a_card_behaves_like_its_token(bench: SandboxClient) -> None:
    answer = await bench.gateway.tokenise(port.Card("4000000000009995", 12, 2030), key="t")
    assert isinstance(answer, port.Tokenised)
    again = await bench.gateway.tokenise(port.Card("4000000000009995", 12, 2030), key="t")
    assert isinstance(again, port.Tokenised)
    assert again.method_token == answer.method_token
    gateway_id = await bench.prepared(answer.method_token)
    declined = await bench.gateway.execute(gateway_id, key="e")
    assert isinstance(declined, port.Declined)
    assert declined.code == "insufficient_funds"
    _, card, _ = await bench.raw("GET", f"/v1/payment_methods/{answer.method_token}")
    assert (card["card"]["brand"], card["card"]["last4"]) == ("visa", "9995")


def test_no_card_number_reaches_the_ledger_or_a_log(tmp_path: Path) -> None:
    """A number can arrive in several ways: as a card, a bad card, a token, an id in the path, the name of a parameter."""
    number, log = "4242424242424242", tmp_path / "sandbox.log"
    plant: dict[str, Any] = {"type": "card", "card[exp_month]": 12, "card[exp_year]": 2030}

    async def send(url: str) -> str:
        headers = {"Authorization": "Bearer sk_test_1"}
        async with aiohttp.ClientSession(url, headers=headers) as session:
            texts = []
            for path, data in {
                "/v1/payment_methods": plant | {"card[number]": number},
                f"/v1/payment_methods?{number}": plant | {"card[number]": number, "card[exp_month]": number},
                "/v1/payment_intents": {"amount": 5, "currency": "eur", "payment_method": number},
                f"/v1/payment_intents/{number}x/confirm": {},
                "/v1/refunds": {"payment_intent": number, number: "1"},
            }.items():
                async with session.post(path, data=data, headers={"Idempotency-Key": path[:24]}) as answer:
                    texts.append(await answer.text())
            return "".join(texts)

    with start_sandbox(tmp_path / "ledger.sqlite", log=log) as sandbox:
        told = asyncio.run(send(sandbox.url))
        kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"pm_card_visa" in kept  # the card did arrive, so the search proves something
    assert b"sandbox gateway on" in kept
    assert b"4242" in kept
    assert number not in told
    assert number.encode() not in kept


# -- the process


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Any]:
    with start_sandbox(tmp_path / "ledger.sqlite", slow_ms=50, log=tmp_path / "sandbox.log") as sandbox:
        yield sandbox


async def test_answered_requests_survive_a_kill(durable: Any) -> None:
    """Payments are under way when it dies. Every capture that was answered is in the ledger, at the same address."""
    url = durable.url
    gateway = open_gateway(url, api_key="sk_test_1", timeout_s=5, connections=32)
    told: list[str] = []

    async def pay(number: int) -> None:
        order = port.Order(UUID(int=number), "inv", 100, "EUR", "pm_card_visa")
        prepared = await gateway.prepare(order, key=f"p{number}")
        if isinstance(prepared, port.Prepared):
            answer = await gateway.execute(prepared.gateway_id, key=f"e{number}")
            if isinstance(answer, port.Captured):
                told.append(prepared.gateway_id)

    payments = [asyncio.create_task(pay(number)) for number in range(300)]
    await until(lambda: len(told) >= 20)
    durable.kill()
    await asyncio.gather(*payments)
    assert len(told) < 300
    durable.start()
    assert durable.url == url
    with closing(sqlite3.connect(durable.ledger)) as reader:
        charged = {row[0] for row in reader.execute("SELECT payment_intent FROM charges")}
        twice = reader.execute("SELECT 1 FROM charges GROUP BY payment_intent HAVING count(*) > 1").fetchall()
    assert set(told) <= charged
    assert twice == []
    again = await gateway.inquire(told[0])
    assert isinstance(again, port.Captured)
    await gateway.close()


async def test_sigterm_ends_hanging_requests_and_keeps_the_ledger(durable: Any) -> None:
    gateway = open_gateway(durable.url, api_key="sk_test_1", timeout_s=DEADLINE_S, connections=4)
    order = port.Order(UUID(int=1), "inv", 100, "EUR", "pm_remit_charged_then_timeout")
    prepared = await gateway.prepare(order, key="p")
    assert isinstance(prepared, port.Prepared)
    hanging = asyncio.create_task(gateway.execute(prepared.gateway_id, key="e"))
    async with asyncio.timeout(DEADLINE_S):
        while not isinstance(await gateway.inquire(prepared.gateway_id), port.Captured):
            pass
    await asyncio.to_thread(durable.restart)
    assert isinstance(await hanging, port.Unknown)
    assert isinstance(await gateway.inquire(prepared.gateway_id), port.Captured)
    await gateway.close()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deploy.sandbox", "--until-stdin-closes", "--ledger", str(tmp_path / "l.sqlite")]
    ports = tmp_path / "ports"
    child = subprocess.Popen([*command, "--port-file", str(ports)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin
    child.stdin.close()
    assert child.wait(DEADLINE_S) == 0


def test_no_id_looks_like_a_card_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger would mask such an id, and a later confirm would name a payment that does not exist."""
    drawn = iter(["168129cc" + "4242424242424242", "a" * 24])
    monkeypatch.setattr("secrets.token_hex", lambda _: next(drawn))
    assert bank.new_id("pi") == f"pi_{'a' * 24}"


# -- as strict as Stripe (deploy/sandbox/rules.py)

ORDER: Json = {"amount": 1250, "currency": "eur", "payment_method": "pm_card_visa"}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"amount": 49}, "amount_too_small", "amount"),
        ({"amount": 100_000_000}, "amount_too_large", "amount"),
        ({"amount": 0}, "parameter_invalid_integer", "amount"),
        ({"amount": 1_255, "currency": "kwd"}, "parameter_invalid_integer", "amount"),
        ({"amount": 150, "currency": "isk"}, "parameter_invalid_integer", "amount"),
        ({"currency": "bgn"}, None, "currency"),
        ({"currency": "euro"}, None, "currency"),
        ({"off_session": "true"}, None, "off_session"),
        ({"mandate": "mandate_1"}, None, "mandate"),
        ({"return_url": "https://shop.example"}, None, "return_url"),
        ({"statement_descriptor": "ACME"}, None, "statement_descriptor"),
        ({"statement_descriptor_suffix": "12345"}, None, "statement_descriptor_suffix"),
        ({"statement_descriptor_suffix": "A" * 23}, None, "statement_descriptor_suffix"),
        ({"metadata[x]": "y" * 501}, None, "metadata"),
        ({"customer": "cus_nobody"}, "resource_missing", "customer"),
        ({"payment_method": "pm_nobody"}, "resource_missing", "payment_method"),
        ({"payment_method_types[0]": "card"}, "payment_method_types_no_longer_supported", None),
        (
            {"allowed_payment_method_types[0]": "card", "excluded_payment_method_types[0]": "link"},
            None,
            "allowed_payment_method_types",
        ),
        ({"colour": "red"}, "parameter_unknown", "colour"),
    ],
)
async def test_a_new_payment_that_stripe_refuses_is_refused(
    bench: SandboxClient, change: Json, code: str | None, param: str | None
) -> None:
    status, body, _ = await bench.raw("POST", "/v1/payment_intents", **ORDER | change)
    assert (status, body["error"].get("code"), body["error"].get("param")) == (400, code, param)


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({}, 400),
        ({"off_session": "false"}, 400),
        ({"off_session": "true"}, 200),
        ({"return_url": "https://shop.example"}, 200),
        ({"off_session": "true", "mandate": "mandate_1"}, 200),
        ({"off_session": "true", "setup_future_usage": "off_session"}, 400),
        ({"off_session": "true", "error_on_requires_action": "true"}, 400),
    ],
)
async def test_a_confirm_says_where_the_customer_is(bench: SandboxClient, params: Json, status: int) -> None:
    gateway_id = await bench.prepared()
    found, body, _ = await bench.raw("POST", f"/v1/payment_intents/{gateway_id}/confirm", **params)
    assert found == status, body
    assert bench.charges(gateway_id) == (status == 200)


async def test_a_lenient_gateway_takes_the_confirms_of_earlier_builds(bench: SandboxClient) -> None:
    gateway_id = await bench.prepared()
    path = f"/v1/payment_intents/{gateway_id}/confirm"
    await bench.mode("lenient")
    assert (await bench.raw("POST", path))[0] == 200
    await bench.mode("normal")
    assert (await bench.raw("POST", f"/v1/payment_intents/{await bench.prepared(number=2)}/confirm"))[0] == 400


async def test_a_method_without_a_customer_is_used_once(bench: SandboxClient) -> None:
    answer = await bench.gateway.tokenise(port.Card("4242424242424242", 12, 2030), key="t")
    assert isinstance(answer, port.Tokenised)
    await bench.captured(answer.method_token)
    order = port.Order(UUID(int=2), "inv-2", 1250, "EUR", answer.method_token)
    refused = await bench.gateway.prepare(order, key="another")
    assert isinstance(refused, port.Refused)
    assert refused.code == "payment_method_used_before"


async def test_a_method_used_by_a_confirm_cannot_be_confirmed_for_another_payment(bench: SandboxClient) -> None:
    answer = await bench.gateway.tokenise(port.Card("4242424242424242", 12, 2030), key="t")
    assert isinstance(answer, port.Tokenised)
    first, second = await bench.prepared(answer.method_token, 1), await bench.prepared(answer.method_token, 2)
    assert isinstance(await bench.gateway.execute(first, key="e1"), port.Captured)
    assert isinstance(await bench.gateway.execute(second, key="e2"), port.Refused)
    assert (bench.charges(first), bench.charges(second)) == (1, 0)


@pytest.mark.parametrize(
    ("key", "request_", "status"),
    [
        ("sk_test_1", ("POST", "/v1/refunds"), 400),
        ("rk_test_intents", ("GET", "/v1/payment_intents"), 200),
        ("rk_test_intents", ("POST", "/v1/payment_intents"), 400),
        ("rk_test_readintents", ("GET", "/v1/payment_intents"), 200),
        ("rk_test_readintents", ("POST", "/v1/payment_intents"), 403),
        ("rk_test_intents", ("POST", "/v1/refunds"), 403),
        ("rk_test_intents_refunds", ("POST", "/v1/refunds"), 400),
        ("rk_test_refunds", ("POST", "/v1/payment_methods"), 403),
        ("pk_test_1", ("GET", "/v1/payment_intents"), 401),
        ("sk_live_1", ("GET", "/v1/payment_intents"), 401),
        ("whsec_1", ("GET", "/v1/payment_intents"), 401),
        ("", ("GET", "/v1/payment_intents"), 401),
    ],
)
async def test_a_key_may_do_what_it_says(
    bench: SandboxClient, key: str, request_: tuple[str, str], status: int
) -> None:
    method, path = request_
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, bench.sandbox.url + path) as answer,
    ):
        assert answer.status == status, await answer.text()


@pytest.mark.parametrize(
    ("key", "takes_cards", "usable"),
    [
        ("rk_test_intents_refunds", False, True),
        ("rk_test_intents_refunds", True, False),
        ("rk_test_intents_refunds_methods", True, True),
        ("rk_test_intents_readrefunds", False, False),
        ("rk_test_readintents_refunds", False, False),
    ],
)
async def test_the_permissions_of_the_readme_are_needed_and_suffice(
    bench: SandboxClient, key: str, takes_cards: bool, usable: bool
) -> None:
    gateway = open_gateway(bench.sandbox.url, api_key=key, timeout_s=PATIENT_S, connections=1, takes_cards=takes_cards)
    found = await gateway.check()
    assert isinstance(found, port.Usable if usable else port.Misconfigured)
    if usable:
        prepared = await gateway.prepare(port.Order(UUID(int=1), "inv-1", 1250, "EUR", "pm_card_visa"), key="p")
        assert isinstance(prepared, port.Prepared)
        assert isinstance(await gateway.execute(prepared.gateway_id, key="e"), port.Captured)
        assert isinstance(await gateway.refund(prepared.gateway_id, REFUND, key="r"), port.Refunded)
    await gateway.close()
    assert bench.rows("SELECT count(*) FROM payment_intents") == [(int(usable),)], "a check creates nothing"


@pytest.mark.parametrize(
    ("key", "may_read"), [("sk_test_1", True), ("rk_test_intents_readdisputes", True), ("rk_test_intents", False)]
)
async def test_a_disputed_charge_tells_how_its_dispute_stands(bench: SandboxClient, key: str, may_read: bool) -> None:
    """Without the permission to read disputes, it is known that there is one, and no more."""
    gateway = open_gateway(bench.sandbox.url, api_key=key, timeout_s=PATIENT_S, connections=1)
    gateway_id = await bench.prepared("pm_card_visa")
    assert isinstance(await gateway.execute(gateway_id, key="e"), port.Captured)
    told = []
    for deed in (None, Deed.WARN, Deed.WIN_DISPUTE, Deed.DISPUTE, Deed.WIN_DISPUTE, Deed.LOSE_DISPUTE):
        if deed:
            await bench.do(deed, gateway_id)
        known = await gateway.inquire(gateway_id)
        assert isinstance(known, port.Captured)
        told.append((known.dispute.status if known.dispute else None, known.is_contested, known.gone_minor))
    await gateway.close()
    unread = [(None, False, 0), *[(None, True, 0)] * 5]
    assert told == (
        [
            (None, False, 0),
            ("warning_needs_response", True, 0),
            ("warning_closed", False, 0),
            ("needs_response", True, 0),
            ("won", False, 0),
            ("lost", False, 1_250),
        ]
        if may_read
        else unread
    )
