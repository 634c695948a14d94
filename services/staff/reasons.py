"""Codes of cases and of answers of the gateway, as people read them. Pure."""

from collections.abc import Mapping
from typing import Final

REASON_WORDS: Final[Mapping[str, str]] = {
    "no_readable_answer": "No answer that can be read",
    "processing": "The gateway says that it is still at it",
    "unconfirmed": "The gateway has not seen our confirmation",
    "unknown_to_gateway": "Not known at the gateway",
    "gateway_unavailable": "The gateway takes no requests",
    "cancel_unconfirmed": "It could not be cancelled",
    "capture_differs": "The gateway charged something else than we asked for",
    "refunded_at_gateway": "Given back at the gateway, and not by Remit",
    "disputed": "The customer disputes the charge",
    "unknown_here": "The gateway has a charge that no payment of ours has",
    "not_captured": "Settled as charged, and the gateway has no charge",
    "not_refunded": "Settled as given back, and the gateway has no refund, or not of all",
    "reopened_by_person": "A decision was taken back",
    "refund_pending": "The gateway says that the refund is pending",
    "refund_too_large": "More than is left at the gateway",
    "nothing_left": "Nothing is left at the gateway",
    "decided_by_person": "A person decided",
}
"""Why a payment is in doubt. A code of the gateway is not here: it is shown as it is."""
ANSWER_WORDS: Final[Mapping[str, str]] = {"unknown": "no readable answer"}
"""Answers whose code would say something else to people."""
