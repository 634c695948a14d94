"""Stripe's rules for requests, as data: which parameters an endpoint takes, which exclude each other, which amounts it charges.

The parameters are those of the API version that the installed SDK pins; the words stand in the SDK's own documentation of each parameter.
"""

import re
from collections.abc import Mapping

from deploy.sandbox import replies
from deploy.sandbox.replies import SandboxReply

Params = Mapping[str, str]

CREATE_INTENT = frozenset(
    {
        "amount",
        "currency",
        "customer",
        "description",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "payment_method",
        "payment_method_types[",
        "allowed_payment_method_types[",
        "excluded_payment_method_types[",
        "automatic_payment_methods[",
        "capture_method",
        "setup_future_usage",
        "confirm",
        "off_session",
        "mandate",
        "return_url",
        "error_on_requires_action",
        "metadata[",
        "expand[",
    }
)
CONFIRM_INTENT = frozenset(
    {
        "payment_method",
        "off_session",
        "mandate",
        "return_url",
        "error_on_requires_action",
        "setup_future_usage",
        "expand[",
    }
)

CREATE_REFUND = frozenset({"payment_intent", "amount", "reason", "metadata[", "expand["})
REFUND_REASONS = frozenset({"duplicate", "fraudulent", "requested_by_customer"})

_WITH_CONFIRM = ("off_session", "mandate", "return_url", "error_on_requires_action")
"""Parameters of a new payment that can only be given with `confirm=true`. The sandbox confirms in a request of its own only."""
_EXCLUDING = (
    ("allowed_payment_method_types", "excluded_payment_method_types"),
    ("allowed_payment_method_types", "automatic_payment_methods"),
)
METADATA_ENTRIES_MAX, METADATA_NAME_MAX, METADATA_VALUE_MAX = 50, 40, 500
DESCRIPTOR_MAX = 22

AMOUNT_MAX = 99_999_999  # eight digits
_LEAST = (
    "usd 50 aed 200 aud 50 brl 50 cad 50 chf 50 czk 1500 dkk 250 eur 50 gbp 30 hkd 400 huf 17500 inr 50 jpy 50 mxn 1000 "
    "myr 200 nok 300 nzd 50 pln 200 ron 200 sek 300 sgd 50 thb 1000"
)
LEAST_AMOUNT = {pair.split()[0]: int(pair.split()[1]) for pair in re.findall(r"[a-z]{3} [0-9]+", _LEAST)}
"""The smallest charge, by currency (https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts)."""
_STEP = dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10) | dict.fromkeys(("isk", "ugx"), 100)
"""Amounts in these currencies are multiples of this number (https://docs.stripe.com/currencies#special-cases)."""
_NOT_LISTED = "bgn cup ern hrk iqd irr kpw lyd mru sdg ssp stn syp tmt uyi ved ves zwg"
_UNKNOWN = frozenset(_NOT_LISTED.split())


def broken_by_new_intent(params: Params, amount: int | None, currency: str) -> SandboxReply | None:
    """The refusal of a new payment, or None."""
    if "amount" not in params or "currency" not in params:
        return replies.invalid("Missing required param.", code="parameter_missing", param="amount")
    if "payment_method_types[0]" in params:  # removed in API version 2026-09-30.endive, which SDK 16 uses
        return replies.invalid("payment_method_types is gone", code="payment_method_types_no_longer_supported")
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()) or currency in _UNKNOWN:  # noqa: PLR2004 - ISO 4217
        return replies.invalid("Invalid currency", param="currency")
    return _broken_by_amount(amount, currency) or _broken_by_parameters(params) or _broken_by_texts(params)


def _broken_by_amount(amount: int | None, currency: str) -> SandboxReply | None:
    if amount is None or amount <= 0:
        return replies.invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > AMOUNT_MAX:
        return replies.invalid("Amount must be no more than 999,999.99", code="amount_too_large", param="amount")
    least = LEAST_AMOUNT.get(currency, 1)
    if amount < least:
        return replies.invalid(f"Amount must be at least {least} {currency}", code="amount_too_small", param="amount")
    if amount % _STEP.get(currency, 1):
        return replies.invalid(f"Amounts in {currency} must end in 0", code="parameter_invalid_integer", param="amount")
    return None


