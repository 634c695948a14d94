"""Encrypts a card for one payment, so that only Remit's payment service can read it (a JWE, RFC 7516).

Needs the library joserfc: `pip install 'remit-kit[cards]'`. The page for senders tells the form member by member.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from joserfc import jwe
from joserfc.jwk import RSAKey
from joserfc.registry import HeaderParameter

BINDING = "remit.payment_id"
"""The member of the header that binds the card to one payment. `crit` names it: who does not know it must refuse the whole."""
ALGORITHM = "RSA-OAEP-256"
ENCRYPTION = "A256GCM"

REGISTRY = jwe.JWERegistry(
    header_registry={BINDING: HeaderParameter("The payment this card is for", "str", required=True)},
    algorithms=[ALGORITHM, ENCRYPTION],
)


@dataclass(frozen=True, slots=True, repr=False)
class Card:
    """A card in the clear, which never shows itself: digits only, the month 1 to 12, the year in four digits.

    `name` and `postal_code` of the holder are for address verification. A verification value (CVV) has no place here: it is never taken.
    """

    number: str
    exp_month: int
    exp_year: int
    name: str | None = None
    postal_code: str | None = None


def encrypt_card(card: Card, *, payment_id: UUID, keys: Mapping[str, Any]) -> str:
    """The card as a compact JWE for this one payment, under the newest key of the published set: the last one of its `keys`."""
    newest = dict(keys["keys"][-1])
    header = {"alg": ALGORITHM, "enc": ENCRYPTION, "kid": newest["kid"], "crit": [BINDING], BINDING: str(payment_id)}
    plaintext = {name: value for name, value in asdict(card).items() if value is not None}
    return jwe.encrypt_compact(header, json.dumps(plaintext), RSAKey.import_key(newest), registry=REGISTRY)
