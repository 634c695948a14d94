"""A client of the gateway that soon gives up waiting for an answer, on a machine that may be slow."""

from unittest.mock import patch

from services.payment_gateway.gateways import stripe
from services.payment_gateway.gateways.stripe import StripeGateway

PATIENT_S = 20.0
"""Long enough that a busy machine turns no answer into a timeout."""
HASTY_S = 0.3
"""Short; only for servers that never answer."""


def hasty_gateway(url: str, *, connections: int = 8) -> StripeGateway:
    """The production adapter. `HASTY_S` limits only the answer. Of so short a timeout the part for connecting would be too little on a
    busy machine, and a request that was never sent is not the same as one without an answer."""
    with patch.multiple(stripe, CONNECT_TIMEOUT_S=PATIENT_S, CONNECT_SHARE=PATIENT_S / HASTY_S):
        return StripeGateway(api_key="sk_test_1", base_url=url, timeout_s=HASTY_S, connections=connections)
