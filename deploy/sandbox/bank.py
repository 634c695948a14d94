"""What the gateway does: payment methods, PaymentIntents and refunds over the ledger, with Stripe's rules.

Everything here is synchronous and runs between two turns of the event loop, so no two requests interleave within one payment. The rules:
https://docs.stripe.com/payments/paymentintents/lifecycle. All faults come from `faults.py`.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from deploy.sandbox import replies, rules
from deploy.sandbox.faults import (
    ADVICE,
    CARDS,
    Behaviour,
    Confirm,
    Deed,
    Effect,
    Manner,
    RefundBehaviour,
    behaviour_of,
    luhn_holds,
)
from deploy.sandbox.ledger import Ledger, Row
from deploy.sandbox.replies import Json, SandboxReply

PAGE_MAX, DEFAULT_PAGE = 100, 10  # as at Stripe
PEOPLE_ROWS_MAX = 200  # what a person can read on one page
MONTHS = range(1, 13)
YEARS = range(2000, 2100)

CONFIRMABLE = frozenset({"requires_confirmation", "requires_payment_method", "requires_action"})
CANCELABLE = frozenset({"requires_confirmation", "requires_payment_method", "requires_action"})
_CANCELABLE_WORDS = "requires_payment_method, requires_capture, requires_confirmation, requires_action, processing"

_METADATA_QUERY = re.compile(r"""metadata\[(['"])(?P<name>\w{1,40})\1\]:(['"])(?P<value>[\w-]{1,100})\3""", re.ASCII)

LATE_FAILURE = "lost_or_stolen_card"
"""Why a refund fails after it had succeeded."""
_DETAILS = ("customer", "description", "statement_descriptor_suffix")
_USED_BEFORE = "The provided PaymentMethod was previously used with a PaymentIntent without Customer attachment. It may not be used again."

Params = Mapping[str, str]


def new_id(prefix: str) -> str:
    id_ = f"{prefix}_{secrets.token_hex(12)}"
    # An id that looks like a card number would be masked in replies and in the ledger.
    return id_ if replies.printable(id_) == id_ else new_id(prefix)


class SandboxBank:
    """The gateway's operations. `clock` gives Unix seconds, `ids` a new id for a prefix (`pi`, `ch`, `re`, `pm`)."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float], ids: Callable[[str], str] = new_id) -> None:
        self._ledger = ledger
        self._clock = clock
        self._ids = ids
        self.is_lenient = False
        """A confirm need not say where the customer is: for builds that confirm as before API version 2023-08-16."""
        self.is_unsearchable = False
        """Searches are answered 500."""

    # -- payment methods

    def create_payment_method(self, _: str, params: Params, __: str | None) -> SandboxReply:
        """Create a payment method. The card number is looked up and not kept: the ledger gets brand and last four digits."""
        number = params.get("card[number]", "").replace(" ", "")
        month, year = _integer(params.get("card[exp_month]")), _integer(params.get("card[exp_year]"))
        if params.get("type") != "card":
            return replies.invalid("Only cards are taken here.", code="parameter_missing", param="type")
        if not (number.isascii() and number.isdigit() and luhn_holds(number)):
            return replies.card_error(402, "incorrect_number", None)
        if month is None or month not in MONTHS:
            return replies.card_error(402, "invalid_expiry_month", None)
        if year is None or year not in YEARS:
            return replies.card_error(402, "invalid_expiry_year", None)
        if number not in CARDS:
            return replies.card_error(402, "card_declined", "test_mode_live_card")
        brand = "mastercard" if number.startswith("5") else "visa"
        return replies.ok(self._new_method(brand, number[-4:], month, year, CARDS[number]))

    def _new_method(self, brand: str, last4: str, month: int, year: int, behaves_like: str) -> Json:
        token, created = self._ids("pm"), int(self._clock())
        self._ledger.write(
            "INSERT INTO payment_methods VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(token, brand, last4, month, year, behaves_like, created),
        )
        return _method_json(token, brand, last4, month, year, created)

    def create_customer(self, _: str, __: Params, ___: str | None) -> SandboxReply:
        customer, created = self._ids("cus"), int(self._clock())
        self._ledger.write("INSERT INTO customers VALUES (?, ?)", customer, created)
        return replies.ok({"id": customer, "object": "customer", "created": created} | _TEST_MODE)

    def attach(self, token: str, params: Params, _: str | None) -> SandboxReply:
        """Save a method for a customer. As at Stripe, a test token becomes a method of its own."""
        customer = params.get("customer", "")
        if self._ledger.one("SELECT 1 FROM customers WHERE id = ?", customer) is None:
            return replies.missing("customer", customer, param="customer", status=400)
        row = self._ledger.one("SELECT * FROM payment_methods WHERE id = ?", token)
        if row is None and behaviour_of(token) is None:
            return replies.missing("PaymentMethod", token, param="payment_method")
        if self._ledger.one("SELECT 1 FROM used_methods WHERE payment_method = ?", token):
            return replies.invalid(_USED_BEFORE, param="payment_method")
        method = (
            _method_json(row["id"], row["brand"], row["last4"], row["exp_month"], row["exp_year"], row["created"])
            if row
            else self._new_method("visa", "4242", 12, 2050, token)
        )
        self._ledger.write("INSERT OR REPLACE INTO attached_methods VALUES (?, ?)", method["id"], customer)
        return replies.ok(method | {"customer": customer})

    def _refuse_method(self, token: str, customer: str | None, intent_id: str) -> SandboxReply | None:
        """The refusal of a method for a payment: it belongs to a customer that the payment does not name, or was used without one."""
        if self._behaviour(token) is None:
            return replies.missing("PaymentMethod", token, param="payment_method", status=400)
        owner = self._ledger.one("SELECT customer FROM attached_methods WHERE payment_method = ?", token)
        if owner and owner["customer"] != customer:
            sentence = f"The PaymentMethod {token} belongs to a Customer. Include that Customer in `customer`."
            return replies.invalid(sentence, code="payment_method_customer_mismatch", param="customer")
        used = self._ledger.one("SELECT payment_intent FROM used_methods WHERE payment_method = ?", token)
        if used and used["payment_intent"] != intent_id:
            return replies.invalid(_USED_BEFORE, code="payment_method_used_before", param="payment_method")
        return None

    def _use_method(self, row: Row) -> None:
        """Note that a method without a customer is used. A test token is another method each time."""
        token = row["payment_method"]
        is_test_token = behaviour_of(token) is not None
        if is_test_token or self._ledger.one("SELECT 1 FROM attached_methods WHERE payment_method = ?", token):
            return
        self._ledger.write("INSERT OR IGNORE INTO used_methods VALUES (?, ?)", token, row["id"])

    def retrieve_payment_method(self, token: str, _: Params, __: str | None) -> SandboxReply:
        row = self._ledger.one("SELECT * FROM payment_methods WHERE id = ?", token)
        if row:
            return replies.ok(
                _method_json(row["id"], row["brand"], row["last4"], row["exp_month"], row["exp_year"], row["created"])
            )
        if behaviour_of(token):
            return replies.ok(_method_json(token, "visa", "4242", 12, 2050, int(self._clock())))
        return replies.missing("PaymentMethod", token, param="payment_method")

    def _behaviour(self, token: str) -> Behaviour | None:
        row = self._ledger.one("SELECT behaves_like FROM payment_methods WHERE id = ?", token)
        return behaviour_of(row["behaves_like"] if row else token)

    # -- PaymentIntents

    def create_intent(self, _: str, params: Params, __: str | None) -> SandboxReply:
        amount, currency = _integer(params.get("amount")), params.get("currency", "").lower()
        token, customer = params.get("payment_method"), params.get("customer")
        broken = rules.broken_by_new_intent(params, amount, currency)
        if broken:
            return broken
        if customer and self._ledger.one("SELECT 1 FROM customers WHERE id = ?", customer) is None:
            return replies.missing("customer", customer, param="customer", status=400)
        refused = self._refuse_method(token, customer, "") if token else None
        if refused:
            return refused
        intent_id = self._ids("pi")
        status = "requires_confirmation" if token else "requires_payment_method"
        metadata = rules.metadata_in(params)
        self._ledger.write(
            "INSERT INTO payment_intents"
            " (id, amount, currency, payment_method, method_attached, metadata, status, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(intent_id, amount, currency, token, bool(token), orjson.dumps(metadata).decode(), status),
            int(self._clock()),
        )
        details = [params.get(name) for name in _DETAILS]
        self._ledger.write("INSERT INTO intent_details VALUES (?, ?, ?, ?)", intent_id, *details)
        return replies.ok(self._intent_json(self._intent_row(intent_id)))

    def retrieve_intent(self, intent_id: str, params: Params, _: str | None) -> SandboxReply:
        row = self._intent(intent_id)
        if row is None:
            return replies.missing("payment_intent", intent_id, param="intent")
        behaviour = self._of(row)
        silenced = _silenced(row, behaviour)
        if silenced:
            return silenced
        if row["status"] == "processing" and behaviour.settles_after is not None:
            row = self._look(row, behaviour.settles_after)
        if row["status"] == "canceled" and behaviour.afterwards is Deed.CAPTURE:
            row = self._capture(row)
        return replies.ok(self._intent_json(row, expanded="latest_charge" in _expanded(params)))

    def _look(self, row: Row, settles_after: int) -> Row:
        """Count a retrieval: a late success comes after so many, so that a test needs no clock."""
        if row["looks"] >= settles_after:
            self._capture(row)
        else:
            self._ledger.write("UPDATE payment_intents SET looks = looks + 1 WHERE id = ?", row["id"])
        return self._intent_row(row["id"])

    def list_intents(self, _: str, params: Params, __: str | None) -> SandboxReply:
        """Newest first. Like Stripe, it cannot filter by metadata."""
        expanded, customer = "data.latest_charge" in _expanded(params), params.get("customer")
        if customer and self._ledger.one("SELECT 1 FROM customers WHERE id = ?", customer) is None:
            return replies.missing("customer", customer, param="customer", status=400)
        only = ("id IN (SELECT payment_intent FROM intent_details WHERE customer = ?)", customer) if customer else None
        return self._listed("payment_intents", params, lambda row: self._intent_json(row, expanded=expanded), only=only)

    def search_intents(self, _: str, params: Params, __: str | None) -> SandboxReply:
        """Those whose metadata has a value. No other query is understood. The index may lag, as at Stripe."""
        if self.is_unsearchable:
            return replies.server_error(saved=False)
        asked = _METADATA_QUERY.fullmatch(params.get("query", ""))
        if asked is None:
            words = "We were unable to parse your search query. Try: metadata['key']:'value'"
            return replies.invalid(words, param="query")
        sql = "SELECT * FROM payment_intents WHERE json_extract(metadata, ?) = ? ORDER BY created DESC, seq DESC LIMIT 100"
        rows = self._ledger.all(sql, f'$."{asked["name"]}"', asked["value"])
        found = [self._intent_json(row) for row in rows if self._is_indexed(row)]
        page = _list_json("/v1/payment_intents/search", found, PAGE_MAX)
        return replies.ok(page | {"object": "search_result", "next_page": None})

    def _is_indexed(self, row: Row) -> bool:
        """Whether a search finds it. It counts the searches, so that a test needs no clock."""
        misses = self._of(row).unindexed_searches
        if not misses:
            return True
        self._ledger.write(
            "INSERT INTO searches VALUES (?, 1) ON CONFLICT (payment_intent) DO UPDATE SET searches = searches + 1",
            row["id"],
        )
        counted = self._ledger.one("SELECT searches FROM searches WHERE payment_intent = ?", row["id"])
        return counted is not None and counted["searches"] > misses

    def _listed(
        self, table: str, params: Params, shown: Callable[[Row], Json], *, only: tuple[str, str] | None = None
    ) -> SandboxReply:
        """A page of what was created in a window, newest first. `only`: a further condition, and its argument."""
        limit = _integer(params.get("limit", str(DEFAULT_PAGE)))
        if limit is None or not 1 <= limit <= PAGE_MAX:
            return replies.invalid("Invalid limit", code="parameter_invalid_integer", param="limit")
        conditions, args = ["1"], list[Any]()
        for name, operator in {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}.items():
            if f"created[{name}]" in params:
                conditions.append(f"created {operator} ?")
                args.append(_integer(params[f"created[{name}]"]))
        if None in args:
            return replies.invalid("Invalid timestamp", code="parameter_invalid_integer", param="created")
        if only is not None:
            conditions.append(only[0])
            args.append(only[1])
        if "starting_after" in params:
            place = f"SELECT created, rowid AS place FROM {table} WHERE id = ?"  # noqa: S608 - our names
            last = self._ledger.one(place, params["starting_after"])
            if last is None:
                return replies.missing(table[:-1], params["starting_after"], param="starting_after", status=400)
            conditions.append("(created, rowid) < (?, ?)")
            args += [last["created"], last["place"]]
        where = " AND ".join(conditions)
        rows = self._ledger.all(
            f"SELECT * FROM {table} WHERE {where} ORDER BY created DESC, rowid DESC LIMIT ?",  # noqa: S608 - `where` is made of the constants above
            *(*args, limit + 1),
        )
        return replies.ok(_list_json(f"/v1/{table}", [shown(row) for row in rows], limit))

    # -- confirm

    def slow(self, intent_id: str) -> bool:
        """Whether the next confirm of this payment is acted upon late."""
        row = self._intent(intent_id)
        return row is not None and row["status"] in CONFIRMABLE and _next_confirm(row, self._of(row)).late

    def confirm(self, intent_id: str, params: Params, key: str | None) -> SandboxReply:
        row = self._intent(intent_id)
        if row is not None and self._of(row).cancelled_at_confirm:
            self._cancel_by_hand(row)
        reply, effect = self._confirm(intent_id, params)
        self.log("confirm", intent_id, key, f"{_seen(reply)} {effect}")
        return reply

    def _confirm(self, intent_id: str, params: Params) -> tuple[SandboxReply, str]:
        row = self._intent(intent_id)
        if row is None:
            return replies.missing("payment_intent", intent_id, param="intent"), "unknown"
        silenced = _silenced(row, self._of(row))
        if silenced:
            return silenced, "nothing"
        if row["status"] not in CONFIRMABLE:
            words = f"This PaymentIntent could not be confirmed because it has a status of {row['status']}."
            return replies.unexpected_state(words, self._intent_json(row)), "nothing"
        broken = None if self.is_lenient else rules.broken_by_confirm(params)
        method = params.get("payment_method")
        if broken:
            return broken, "nothing"
        if method:
            self._ledger.write(
                "UPDATE payment_intents SET payment_method = ?, method_attached = 1, confirm_attempts = 0 WHERE id = ?",
                *(method, intent_id),
            )
            row = self._intent_row(intent_id)
        if not row["method_attached"]:
            words = "You cannot confirm this PaymentIntent because it's missing a payment method."
            return replies.unexpected_state(words, self._intent_json(row)), "nothing"
        refused = self._refuse_method(row["payment_method"], self._customer_of(intent_id), intent_id)
        if refused:
            return refused, "nothing"
        self._use_method(row)
        return self._act(row, self._of(row))

    def _customer_of(self, intent_id: str) -> str | None:
        row = self._ledger.one("SELECT customer FROM intent_details WHERE payment_intent = ?", intent_id)
        return row["customer"] if row else None

    def _act(self, row: Row, behaviour: Behaviour) -> tuple[SandboxReply, str]:
        step = _next_confirm(row, behaviour)
        self._ledger.write("UPDATE payment_intents SET confirm_attempts = confirm_attempts + 1 WHERE id = ?", row["id"])
        match step.effect:
            case Effect.CAPTURE:
                self._capture(row)
            case Effect.DECLINE:
                self._decline(row, step.decline_code, keeps_method=behaviour.keeps_method)
            case Effect.ACTION:
                self._set_status(row["id"], "requires_action")
            case Effect.PROCESS:
                self._set_status(row["id"], "processing")
            case Effect.NOTHING:
                pass
        reply = self._confirm_reply(row["id"], step)
        if step.effect is Effect.CAPTURE and behaviour.afterwards is not None:
            self.do(behaviour.afterwards, row["id"])
        return reply, step.effect.value

    def _confirm_reply(self, intent_id: str, step: Confirm) -> SandboxReply:
        intent = self._intent_json(self._intent_row(intent_id))
        if step.effect is Effect.DECLINE:
            return replies.card_error(402, _error_code(step.decline_code), step.decline_code, intent)
        match step.manner:
            case Manner.ERROR_500:
                return replies.server_error(saved=True)
            case Manner.RATE_LIMIT:
                return replies.rate_limited(retry_after_s=1)
            case Manner.REFUSED:
                return replies.refused_confirm(intent)
            case Manner.RESET if (
                step.effect is Effect.NOTHING
            ):  # cut before anything was done: there is no answer to keep
                return SandboxReply(200, intent, Manner.RESET, saved=False)
            case manner:
                return replies.ok(intent, manner)

    def _capture(self, row: Row) -> Row:
        charge, amount = self._ids("ch"), row["amount"] * self._of(row).takes_percent // 100
        self._ledger.write(
            "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?)",
            *(charge, row["id"], amount, row["currency"], row["payment_method"], int(self._clock())),
        )
        self._ledger.write(
            "UPDATE payment_intents SET status = 'succeeded', latest_charge = ?, last_error = NULL WHERE id = ?",
            *(charge, row["id"]),
        )
        return self._intent_row(row["id"])

    def _captured(self, row: Row) -> int:
        """How much of a payment was captured."""
        charge = self._ledger.one("SELECT amount FROM charges WHERE id = ?", row["latest_charge"])
        return int(charge["amount"]) if charge else 0

    def _decline(self, row: Row, decline_code: str, *, keeps_method: bool) -> None:
        error = {"code": _error_code(decline_code), "decline_code": decline_code, "message": "Your card was declined."}
        error |= {"advice_code": ADVICE[decline_code]} if decline_code in ADVICE else {}
        method = {"type": "card_error", "payment_method": {"id": row["payment_method"], "object": "payment_method"}}
        self._ledger.write(
            "UPDATE payment_intents SET status = 'requires_payment_method', last_error = ?, method_attached = ?"
            " WHERE id = ?",
            *(orjson.dumps(error | method).decode(), keeps_method, row["id"]),
        )

    def _set_status(self, intent_id: str, status: str) -> None:
        self._ledger.write("UPDATE payment_intents SET status = ?, looks = 0 WHERE id = ?", status, intent_id)

    # -- cancel

    def cancel(self, intent_id: str, _: Params, key: str | None) -> SandboxReply:
        reply, effect = self._cancel(intent_id)
        self.log("cancel", intent_id, key, f"{_seen(reply)} {effect}")
        return reply

    def _cancel(self, intent_id: str) -> tuple[SandboxReply, str]:
        row = self._intent(intent_id)
        if row is None:
            return replies.missing("payment_intent", intent_id, param="intent"), "unknown"
        behaviour = self._of(row)
        silenced = _silenced(row, behaviour)
        if silenced:
            return silenced, "nothing"
        effect = "nothing"
        if row["status"] == "requires_action" and behaviour.captures_on_cancel:
            self._capture(row)
            row, effect = self._intent_row(intent_id), "captured"
        if row["status"] not in CANCELABLE:
            words = (
                f"You cannot cancel this PaymentIntent because it has a status of {row['status']}."
                f" Only a PaymentIntent with one of the following statuses may be canceled: {_CANCELABLE_WORDS}."
            )
            return replies.unexpected_state(words, self._intent_json(row)), effect
        self._cancel_by_hand(row)
        return replies.ok(self._intent_json(self._intent_row(intent_id))), "canceled"

    def log(self, kind: str, intent_id: str, key: str | None, result: str) -> None:
        """One line for a confirm or cancel that arrived."""
        self._ledger.write(
            "INSERT INTO confirms (at, kind, payment_intent, idempotency_key, result) VALUES (?, ?, ?, ?, ?)",
            *(self._clock(), kind, replies.printable(intent_id), key, result),
        )

    # -- refunds

    def create_refund(self, _: str, params: Params, __: str | None) -> SandboxReply:
        intent_id = params.get("payment_intent", "")
        if not intent_id:
            words = "One of the following params should be provided for this request: payment_intent or charge."
            return replies.invalid(words, code="parameter_missing")
        row = self._intent(intent_id)
        if row is None:
            return replies.missing("payment_intent", intent_id, param="payment_intent")
        silenced = _silenced(row, self._of(row))
        if silenced:
            return silenced
        if row["status"] != "succeeded":
            words = "This PaymentIntent does not have a successful charge to refund."
            return replies.unexpected_state(words, self._intent_json(row))
        left = self._captured(row) - self._refunded(intent_id)
        amount = _integer(params.get("amount", str(left)))
        broken = rules.broken_by_new_refund(params, amount, left)
        if broken is not None or amount is None:
            return broken or replies.invalid("Invalid positive integer", param="amount")
        script = self._of(row).refund
        if self._count_refund_request(intent_id) <= script.unmade:
            return _unmade(script)
        return self._refund(row, amount, rules.metadata_in(params))

    def _count_refund_request(self, intent_id: str) -> int:
        """Count one more request for a refund of this payment, and return their number."""
        self._ledger.write(
            "INSERT INTO refund_requests VALUES (?, 1) ON CONFLICT (payment_intent) DO UPDATE SET requests = requests + 1",
            intent_id,
        )
        counted = self._ledger.one("SELECT requests FROM refund_requests WHERE payment_intent = ?", intent_id)
        return int(counted["requests"]) if counted else 0

    def _refund(self, row: Row, amount: int, metadata: Mapping[str, str]) -> SandboxReply:
        script, refund_id = self._of(row).refund, self._ids("re")
        reason = "expired_or_canceled_card" if script.status == "failed" else None
        self._ledger.write(
            "INSERT INTO refunds (id, payment_intent, charge, amount, currency, status, failure_reason, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(refund_id, row["id"], row["latest_charge"], amount, row["currency"], script.status, reason),
            int(self._clock()),
        )
        self._ledger.write(
            "INSERT INTO refund_details VALUES (?, ?, ?)",
            *(
                refund_id,
                orjson.dumps(metadata).decode(),
                script.pending_reason if script.status == "pending" else None,
            ),
        )
        if script.manner is Manner.ERROR_500 and not script.unmade:
            return replies.server_error(saved=True)
        manner = Manner.ANSWER if script.unmade else script.manner
        return replies.ok(self._refund_json(self._refund_row(refund_id)), manner)

    def _refunded(self, intent_id: str) -> int:
        sql = "SELECT coalesce(sum(amount), 0) AS total FROM refunds WHERE payment_intent = ? AND status != 'failed'"
        row = self._ledger.one(sql, intent_id)
        return int(row["total"]) if row else 0

    def retrieve_refund(self, refund_id: str, _: Params, __: str | None) -> SandboxReply:
        row = self._ledger.one("SELECT * FROM refunds WHERE id = ?", refund_id)
        if row is None:
            return replies.missing("refund", refund_id, param="refund")
        return replies.ok(self._looked_at(row))

    def list_refunds(self, _: str, params: Params, __: str | None) -> SandboxReply:
        intent_id = params.get("payment_intent")
        if intent_id is None:
            return self._listed("refunds", params, self._with_intent(params, self._refund_json))
        row = self._intent(intent_id)
        if row is None:
            return replies.missing("payment_intent", intent_id, param="payment_intent")
        return _silenced(row, self._of(row)) or self._listed(
            "refunds", params, self._looked_at, only=("payment_intent = ?", intent_id)
        )

    def _looked_at(self, row: Row) -> Json:
        return self._refund_json(self._look_at_refund(row))

    def _look_at_refund(self, row: Row) -> Row:
        """Count a look at a refund that goes on: one that is pending may succeed, and one that succeeded may fail."""
        script, status = self._of(self._intent_row(row["payment_intent"])).refund, row["status"]
        after = {"pending": script.settles_after, "succeeded": script.fails_after}.get(status)
        if after is None:
            return row
        self._ledger.write("UPDATE refunds SET looks = looks + 1 WHERE id = ?", row["id"])
        if row["looks"] >= after:
            self._end_refund(row["id"], "failed" if status == "succeeded" else "succeeded")
        return self._refund_row(row["id"])

    def _end_refund(self, refund_id: str, status: str) -> None:
        reason = LATE_FAILURE if status == "failed" else None
        self._ledger.write("UPDATE refunds SET status = ?, failure_reason = ? WHERE id = ?", status, reason, refund_id)

    # -- what people may do beside the API

    def do(self, deed: Deed, intent_id: str) -> bool:
        """Do to a payment what others may do beside the API. False: there is no such payment, or it does not stand so."""
        row = self._intent(intent_id)
        if row is None:
            return False
        match deed, row["status"]:
            case Deed.HEAL, _:
                self._ledger.write("UPDATE payment_intents SET healed = 1 WHERE id = ?", intent_id)
            case (Deed.SETTLE, "processing") | (Deed.CAPTURE, "canceled" | "requires_confirmation"):
                self._capture(row)
            case Deed.CANCEL, _:
                return self._cancel_by_hand(row)
            case ((Deed.DISPUTE | Deed.WARN | Deed.WIN_DISPUTE | Deed.LOSE_DISPUTE), "succeeded"):
                self._dispute(row, _DISPUTED[deed])
            case ((Deed.REFUND | Deed.REFUND_PART), "succeeded"):
                return self._refund_by_hand(row, share=1 if deed is Deed.REFUND else 2)
            case Deed.FAIL_REFUNDS, "succeeded":
                sql = "SELECT id FROM refunds WHERE payment_intent = ? AND status = 'succeeded'"
                for refund in self._ledger.all(sql, intent_id):
                    self._end_refund(refund["id"], "failed")
            case _:
                return False
        return True

    def _cancel_by_hand(self, row: Row) -> bool:
        if row["status"] not in CANCELABLE:
            return False
        self._ledger.write(
            "UPDATE payment_intents SET status = 'canceled', canceled_at = ? WHERE id = ?",
            *(int(self._clock()), row["id"]),
        )
        return True

    def _dispute(self, row: Row, status: str) -> None:
        """The charge has a dispute, which stands so now. A bank's question that is settled for us is closed, and not won."""
        known = self._ledger.one("SELECT * FROM disputes WHERE payment_intent = ?", row["id"])
        if known is None:
            self._ledger.write(
                "INSERT INTO disputes VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(self._ids("du"), row["latest_charge"], row["id"], self._captured(row), row["currency"], status),
                int(self._clock()),
            )
            return
        status = "warning_closed" if known["status"].startswith("warning") and status == "won" else status
        self._ledger.write("UPDATE disputes SET status = ? WHERE id = ?", status, known["id"])

    def list_disputes(self, _: str, params: Params, __: str | None) -> SandboxReply:
        """The disputes of one payment, or of all."""
        intent_id = params.get("payment_intent")
        only = ("payment_intent = ?", intent_id) if intent_id is not None else None
        return self._listed("disputes", params, self._with_intent(params, _dispute_json), only=only)

    def _with_intent(self, params: Params, shown: Callable[[Row], Json]) -> Callable[[Row], Json]:
        """How the objects of a list are shown: with their payment instead of its id, if that is asked for."""
        if "data.payment_intent" not in _expanded(params):
            return shown
        intent: Callable[[Row], Json] = lambda row: self._intent_json(self._intent_row(row["payment_intent"]))  # noqa: E731 - typed
        return lambda row: shown(row) | {"payment_intent": intent(row)}

    def _refund_by_hand(self, row: Row, *, share: int) -> bool:
        """Give a share (1: all, 2: half) of what is left back. Such a refund has none of our ids."""
        left = self._captured(row) - self._refunded(row["id"])
        if left // share == 0:
            return False
        self._ledger.write(
            "INSERT INTO refunds (id, payment_intent, charge, amount, currency, status, created)"
            " VALUES (?, ?, ?, ?, ?, 'succeeded', ?)",
            *(self._ids("re"), row["id"], row["latest_charge"], left // share, row["currency"], int(self._clock())),
        )
        return True

    def show(self, payment: str | None) -> Json:
        """The newest rows of the ledger, or those of one payment, named by its gateway id or by the payment id in its metadata."""
        chosen = "SELECT id FROM payment_intents WHERE id = ?1 OR json_extract(metadata, '$.payment_id') = ?1"
        owner = {
            "payment_intents": "id",
            "charges": "payment_intent",
            "refunds": "payment_intent",
            "confirms": "payment_intent",
        }
        shown: Json = {}
        for table, column in owner.items():
            where = f"WHERE {column} IN ({chosen})" if payment else ""
            sql = f"SELECT * FROM {table} {where} ORDER BY rowid DESC LIMIT {PEOPLE_ROWS_MAX}"  # noqa: S608 - constants
            shown[table] = [dict(row) for row in self._ledger.all(sql, *([payment] if payment else []))]
        return shown

    # -- shown

    def _intent_json(self, row: Row, *, expanded: bool = False) -> Json:
        """A payment as Stripe shows it. `expanded`: with its charge instead of the charge's id."""
        status = row["status"]
        action = {"type": "use_stripe_sdk", "use_stripe_sdk": {}} if status == "requires_action" else None
        return {
            "id": row["id"],
            "object": "payment_intent",
            "amount": row["amount"],
            "amount_capturable": 0,
            "amount_received": self._captured(row) if status == "succeeded" else 0,
            "canceled_at": row["canceled_at"],
            "capture_method": "automatic",
            "created": row["created"],
            "currency": row["currency"],
            "last_payment_error": orjson.loads(row["last_error"]) if row["last_error"] else None,
            "latest_charge": self._charge_json(row) if expanded and row["latest_charge"] else row["latest_charge"],
            "metadata": orjson.loads(row["metadata"]),
            "next_action": action,
            "payment_method": row["payment_method"] if row["method_attached"] else None,
            "payment_method_types": ["card"],
            "status": status,
        } | _TEST_MODE

    def _charge_json(self, row: Row) -> Json:
        captured, refunded = self._captured(row), self._refunded(row["id"])
        disputed = self._ledger.one("SELECT 1 FROM disputes WHERE payment_intent = ?", row["id"]) is not None
        return {
            "id": row["latest_charge"],
            "object": "charge",
            "amount": captured,
            "amount_captured": captured,
            "amount_refunded": refunded,
            "currency": row["currency"],
            "disputed": disputed,
            "payment_intent": row["id"],
            "refunded": refunded == captured,
            "status": "succeeded",
        } | _TEST_MODE

    # -- rows

    def _of(self, row: Row) -> Behaviour:
        behaviour = self._behaviour(row["payment_method"]) if row["payment_method"] else None
        return behaviour or Behaviour("no payment method yet", ())

    def _intent(self, intent_id: str) -> Row | None:
        return self._ledger.one("SELECT * FROM payment_intents WHERE id = ?", intent_id)

    def _intent_row(self, intent_id: str) -> Row:
        row = self._intent(intent_id)
        if row is None:
            raise LookupError(intent_id)
        return row

    def _refund_json(self, row: Row) -> Json:
        names = ("id", "payment_intent", "charge", "amount", "currency", "status", "created")
        refund: Json = {"object": "refund", "metadata": {}} | {name: row[name] for name in names}
        details = self._ledger.one("SELECT * FROM refund_details WHERE refund = ?", row["id"])
        if details is not None:
            refund["metadata"] = orjson.loads(details["metadata"])
            if details["pending_reason"] and row["status"] == "pending":
                refund["pending_reason"] = details["pending_reason"]
        return refund | ({"failure_reason": row["failure_reason"]} if row["failure_reason"] else {})

    def _refund_row(self, refund_id: str) -> Row:
        row = self._ledger.one("SELECT * FROM refunds WHERE id = ?", refund_id)
        if row is None:
            raise LookupError(refund_id)
        return row


def _expanded(params: Params) -> set[str]:
    return {value for name, value in params.items() if name.startswith("expand[")}


def _error_code(decline_code: str) -> str:
    return decline_code if decline_code == "authentication_required" else "card_declined"


def _next_confirm(row: Row, behaviour: Behaviour) -> Confirm:
    attempts: int = row["confirm_attempts"]
    return behaviour.confirms[min(attempts, len(behaviour.confirms) - 1)]


def _silenced(row: Row, behaviour: Behaviour) -> SandboxReply | None:
    """The reply to a payment that stopped answering at its first confirm; None if it answers, or if a person healed it."""
    if not row["confirm_attempts"] or row["healed"]:
        return None
    match behaviour.once_confirmed:
        case Manner.HANG:
            return replies.silence()
        case Manner.ERROR_500:
            return replies.server_error(saved=False)
        case Manner.MISSING:
            return replies.missing("payment_intent", row["id"], param="intent")
        case _:
            return None


def _seen(reply: SandboxReply) -> str:
    return str(reply.status) if reply.manner is Manner.ANSWER else reply.manner.name.lower()


def _integer(text: str | None) -> int | None:
    """The number if the text has at most twelve digits: no amount, time or page has more, but a card number has."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 12 else None  # noqa: PLR2004


def _method_json(token: str, brand: str, last4: str, month: int, year: int, created: int) -> Json:
    card = {"brand": brand, "last4": last4, "exp_month": month, "exp_year": year, "funding": "credit"}
    return {"id": token, "object": "payment_method", "type": "card", "card": card, "created": created} | _TEST_MODE


def _unmade(script: RefundBehaviour) -> SandboxReply:
    """The reply to a request that makes no refund."""
    match script.manner:
        case Manner.REFUSED:
            return replies.low_balance()
        case Manner.ERROR_500:
            return replies.server_error(saved=True)
        case manner:
            return SandboxReply(200, {}, manner, saved=False)


_DISPUTED = {
    Deed.DISPUTE: "needs_response",
    Deed.WARN: "warning_needs_response",
    Deed.WIN_DISPUTE: "won",
    Deed.LOSE_DISPUTE: "lost",
}
"""The status that a dispute has after each deed."""
_EVIDENCE_WITHIN_S = 7 * 86_400


def _dispute_json(row: Row) -> Json:
    names = ("id", "charge", "payment_intent", "amount", "currency", "status", "created")
    details = {"due_by": row["created"] + _EVIDENCE_WITHIN_S, "has_evidence": False}
    shown = {"object": "dispute", "reason": "fraudulent", "evidence_details": details}
    return shown | {name: row[name] for name in names} | _TEST_MODE


def _list_json(url: str, found: list[Json], limit: int) -> Json:
    return {"object": "list", "url": url, "has_more": len(found) > limit, "data": found[:limit]}


_TEST_MODE = {"livemode": False}
