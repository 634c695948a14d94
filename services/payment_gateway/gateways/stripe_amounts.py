"""Amounts as Stripe counts them. Pure.

Stripe counts most currencies in the minor unit of ISO 4217, and these in another one (https://docs.stripe.com/currencies#special-cases).
"""

_HUNDRED_TO_ONE = frozenset({"ISK", "UGX"})  # no decimals in ISO 4217, two at Stripe
_ONE_TO_HUNDRED = frozenset({"MGA"})  # two decimals in ISO 4217, none at Stripe


def to_stripe(amount_minor: int, currency: str) -> int | None:
    """An amount in the minor unit of ISO 4217 as Stripe counts it, or None if Stripe cannot express it."""
    if currency in _HUNDRED_TO_ONE:
        return amount_minor * 100
    return _hundredth(amount_minor) if currency in _ONE_TO_HUNDRED else amount_minor


def from_stripe(amount: int, currency: str) -> int | None:
    """An amount as Stripe counts it in the minor unit of ISO 4217, or None if that cannot express it."""
    if currency in _ONE_TO_HUNDRED:
        return amount * 100
    return _hundredth(amount) if currency in _HUNDRED_TO_ONE else amount


def _hundredth(amount: int) -> int | None:
    whole, rest = divmod(amount, 100)
    return None if rest else whole
