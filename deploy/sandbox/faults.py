"""What each test token does, as data. A test compares it with the table in README.md.

A token is `<behaviour>` or `<behaviour>__<refund behaviour>`: `pm_remit_late_success__refund_fails` charges late, and
its refund fails.
"""

from dataclasses import dataclass, replace
from enum import Enum


class Effect(Enum):
    """What a confirm does to the money."""

    CAPTURE = "captured"
    DECLINE = "declined"
    ACTION = "action required"
    PROCESS = "processing"
    NOTHING = "nothing"


class Manner(Enum):
    """What the client receives for a confirm."""

    ANSWER = "answer"
    HANG = "hang"  # the connection stays open and silent
    RESET = "reset"  # the connection is cut with RST
    ERROR_500 = "500"
    RATE_LIMIT = "429"
    MISSING = "404"
    REFUSED = "400"
    BAD_JSON = "200, cut in the middle"
    BAD_FIELDS = "200, fields of the wrong type"


class Ending(Enum):
    """The result that a client which never guesses must end with."""

    CAPTURED = "captured"
    DECLINED = "declined"
    NOT_CHARGED = "not charged"
    PERSON = "a person decides"


class Deed(Enum):
    """What others do to a payment beside the API: people in the gateway's dashboard, the customer's bank, the gateway itself."""

    SETTLE = "settle"  # a payment that is processing is captured
    HEAL = "heal"  # a payment that stopped answering answers again
    DISPUTE = "dispute"  # the customer disputes the charge
    WARN = "warn"  # the customer's bank asks about the charge, which can become a dispute
    WIN_DISPUTE = "win-dispute"  # the bank decides for us
    LOSE_DISPUTE = "lose-dispute"  # the bank decides for the customer, and the money goes back
    REFUND = "refund"  # somebody gives back all that is left
    REFUND_PART = "refund-part"  # somebody gives back a part
    CANCEL = "cancel"  # somebody cancels a payment that is not captured
    CAPTURE = "capture"  # what was cancelled, or never confirmed, is captured
    FAIL_REFUNDS = "fail-refunds"  # the bank sends back what was refunded


@dataclass(frozen=True, slots=True)
class Confirm:
    """One confirm. `late`: it is acted upon only after the sandbox's slowness, even if the client no longer waits."""

    effect: Effect = Effect.CAPTURE
    manner: Manner = Manner.ANSWER
    decline_code: str = ""
    late: bool = False


