"""Reading the gateway's replies: the meaning of each JSON, and no JSON breaks the reader."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.payment_gateway.gateways import port
from services.payment_gateway.gateways import stripe_answers as answers
from services.payment_gateway.gateways.choose import Mode, open_gateway
from services.payment_gateway.gateways.evidence import EVIDENCE_CHARS_MAX, evidence, without_token
from services.payment_gateway.gateways.memory import MemoryGateway
from services.payment_gateway.gateways.stripe_amounts import from_stripe, to_stripe
from shared.records import replace

ID = "pi_1"
ORDER = port.Order(UUID(int=1), "inv-1", 1250, "EUR", "pm_card_visa")
CARD_NUMBER = "4242424242424242"

SUCCEEDED = {
    "id": ID,
    "object": "payment_intent",
    "status": "succeeded",
    "amount": 1250,
    "amount_received": 1250,
    "currency": "eur",
    "latest_charge": "ch_1",
}
DECLINED = {"code": "card_declined", "decline_code": "insufficient_funds"}


@pytest.mark.parametrize(
    ("intent", "meaning"),
    [
        (SUCCEEDED, port.Captured(ID, 1250, "EUR", "ch_1", "seen")),
        (SUCCEEDED | {"latest_charge": {"id": "ch_1"}}, port.Captured(ID, 1250, "EUR", "ch_1", "seen")),
        (SUCCEEDED | {"latest_charge": None}, port.Captured(ID, 1250, "EUR", ID, "seen")),
        ({"id": ID, "status": "requires_confirmation"}, port.Unconfirmed("seen")),
        ({"id": ID, "status": "requires_payment_method"}, port.Unconfirmed("seen")),
        (
            {"id": ID, "status": "requires_payment_method", "last_payment_error": DECLINED},
            port.Declined("insufficient_funds", "seen insufficient_funds"),
        ),
        (
            {
                "id": ID,
                "status": "requires_payment_method",
                "last_payment_error": DECLINED | {"advice_code": "try_again_later"},
            },
            port.Declined("insufficient_funds", "seen insufficient_funds", "try_again_later"),
        ),
        (
            {"id": ID, "status": "requires_payment_method", "last_payment_error": {}},
            port.Declined("card_declined", "seen card_declined"),
        ),
        (  # the gateway failed, and no bank said no
            {"id": ID, "status": "requires_payment_method", "last_payment_error": {"type": "api_error"}},
            port.Declined("api_error", "seen api_error"),
        ),
        ({"id": ID, "status": "requires_action"}, port.ActionRequired("seen")),
        ({"id": ID, "status": "processing"}, port.Processing("seen")),
        ({"id": ID, "status": "canceled"}, port.Cancelled("seen")),
    ],
)
def test_the_state_of_a_payment_has_one_meaning(intent: dict[str, Any], meaning: port.ChargeAnswer) -> None:
    assert answers.read_charge(intent, ID, "seen") == meaning


@pytest.mark.parametrize(
    "change",
    [
        {"id": "pi_another"},
        {"status": None},
        {"status": "requires_capture"},
        {"status": "a status of the year 2040"},
        {"amount_received": None},
        {"amount_received": "1250"},
        {"amount_received": True},
        {"amount_received": 0},
        {"amount_received": 12.5},
        {"currency": None},
        {"currency": 978},
        {"currency": "euro"},
    ],
)
def test_an_unreadable_reply_is_unknown(change: dict[str, Any]) -> None:
    assert isinstance(answers.read_charge(SUCCEEDED | change, ID, "seen"), port.Unknown)


@pytest.mark.parametrize(
    "answer", [{"id": "pi_9", "amount": 1251, "currency": "eur"}, {"id": "pi_9", "amount": 1250, "currency": "usd"}, {}]
)
def test_another_payment_is_not_taken_for_the_one_prepared(answer: dict[str, Any]) -> None:
    assert isinstance(answers.read_prepared(answers.Accepted(answer, False, ""), ORDER), port.Unknown)


REFUND_ID, OTHER_ID = UUID(int=71), UUID(int=72)
CHARGE = port.Captured("pi_1", 1250, "EUR", "ch_1", "seen")


def _refund(status: str, amount: int = 1250, *, of: UUID | None = REFUND_ID, **more: Any) -> dict[str, Any]:
    metadata = {"metadata": {"refund_id": str(of)}} if of else {}
    return {"id": f"re_{status}", "status": status, "amount": amount} | metadata | more


@pytest.mark.parametrize(
    ("refunds", "meaning"),
    [
        ([], port.NoRefund("seen 0 refunds, 0 of 1250 given back", 1250, REFUND_ID)),
        ([_refund("succeeded")], port.Refunded("re_succeeded", "seen 1 refunds, 1250 of 1250 given back", 1250)),
        (
            [_refund("pending", pending_reason="insufficient_funds"), _refund("failed")],
            port.RefundPending("re_pending", "seen 2 refunds, 1250 of 1250 given back insufficient_funds"),
        ),
        (
            [_refund("requires_action")],
            port.RefundPending(
                "re_requires_action", "seen 1 refunds, 1250 of 1250 given back the customer has to act on the refund"
            ),
        ),
        (
            [_refund("failed", failure_reason="declined"), _refund("succeeded", 250, of=OTHER_ID)],
            port.RefundFailed("declined", "seen 2 refunds, 250 of 1250 given back", "re_failed", 1000, REFUND_ID),
        ),
        (
            [_refund("failed"), _refund("succeeded")],
            port.Refunded("re_succeeded", "seen 2 refunds, 1250 of 1250 given back", 1250),
        ),
        (
            [_refund("succeeded", 250, of=OTHER_ID), _refund("succeeded", 300, of=None)],
            port.NoRefund("seen 2 refunds, 550 of 1250 given back", 700, REFUND_ID),
        ),
        (
            [_refund("pending", of=None)],
            port.RefundPending(
                "re_pending",
                "seen 1 refunds, 1250 of 1250 given back another refund is under way, and nothing would be left",
            ),
        ),
        ([_refund("succeeded", of=None)], port.NoRefund("seen 1 refunds, 1250 of 1250 given back", 0, REFUND_ID)),
        ([_refund("succeeded") | {"amount": "1250"}], port.Unknown("seen a refund without a readable amount")),
        (
            [_refund("strange")],
            port.Unknown("seen 1 refunds, 1250 of 1250 given back unexpected refund status strange"),
        ),
    ],
)
def test_the_list_of_refunds_tells_of_ours_and_of_what_is_left(
    refunds: list[answers.Json], meaning: port.RefundAnswer
) -> None:
    answer = answers.read_refunds(refunds, CHARGE, REFUND_ID)
    if isinstance(answer, port.NoRefund | port.RefundFailed):
        answer = replace(answer, standing=None)
    assert answer == meaning


def test_a_refund_of_another_amount_is_not_ours() -> None:
    assert answers.read_refund(_refund("succeeded"), 1250, "EUR", "seen") == port.Refunded("re_succeeded", "seen", 1250)
    assert isinstance(answers.read_refund(_refund("succeeded"), 250, "EUR", "seen"), port.Unknown)


def _named(**texts: str) -> dict[str, Any]:
    return _refund(
        "succeeded", 250, of=None, metadata={"refund_id": str(OTHER_ID), "payment_id": str(PAYMENT_ID)} | texts
    )


PAYMENT_ID = UUID(int=1)
NAMED = port.StandingRefund("re_succeeded", 250, PAYMENT_ID, OTHER_ID)


@pytest.mark.parametrize(
    ("refund", "read"),
    [
        (_named(), NAMED),
        (_named(refund_id=str(OTHER_ID).upper()), NAMED),
        (_named() | {"status": "pending"}, replace(NAMED, is_pending=True)),
        (_named(payment_id=str(UUID(int=9))), replace(NAMED, payment_id=UUID(int=9))),
        (_named(refund_id="see ticket 4711"), replace(NAMED, refund_id=None)),
        (_named(refund_id=""), replace(NAMED, refund_id=None)),
        (_named(payment_id="INV-1"), replace(NAMED, payment_id=None)),
        (_named() | {"metadata": {"refund_id": 72, "payment_id": None}}, port.StandingRefund("re_succeeded", 250)),
        (_named() | {"metadata": "both"}, port.StandingRefund("re_succeeded", 250)),
        (_named() | {"status": "failed"}, None),
        (_named() | {"status": "strange"}, None),
        (_named() | {"amount": "250"}, None),
        (_named() | {"id": "re_4242424242424242"}, None),
    ],
)
def test_a_refund_names_ours_only_in_texts_that_read_as_ids(
    refund: answers.Json, read: port.StandingRefund | None
) -> None:
    assert answers.standing_refunds([refund], "EUR") == ((read,) if read else ())


def test_refunds_that_stand_are_told_oldest_first_beside_what_is_left() -> None:
    both: list[answers.Json] = [_named(refund_id=str(UUID(int=73))), _named()]
    told = answers.read_refunds(both, CHARGE, REFUND_ID)
    assert isinstance(told, port.NoRefund)
    assert [one.refund_id for one in told.standing or ()] == [OTHER_ID, UUID(int=73)]
    failed = answers.read_refunds([_refund("failed"), *both], CHARGE, REFUND_ID)
    assert isinstance(failed, port.RefundFailed)
    assert failed.standing == told.standing


@pytest.mark.parametrize(
    ("amount", "currency", "amount_minor"), [(1250, "EUR", 1250), (125000, "ISK", 1250), (12, "MGA", 1200)]
)
def test_the_amount_of_a_refund_is_told_in_minor_units(amount: int, currency: str, amount_minor: int) -> None:
    assert answers.standing_refunds([_named() | {"amount": amount}], currency)[0].amount_minor == amount_minor


def test_a_saved_failure_has_spent_its_key() -> None:
    error = {"error": {"type": "api_error", "message": "oops"}}
    fresh, replayed = (
        answers.read_error(500, error, {}),
        answers.read_error(500, error, {"Idempotent-Replayed": "true"}),
    )
    assert isinstance(fresh, port.Unknown)
    assert isinstance(replayed, port.Unknown)
    assert (fresh.key_spent, replayed.key_spent) == (False, True)


def test_a_key_that_another_request_has_taken_is_known() -> None:
    error = {"error": {"type": "idempotency_error", "message": "Keys can only be used with the same parameters"}}
    taken, in_use = answers.read_error(400, error, {}), answers.read_error(409, error, {})
    assert isinstance(taken, port.Unknown)
    assert isinstance(in_use, port.Unknown)
    assert (taken.key_taken, in_use.key_taken) == (True, False)


def test_a_refusal_without_a_code_is_known_by_its_message_code() -> None:
    """So Stripe refuses a refund for lack of balance."""
    error = {"type": "invalid_request_error", "message": "-", "message_code": "insufficient_balance_for_refund"}
    refused = answers.read_error(400, {"error": error}, {})
    assert isinstance(refused, answers.Rejected)
    assert refused.code == "insufficient_balance_for_refund"


TEXT = st.text("ai_\x00é\ud800", max_size=8)  # a small alphabet, so that hypothesis builds no table of all of Unicode
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
INTENTS = st.dictionaries(
    st.sampled_from([*SUCCEEDED, "last_payment_error"]), JSON | st.sampled_from(list(SUCCEEDED.values()))
)


@given(INTENTS)
def test_no_payment_breaks_the_reader_and_nothing_strange_is_a_capture(intent: dict[str, Any]) -> None:
    answer = answers.read_charge(intent, ID, "")
    if isinstance(answer, port.Captured):
        assert intent["status"] == "succeeded"
        assert intent["id"] == ID


HTTP_DATE = st.lists(
    st.sampled_from(["Tue,", "01", "99", "Dec", "2026", "99999", "14:00:30", "::", "+9999999", "GMT", "-0000", ""]),
    max_size=7,
).map(" ".join)


@given(st.integers(300, 599), JSON | st.fixed_dictionaries({"error": JSON}), st.text() | HTTP_DATE, HTTP_DATE)
def test_no_error_breaks_the_reader(status: int, body: object, wait: str, date: str) -> None:
    answer = answers.read_error(status, body, {"Retry-After": wait, "Date": date})
    if status >= 500 or status == 409:
        assert isinstance(answer, port.Unknown)


NOW = "Tue, 01 Dec 2026 14:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Tue, 01 Dec 2026 14:00:30 GMT", "Date": NOW}, 30.0),
        ({"Retry-After": "Tuesday, 01-Dec-26 14:00:30 GMT", "Date": NOW}, 30.0),
        ({"Retry-After": "Wed, 01 Dec 2027 14:00:00 GMT", "Date": NOW}, port.RETRY_AFTER_MAX_S),
        ({"Retry-After": "Tue, 01 Dec 2026 13:59:00 GMT", "Date": NOW}, None),
        ({"Retry-After": "Tue, 01 Dec 2026 14:00:30 GMT"}, None),
        ({"Retry-After": "Tue, 01 Dec 2026 14:00:30", "Date": NOW}, None),
        ({"Retry-After": "Tue, 99 Dec 2026 14:00:30 GMT", "Date": NOW}, None),
        ({"Retry-After": "soon", "Date": NOW}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "inf"}, None),
        ({}, None),
    ],
)
def test_the_wait_that_is_asked_for_may_be_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    answer = answers.read_error(429, {"error": {"type": "rate_limit_error"}}, headers)
    assert isinstance(answer, port.Limited)
    assert answer.retry_after_s == seconds


def test_a_refusal_keeps_what_the_gateway_said() -> None:
    error = {
        "type": "invalid_request_error",
        "code": "parameter_invalid",
        "param": "mandate",
        "advice_code": "do_not_try_again",
        "message": "The mandate has expired.",
    }
    answer = answers.read_error(400, {"error": error}, {"Request-Id": "req_1"})
    words = "HTTP 400 req_1 parameter_invalid advice do_not_try_again param mandate The mandate has expired."
    assert answer == answers.Rejected(400, "parameter_invalid", None, False, words, "do_not_try_again")


@pytest.mark.parametrize(
    ("livemode", "told", "fits"),
    [
        (False, {"livemode": False}, True),
        (True, {"livemode": True}, True),
        (False, {}, True),
        (True, {}, True),
        (False, {"livemode": True}, False),
        (True, {"livemode": False}, False),
    ],
)
def test_an_answer_of_the_other_mode_is_noticed(livemode: bool, told: dict[str, Any], fits: bool) -> None:
    assert (answers.read_mode(told, livemode=livemode, words="") is None) is fits


@given(st.sampled_from(["EUR", "JPY", "ISK", "UGX", "MGA", "BHD"]), st.integers(1, 10**9))
def test_an_amount_survives_the_way_to_stripe_and_back(currency: str, amount_minor: int) -> None:
    amount = to_stripe(amount_minor, currency)
    if amount is None:
        assert (currency, amount_minor % 100 != 0) == ("MGA", True)
    else:
        assert from_stripe(amount, currency) == amount_minor


def test_no_payment_is_charged_under_an_id_that_looks_like_a_card_number() -> None:
    """Its readers would refuse the message, and the payment could never end."""
    answer = {"id": f"pi_{CARD_NUMBER}", "amount": 1250, "currency": "eur"}
    assert isinstance(answers.read_prepared(answers.Accepted(answer, False, ""), ORDER), port.Unknown)
    assert isinstance(answers.read_prepared(answers.Accepted(answer | {"id": "pi_1"}, False, ""), ORDER), port.Prepared)


def test_evidence_is_short_and_carries_no_secret() -> None:
    spaced = "4242 4242 4242 4242"
    words = evidence("No such token", CARD_NUMBER, spaced, "sk_live_abc123 rk_test_x1", "a\x00b\nc\ud800", "x" * 1000)
    assert len(words) <= EVIDENCE_CHARS_MAX
    assert CARD_NUMBER not in words
    assert spaced not in words
    assert "abc123" not in words
    assert words.startswith("No such token [card number] [card number] sk_live_**** rk_test_**** a b c")
    words.encode()


def test_evidence_hides_a_card_number_after_another_number() -> None:
    """Nineteen digits together are no card number, but the last sixteen of them may be one, and must not be missed."""
    assert evidence("HTTP 402", CARD_NUMBER) == "HTTP 402 [card number]"


TOKEN = "pm_" + "1aB" * 84


@pytest.mark.parametrize("text", [f"No such token: '{TOKEN}'", f"{'x' * 268} No such token: '{TOKEN}'", TOKEN])
def test_no_evidence_carries_a_token_nor_its_beginning(text: str) -> None:
    shown = without_token(evidence("HTTP 400", text), TOKEN)
    assert "****" in shown
    assert TOKEN[:4] not in shown


def test_what_is_no_token_stays_at_a_cut() -> None:
    cut = evidence("x" * 400)
    assert [without_token(cut, token) for token in (TOKEN, "xx", None)] == [
        cut,
        f"{cut[:-1].replace('xx', '****')}…",
        cut,
    ]


def test_evidence_keeps_ids() -> None:
    assert evidence("pi_3MtwBwLkdIwHu7ix28a3tqPa", "1234567890123456") == "pi_3MtwBwLkdIwHu7ix28a3tqPa 1234567890123456"


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://x", "begins with"),
        ("api.stripe.com", "begins with"),
        ("memory://", "charges nobody"),
        ("https://api.stripe.com", "needs an API key"),
    ],
)
def test_a_wrong_gateway_url_is_one_sentence(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_gateway(url, api_key="", timeout_s=1, connections=1)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("memory://?latency_ms=soon", "number of milliseconds"),
        ("memory://?latency_ms=-1", "number of milliseconds"),
        ("https://api.stripe.com", "for memory:// only"),
    ],
)
def test_a_wrong_url_of_a_benchmark_is_one_sentence(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        open_gateway(url, api_key="sk_test_1", timeout_s=1, connections=1, mode="benchmark")


@pytest.mark.parametrize(
    ("url", "key", "mode", "complaint"),
    [
        ("https://api.stripe.com/v1", "sk_test_1", "test", "an address without path"),
        ("https://api.stripe.com/?x=1", "sk_test_1", "test", "an address without path"),
        ("https://user:word@api.stripe.com", "sk_test_1", "test", "an address without path"),
        ("https:///", "sk_test_1", "test", "https://HOST"),
        ("https://api.stripe.com:99999", "sk_test_1", "test", "must be a number from 1 to 65535"),
        ("https://api.stripe.com:0", "sk_test_1", "test", "must be a number from 1 to 65535"),
        ("https://api.stripe.com:443;x", "sk_test_1", "test", "must be a number from 1 to 65535"),
        ("https://api.stripe.com", "sk_test_\u00e9", "test", "is no whole key"),
        ("https://api.stripe.com", "sk_test_1\n", "test", "is no whole key"),
        ("https://api.stripe.com", "pk_test_1", "test", "is a publishable key"),
        ("https://api.stripe.com", "whsec_1", "test", "is the secret of a webhook"),
        ("https://api.stripe.com", "sk_test_", "test", "is no whole key"),
        ("https://api.stripe.com", "password", "test", "is none of Stripe"),
        ("https://api.stripe.com", "sk_live_1", "test", "for live mode, and the mode is test"),
        ("https://api.stripe.com", "rk_test_1", "live", "for test mode, and the mode is live"),
    ],
)
def test_a_key_or_url_of_another_kind_is_refused_at_the_start(url: str, key: str, mode: Mode, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refused:
        open_gateway(url, api_key=key, timeout_s=1, connections=1, mode=mode)
    assert key not in str(refused.value)
    assert "word" not in str(refused.value)


def test_a_live_key_is_never_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="must not be sent over http") as refused:
        open_gateway("http://127.0.0.1:1", api_key="sk_live_secret", timeout_s=1, connections=1)
    assert "secret" not in str(refused.value)


def test_the_sdk_must_not_be_told_to_print_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_LOG", "debug")
    with pytest.raises(ValueError, match="STRIPE_LOG"):
        open_gateway("http://127.0.0.1:1", api_key="sk_test_1", timeout_s=1, connections=1)


async def test_the_memory_gateway_charges_at_most_once_and_keeps_a_cancel() -> None:
    gateway = open_gateway("memory://", api_key="", timeout_s=1, connections=1, mode="benchmark")
    assert isinstance(gateway, MemoryGateway)
    prepared = await gateway.prepare(ORDER, key="k1")
    assert prepared == await gateway.prepare(ORDER, key="k1")
    assert isinstance(prepared, port.Prepared)
    captured = await gateway.execute(prepared.gateway_id, key="k2")
    assert captured == port.Captured(prepared.gateway_id, 1250, "EUR", "ch_memory_k1", "memory")
    assert await gateway.execute(prepared.gateway_id, key="k3") == captured
    assert await gateway.cancel(prepared.gateway_id, key="k4") == captured
    part = port.RefundOrder(REFUND_ID, UUID(int=1), 250, "EUR")
    too_much = port.RefundOrder(OTHER_ID, UUID(int=1), 1_250, "EUR")
    made = port.Refunded(f"re_memory_{REFUND_ID.hex}", "memory", 250)
    named = (port.StandingRefund(made.refund_id, 250, UUID(int=1), REFUND_ID),)
    none = port.NoRefund("memory", 1_250, REFUND_ID, standing=())
    assert await gateway.inquire_refund(prepared.gateway_id, REFUND_ID) == none
    assert [await gateway.refund(prepared.gateway_id, part, key="k5") for _ in range(2)] == [made, made]
    assert await gateway.inquire_refund(prepared.gateway_id, REFUND_ID) == made
    assert isinstance(await gateway.refund(prepared.gateway_id, too_much, key="k6"), port.RefundFailed)
    left = port.NoRefund("memory", 1_000, OTHER_ID, named)
    assert await gateway.inquire_refund(prepared.gateway_id, OTHER_ID) == left
    assert await gateway.inquire(prepared.gateway_id) == replace(captured, refunded_minor=250, standing=named)
    assert await gateway.inquire("pi_unknown") == port.NotFound("memory")


async def test_the_memory_gateway_declines_the_declined_token() -> None:
    gateway = MemoryGateway()
    order = port.Order(UUID(int=2), "inv-2", 100, "USD", "pm_card_chargeDeclined")
    prepared = await gateway.prepare(order, key="k1")
    assert isinstance(prepared, port.Prepared)
    assert await gateway.inquire(prepared.gateway_id) == port.Unconfirmed("memory")
    assert await gateway.execute(prepared.gateway_id, key="k2") == port.Declined("generic_decline", "memory")
    assert await gateway.cancel(prepared.gateway_id, key="k3") == port.Cancelled("memory")
    assert await gateway.execute(prepared.gateway_id, key="k4") == port.Cancelled("memory")
