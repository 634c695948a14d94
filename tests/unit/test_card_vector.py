"""The committed example of an encrypted card: our reader opens it, and so does another library, part by part."""

import json
from base64 import urlsafe_b64decode
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from remit_kit.cards import Card, encrypt_card

from shared.card_data.encryption import ALGORITHM, BINDING, ENCRYPTION, CardDetails, CardKeyring, CardRefusal
from tests.support.environment import ROOT

VECTOR: dict[str, Any] = json.loads((ROOT / "shared/kit/vectors/card.json").read_text())
PAYMENT = UUID(VECTOR["payment_id"])
OF_HEADER = {"alg": ALGORITHM, "enc": ENCRYPTION, "crit": [BINDING], BINDING: str(PAYMENT)}
NUMBERS = ("n", "e", "d", "p", "q", "dp", "dq", "qi")
"""Of a private RSA key (RFC 7518, 6.3)."""


def decoded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def opened_by_hand(jwe: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and plaintext, by the steps of RFC 7516, 5.2, with nothing but the two ciphers."""
    head, wrapped, iv, text, tag = jwe.split(".")
    private = VECTOR["private_keys"]["keys"][0]
    n, e, d, p, q, dp, dq, qi = (int.from_bytes(decoded(private[name])) for name in NUMBERS)
    key = rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)).private_key()
    content_key = key.decrypt(decoded(wrapped), padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))
    plaintext = AESGCM(content_key).decrypt(decoded(iv), decoded(text) + decoded(tag), head.encode())
    return json.loads(decoded(head)), json.loads(plaintext)


def test_our_reader_opens_it() -> None:
    keyring = CardKeyring.load(VECTOR["private_keys"])
    assert keyring.public_jwks() == VECTOR["public_keys"]
    assert keyring.decrypt(VECTOR["jwe"], PAYMENT) == CardDetails(**VECTOR["plaintext"])
    assert keyring.decrypt(VECTOR["jwe"], uuid4()) is CardRefusal.NOT_FOR_PAYMENT


def test_it_is_as_the_page_for_senders_says_member_by_member() -> None:
    header, plaintext = opened_by_hand(VECTOR["jwe"])
    assert header == VECTOR["protected_header"] == {**OF_HEADER, "kid": VECTOR["public_keys"]["keys"][0]["kid"]}
    assert plaintext == VECTOR["plaintext"]


def test_the_kit_makes_the_same_form() -> None:
    jwe = encrypt_card(Card(**VECTOR["plaintext"]), payment_id=PAYMENT, keys=VECTOR["public_keys"])
    assert opened_by_hand(jwe) == opened_by_hand(VECTOR["jwe"])


@pytest.mark.parametrize("part", range(5))
def test_no_part_of_it_can_be_changed(part: int) -> None:
    parts = VECTOR["jwe"].split(".")
    first, rest = parts[part][0], parts[part][1:]
    parts[part] = ("A" if first != "A" else "B") + rest
    changed = ".".join(parts)
    with pytest.raises((InvalidTag, ValueError)):
        opened_by_hand(changed)
    assert isinstance(CardKeyring.load(VECTOR["private_keys"]).decrypt(changed, PAYMENT), CardRefusal)