@dataclass(frozen=True, slots=True)
class RefundBehaviour:
    """The refunds of a payment: their first status, and after how many looks a pending one succeeds, or one that succeeded fails (None:
    never).

    The first `unmade` requests make no refund: they are answered in `manner`, or refused for lack of balance. Later ones make it, and are
    answered in `manner` only if `unmade` is 0.
    """

    status: str = "succeeded"
    settles_after: int | None = None
    fails_after: int | None = None
    manner: Manner = Manner.ANSWER
    unmade: int = 0
    pending_reason: str = "processing"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a token does. `confirms`: the first confirm, the second, ...; the last one repeats. It counts, and nothing is random."""

    about: str
    ends: tuple[Ending, ...]
    confirms: tuple[Confirm, ...] = (Confirm(),)
    settles_after: int | None = None  # so many retrievals see `processing`, then it is captured; None: never
    once_confirmed: Manner = Manner.ANSWER  # how retrieve, confirm and cancel are answered after the first confirm
    captures_on_cancel: bool = False
    cancelled_at_confirm: bool = False  # somebody cancels it just before the first confirm arrives
    takes_percent: int = 100  # how much of the amount a capture takes
    afterwards: Deed | None = None  # what happens once it has ended, before anybody looks again
    unindexed_searches: int = 0  # so many searches do not find it yet: the index lags
    keeps_method: bool = False  # Stripe detaches a declined method, so that a second confirm must name one
    refund: RefundBehaviour = RefundBehaviour()


_OK = Confirm()
_CAPTURED, _DECLINED = (Ending.CAPTURED,), (Ending.DECLINED,)
_PERSON, _EITHER = (Ending.PERSON,), (Ending.CAPTURED, Ending.NOT_CHARGED)


ADVICE: dict[str, str] = {
    "insufficient_funds": "try_again_later",
    "processing_error": "try_again_later",
    "expired_card": "confirm_card_data",
    "incorrect_cvc": "confirm_card_data",
    "generic_decline": "do_not_try_again",
}
"""What a bank advises with a decline (https://docs.stripe.com/declines/card#retrying-issuer-declines). Others advise nothing."""


def _declines(code: str) -> Behaviour:
    return Behaviour(f"declined: {code}", _DECLINED, (Confirm(Effect.DECLINE, decline_code=code),))


BEHAVIOURS: dict[str, Behaviour] = {
    # Stripe's own test tokens
    "pm_card_visa": Behaviour("captured", _CAPTURED),
    "pm_card_mastercard": Behaviour("captured", _CAPTURED),
    "pm_card_chargeDeclined": _declines("generic_decline"),
    "pm_card_visa_chargeDeclined": _declines("generic_decline"),
    "pm_card_chargeCustomerFail": _declines("generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": _declines("insufficient_funds"),
    "pm_card_chargeDeclinedExpiredCard": _declines("expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": _declines("incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": _declines("processing_error"),
    "pm_card_authenticationRequired": _declines("authentication_required"),
    "pm_card_createDispute": Behaviour("captured; then the customer disputes it", _CAPTURED, afterwards=Deed.DISPUTE),
    "pm_card_refundFail": Behaviour(
        "captured; its refund succeeds, and fails later", _CAPTURED, refund=RefundBehaviour(fails_after=1)
    ),
    "pm_card_pendingRefund": Behaviour(
        "captured; its refund is pending, and succeeds later",
        _CAPTURED,
        refund=RefundBehaviour("pending", settles_after=2),
    ),
    # faults
    "pm_remit_slow": Behaviour(
        "acts on the confirm late (see --slow-ms), even if the client has gone", _EITHER, (Confirm(late=True),)
    ),
    "pm_remit_charged_then_timeout": Behaviour(
        "charges and never answers that confirm", _CAPTURED, (Confirm(manner=Manner.HANG), _OK)
    ),
    "pm_remit_charged_then_500": Behaviour(
        "charges, answers 500 and replays that 500", _CAPTURED, (Confirm(manner=Manner.ERROR_500), _OK)
    ),
    "pm_remit_confirm_refused": Behaviour(
        "refuses every confirm: 400, with a sentence", (Ending.NOT_CHARGED,), (Confirm(Effect.NOTHING, Manner.REFUSED),)
    ),
    "pm_remit_reset_before_charge": Behaviour(
        "cuts the first confirm before charging", _EITHER, (Confirm(Effect.NOTHING, Manner.RESET), _OK)
    ),
    "pm_remit_reset_after_charge": Behaviour(
        "charges, then cuts the connection", _CAPTURED, (Confirm(manner=Manner.RESET), _OK)
    ),
    "pm_remit_rate_limited": Behaviour(
        "429 to the first two confirms, then captured",
        _CAPTURED,
        (Confirm(Effect.NOTHING, Manner.RATE_LIMIT), Confirm(Effect.NOTHING, Manner.RATE_LIMIT), _OK),
    ),
    "pm_remit_malformed_200": Behaviour(
        "charges and answers 200 with half a JSON", _CAPTURED, (Confirm(manner=Manner.BAD_JSON), _OK)
    ),
    "pm_remit_malformed_fields": Behaviour(
        "charges and answers 200 with fields of the wrong type", _CAPTURED, (Confirm(manner=Manner.BAD_FIELDS), _OK)
    ),
    "pm_remit_late_success": Behaviour(
        "answers 500, is `processing` for three retrievals, then captured",
        _CAPTURED,
        (Confirm(Effect.PROCESS, Manner.ERROR_500),),
        settles_after=3,
    ),
    "pm_remit_processing": Behaviour(
        "`processing` for two retrievals, then captured", _CAPTURED, (Confirm(Effect.PROCESS),), settles_after=2
    ),
    "pm_remit_processing_forever": Behaviour("`processing` for ever", _PERSON, (Confirm(Effect.PROCESS),)),
    "pm_remit_action_required": Behaviour(
        "the customer would have to act; can be cancelled", _DECLINED, (Confirm(Effect.ACTION),)
    ),
    "pm_remit_declined_then_confirmable": Behaviour(
        "declined; a second confirm would charge: why a declined payment is cancelled",
        _DECLINED,
        (Confirm(Effect.DECLINE, decline_code="generic_decline"), _OK),
        keeps_method=True,
    ),
    "pm_remit_partial_capture": Behaviour("captures 60 % of the amount", _PERSON, takes_percent=60),
    "pm_remit_over_capture": Behaviour("captures 110 % of the amount", _PERSON, takes_percent=110),
    "pm_remit_cancelled_there": Behaviour(
        "somebody cancels it in the dashboard just before the confirm", (Ending.NOT_CHARGED,), cancelled_at_confirm=True
    ),
    "pm_remit_refunded_there": Behaviour(
        "captured; then somebody gives it back in the dashboard", _CAPTURED, afterwards=Deed.REFUND
    ),
    "pm_remit_partly_refunded_there": Behaviour(
        "captured; then somebody gives half of it back in the dashboard", _CAPTURED, afterwards=Deed.REFUND_PART
    ),
    "pm_remit_disputed": Behaviour("captured; then the customer disputes it", _CAPTURED, afterwards=Deed.DISPUTE),
    "pm_remit_inquired_about": Behaviour(
        "captured; then the customer's bank asks about it, and nobody has disputed it yet",
        _CAPTURED,
        afterwards=Deed.WARN,
    ),
    "pm_remit_dispute_won": Behaviour(
        "captured; then the customer disputes it, and we win", _CAPTURED, afterwards=Deed.WIN_DISPUTE
    ),
    "pm_remit_dispute_lost": Behaviour(
        "captured; then the customer disputes it, and the money goes back", _CAPTURED, afterwards=Deed.LOSE_DISPUTE
    ),
    "pm_remit_captured_after_cancel": Behaviour(
        "declined and cancelled; the next look finds it captured",
        _DECLINED,
        (Confirm(Effect.DECLINE, decline_code="generic_decline"),),
        afterwards=Deed.CAPTURE,
    ),
    "pm_remit_index_lags": Behaviour(
        "captured; the first search does not find it yet", _CAPTURED, unindexed_searches=1
    ),
    "pm_remit_cancel_crosses": Behaviour(
        "action required; the customer acts as the cancel arrives: captured, cancel refused",
        _CAPTURED,
        (Confirm(Effect.ACTION),),
        captures_on_cancel=True,
    ),
    "pm_remit_never_answers": Behaviour(
        "charges; from that confirm on everything about this payment hangs",
        _PERSON,
        (Confirm(manner=Manner.HANG),),
        once_confirmed=Manner.HANG,
    ),
    "pm_remit_broken_for_good": Behaviour(
        "does not charge; from that confirm on everything about this payment is a 500",
        _PERSON,
        (Confirm(Effect.NOTHING, Manner.ERROR_500),),
        once_confirmed=Manner.ERROR_500,
    ),
    "pm_remit_unknown_after": Behaviour(
        "does not charge, answers 500; from then on the payment is unknown (404)",
        _PERSON,
        (Confirm(Effect.NOTHING, Manner.ERROR_500),),
        once_confirmed=Manner.MISSING,
    ),
}

REFUNDS: dict[str, RefundBehaviour] = {
    "refund_fails": RefundBehaviour("failed"),
    "refund_fails_later": RefundBehaviour(fails_after=1),
    "refund_pending": RefundBehaviour("pending", settles_after=2),
    "refund_pending_forever": RefundBehaviour("pending"),
    "refund_then_500": RefundBehaviour(manner=Manner.ERROR_500),
    "refund_then_timeout": RefundBehaviour(manner=Manner.HANG),
    "refund_500_unmade": RefundBehaviour(manner=Manner.ERROR_500, unmade=1),
    "refund_lost": RefundBehaviour(manner=Manner.RESET, unmade=1),
    "refund_low_balance": RefundBehaviour(manner=Manner.REFUSED, unmade=2),
    "refund_no_balance": RefundBehaviour(manner=Manner.REFUSED, unmade=1_000_000),
    "refund_pending_balance": RefundBehaviour("pending", settles_after=2, pending_reason="insufficient_funds"),
}
"""Each is also a token of its own. For example `pm_remit_refund_fails` is captured, and its refund fails."""

_REFUND_PREFIX = "pm_remit_"

# Stripe's published test cards (https://docs.stripe.com/testing): number -> the token whose behaviour it has. No other number is accepted,
# so that nobody enters a real card here.
CARDS: dict[str, str] = {
    "4242424242424242": "pm_card_visa",
    "4000056655665556": "pm_card_visa",
    "5555555555554444": "pm_card_mastercard",
    "4000000000000002": "pm_card_chargeDeclined",
    "4000000000000341": "pm_card_chargeCustomerFail",
    "4000000000009995": "pm_card_visa_chargeDeclinedInsufficientFunds",
    "4000000000000069": "pm_card_chargeDeclinedExpiredCard",
    "4000000000000127": "pm_card_chargeDeclinedIncorrectCvc",
    "4000000000000119": "pm_card_chargeDeclinedProcessingError",
    "4000002500003155": "pm_card_authenticationRequired",
    "4000002760003184": "pm_card_authenticationRequired",
    "4000000000000259": "pm_card_createDispute",
    "4000000000005126": "pm_card_refundFail",
    "4000000000007726": "pm_card_pendingRefund",
}


def behaviour_of(token: str) -> Behaviour | None:
    """The behaviour of a token; None if there is no such token."""
    charge, divided, refund = token.partition("__")
    if not divided and charge.removeprefix(_REFUND_PREFIX) in REFUNDS:
        charge, refund, divided = "pm_card_visa", charge.removeprefix(_REFUND_PREFIX), "__"
    behaviour = BEHAVIOURS.get(charge)
    if behaviour is None or not divided:
        return behaviour
    return replace(behaviour, refund=REFUNDS[refund]) if refund in REFUNDS else None


def luhn_holds(number: str) -> bool:
    """Whether the check digit of ISO/IEC 7812-1 is right."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in number[-2::-2])
    return (sum(int(digit) for digit in number[::-2]) + sum(doubled)) % 10 == 0
