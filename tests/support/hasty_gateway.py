"""A client of a gateway that soon gives up waiting for an answer, on a machine that may be slow."""

from unittest.mock import patch

from services.payment_gateway.gateways import stripe
from services.payment_gateway.gateways.stripe import StripeGateway

PATIENT_S = 20.0
"""A busy machine must not turn an answer into a timeout."""
HASTY_S = 0.3
"""Against what never answers, and only there."""


def hasty_gateway(url: str, *, timeout_s: float = HASTY_S, connections: int = 8) -> StripeGateway:
    """The production adapter. `timeout_s` bounds the answer only: of a timeout this short the share for connecting is too little on a
    busy machine, and a request that was never sent is another thing than one without an answer."""
    with patch.multiple(stripe, CONNECT_TIMEOUT_S=PATIENT_S, CONNECT_SHARE=PATIENT_S / timeout_s):
        return StripeGateway(api_key="sk_test_1", base_url=url, timeout_s=timeout_s, connections=connections)