def _broken_by_parameters(params: Params) -> SandboxReply | None:
    roots = {name.partition("[")[0] for name in params}
    for name in _WITH_CONFIRM:
        if name in roots:
            return replies.excluded(name, f"You can only provide `{name}` with `confirm=true`.")
    for one, other in _EXCLUDING:
        if {one, other} <= roots:
            return replies.excluded(one, f"You may only specify one of these parameters: {one}, {other}.")
    return None


def _broken_by_texts(params: Params) -> SandboxReply | None:
    if "statement_descriptor" in params:
        return replies.excluded("statement_descriptor", "For card charges, use `statement_descriptor_suffix` instead.")
    suffix = params.get("statement_descriptor_suffix", "A")
    if len(suffix) > DESCRIPTOR_MAX or not any(letter.isalpha() for letter in suffix) or set(suffix) & set("<>\\'\"*"):
        return replies.invalid("Invalid statement descriptor", param="statement_descriptor_suffix")
    return _broken_by_metadata(params)


def metadata_in(params: Params) -> dict[str, str]:
    """The metadata of a request."""
    return {name[9:-1]: value for name, value in params.items() if name.startswith("metadata[")}


def _broken_by_metadata(params: Params) -> SandboxReply | None:
    metadata = metadata_in(params)
    too_long = any(len(name) > METADATA_NAME_MAX or len(value) > METADATA_VALUE_MAX for name, value in metadata.items())
    if too_long or len(metadata) > METADATA_ENTRIES_MAX:
        return replies.invalid("Metadata has at most 50 entries, of 40 and 500 characters", param="metadata")
    return None


def broken_by_new_refund(params: Params, amount: int | None, left: int) -> SandboxReply | None:
    """The refusal of a refund of a captured payment, or None. `left` is what was not given back yet.

    Stripe gives no code with the amount that is too large (woocommerce/woocommerce-gateway-stripe#1315).
    """
    if left == 0:
        return replies.refused_refund("charge_already_refunded", "The charge has already been refunded.")
    if amount is None or amount <= 0:
        return replies.invalid("Invalid positive integer", code="parameter_invalid_integer", param="amount")
    if amount > left:
        sentence = f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})"
        return replies.invalid(sentence, param="amount")
    if params.get("reason", "duplicate") not in REFUND_REASONS:
        return replies.invalid("Invalid reason", param="reason")
    return _broken_by_metadata(params)


def broken_by_confirm(params: Params) -> SandboxReply | None:
    """The refusal of a confirm, or None. Who confirms while the customer is there must say where to send the customer back to."""
    off_session = params.get("off_session", "false") != "false"
    if not off_session and not params.get("return_url"):
        sentence = "You must provide a `return_url`: a payment method might redirect your customer off your page."
        return replies.invalid(sentence, code="parameter_missing", param="return_url")
    for name in ("setup_future_usage", "error_on_requires_action"):
        if off_session and name in params:
            return replies.excluded(name, f"You cannot confirm with `off_session=true` when `{name}` is also set.")
    return None


# -- keys

_RESOURCES = {
    "payment_intents": "intents",
    "refunds": "refunds",
    "payment_methods": "methods",
    "customers": "customers",
    "disputes": "disputes",
}
"""Resources, by the path of their endpoints: the word with which a restricted key of the sandbox names its permission."""


def refused_key(key: str, method: str, path: str) -> SandboxReply | None:
    """The refusal of a key, or None.

    A secret test key may do everything. A restricted one may do what its name says: `rk_test_intents_readrefunds` may write payments and
    read refunds.
    """
    if key.startswith("sk_test_"):
        return None
    if key.startswith("pk_"):
        return replies.unauthorised("This API call cannot be made with a publishable API key.", 401)
    if not key.startswith("rk_test_"):
        return replies.unauthorised("Invalid API Key provided.", 401)
    resource = _RESOURCES.get(path.split("/")[2] if path.count("/") > 1 else "", "")
    allowed = {resource, f"read{resource}"} if method == "GET" else {resource}
    if allowed & set(key.removeprefix("rk_test_").split("_")):
        return None
    return replies.unauthorised("The provided key does not have the required permissions for this endpoint.", 403)
