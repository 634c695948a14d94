"""A card that its sender encrypted for the payment gateway service.

The form is a JWE in compact serialization (RFC 7516), `alg` RSA-OAEP-256 and `enc` A256GCM, whose protected header
names the key (`kid`) and the one payment the card is for (`remit.payment_id`). GCM authenticates the header with the
ciphertext: one cut out of a message cannot be pasted under another payment. `crit` marks the binding, so that a reader
who does not know it must refuse; a sender whose library cannot write `crit` may leave it out, we check either way.

The plaintext is `{"number": "...", "exp_month": 1-12, "exp_year": 2000-2099}`, perhaps with `name` and `postal_code` of the card holder
for address verification (AVS), and nothing else. A card security code is
refused with a reason of its own: it may not be kept, not even encrypted (PCI DSS 3.3.1.2).

A member that stands twice in the header or in the plaintext is refused (RFC 7515, 4): of two readers one would take the
first and the other the last. The JSON serializations of RFC 7516 have headers beside the protected one. They are not read.

Keys rotate by overlap: the private set holds the old and the new key, senders move to the new one, the old one is
removed when nothing encrypted with it can still arrive.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson
from joserfc import jwe as jose
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.registry import HeaderParameter

from shared.card_data.brands import passes_luhn
from shared.card_data.scan import has_card_data
from shared.card_data.verification_values import is_cvv_name

BINDING: Final = "remit.payment_id"
ALGORITHM: Final = "RSA-OAEP-256"
ENCRYPTION: Final = "A256GCM"
JWE_CHARACTERS_MAX = 4096  # ours have about 800; a 4096-bit key and a long `kid` stay under 2 000
LOCAL_KEY_BITS = 3072  # 128 bits of strength, as PCI DSS recommends; decrypting takes 2 ms
_KEY_BITS_MIN = 2048  # NIST SP 800-131A

_ALLOWED_HEADER = frozenset({"alg", "enc", "kid", "crit", BINDING, "typ", "cty"})
_REGISTRY = jose.JWERegistry(
    header_registry={BINDING: HeaderParameter("The payment this card is for", "str", required=True)},
    algorithms=[ALGORITHM, ENCRYPTION],
)
_NUMBER = re.compile(r"[0-9]{12,19}")
_HOLDER = re.compile(
    r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,100}"
)  # a name or a postal code: one line of at most 100 characters

Jwk = Mapping[str, Any]
JwkSet = Mapping[str, Any]


class CardRefusal(StrEnum):
    """Why a card is not taken. The values are reason codes: a sender's program reads them."""

    UNREADABLE = "card_unreadable"
    UNSUPPORTED_ENCRYPTION = "card_encryption_unsupported"
    UNKNOWN_KEY = "card_key_unknown"
    NOT_FOR_PAYMENT = "card_not_for_this_payment"
    CVV_PRESENT = "card_cvv_present"
    UNEXPECTED_MEMBER = "card_member_unexpected"
    INVALID_NUMBER = "card_number_invalid"
    INVALID_EXPIRY = "card_expiry_invalid"


@dataclass(frozen=True, slots=True, repr=False)
class CardDetails:
    """A card in the clear: `number` digits only, `exp_month` 1 to 12, `exp_year` in four digits. It never shows itself.

    Whether the card has expired is the bank's to say. Raises ValueError, without the value, for what is no card.
    """

    number: str
    exp_month: int
    exp_year: int
    name: str | None = None
    postal_code: str | None = None

    def __post_init__(self) -> None:
        if not (_NUMBER.fullmatch(self.number) and passes_luhn(self.number.encode("ascii"))):
            raise ValueError("not a card number")
        if not (1 <= self.exp_month <= 12 and 2000 <= self.exp_year <= 2099):  # noqa: PLR2004 - a month and a year
            raise ValueError("not an expiry date")
        if not all(text is None or _HOLDER.fullmatch(text) for text in (self.name, self.postal_code)):
            raise ValueError("not a name or postal code")

    def __repr__(self) -> str:
        return "CardDetails(****)"


def read_card(number: str, exp_month: int, exp_year: int) -> CardDetails | CardRefusal:
    """A card as a person types it: spaces and hyphens between the digits are dropped."""
    digits = number.replace(" ", "").replace("-", "")
    if not (_NUMBER.fullmatch(digits) and passes_luhn(digits.encode("ascii"))):
        return CardRefusal.INVALID_NUMBER
    try:
        return CardDetails(digits, exp_month, exp_year)
    except ValueError:
        return CardRefusal.INVALID_EXPIRY


def encrypt_card(card: CardDetails, *, payment_id: UUID, public_key_jwk: Jwk) -> str:
    """The card for this one payment, as a compact JWE. The key is one member of the published JWK set.

    Raises ValueError if the key is not an RSA key of 2048 bits or more.
    """
    key = _rsa_key(public_key_jwk)
    header = {"alg": ALGORITHM, "enc": ENCRYPTION, "kid": key.kid, "crit": [BINDING], BINDING: str(payment_id)}
    plaintext = orjson.dumps({name: value for name, value in asdict(card).items() if value is not None})
    return jose.encrypt_compact(header, plaintext, key, registry=_REGISTRY)


def generate_keyset(kid: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A new key as (public JWK set, private JWK set); its `kid` is its RFC 7638 thumbprint unless given.

    To rotate, join the `keys` of the old and the new private set.
    """
    key = RSAKey.generate_key(LOCAL_KEY_BITS, {"use": "enc", "alg": ALGORITHM, **({"kid": kid} if kid else {})})
    key.ensure_kid()
    return {"keys": [dict(key.as_dict(private=False))]}, {"keys": [dict(key.as_dict(private=True))]}


class CardKeyring:
    """The private keys by `kid`. It shows key ids, never keys."""

    def __init__(self, keys: Mapping[str, RSAKey]) -> None:
        self._keys = dict(keys)

    @classmethod
    def load(cls, private_jwks: JwkSet) -> "CardKeyring":
        """Reads a private JWK set. Raises ValueError, without key material, if a key is not usable here."""
        entries = private_jwks.get("keys")
        if not isinstance(entries, list) or not entries:
            raise ValueError("not a JWK set: no member `keys`, or it is empty")
        keys = [_rsa_key(entry) for entry in entries]
        for key in keys:
            if not key.is_private:
                raise ValueError(f"key {key.kid} is a public key: decrypting takes the private one")
        if len({key.kid for key in keys}) < len(keys):
            raise ValueError("two keys have the same `kid`")
        return cls({str(key.kid): key for key in keys})

    def __repr__(self) -> str:
        return f"CardKeyring({', '.join(sorted(self._keys))})"

    def public_jwks(self) -> dict[str, Any]:
        """The set to publish to senders, in the order of loading."""
        return {"keys": [dict(key.as_dict(private=False)) for key in self._keys.values()]}

    def private_jwks(self) -> dict[str, Any]:
        """The set with the private keys, in the order of loading, to be written to a file of ours alone."""
        return {"keys": [dict(key.as_dict(private=True)) for key in self._keys.values()]}

    def decrypt(self, jwe: str, payment_id: UUID) -> CardDetails | CardRefusal:
        """The card, if encrypted for a key of ours and for this payment. Never raises for what a sender wrote."""
        header = _read_header(jwe)
        if isinstance(header, CardRefusal):
            return header
        kid = header.get("kid")
        key = self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            return CardRefusal.UNKNOWN_KEY
        if str(header.get(BINDING)).lower() != str(payment_id):
            return CardRefusal.NOT_FOR_PAYMENT
        plaintext = _decrypt(jwe, key)
        return CardRefusal.UNREADABLE if plaintext is None else _read_plaintext(plaintext)


def _rsa_key(entry: Jwk) -> RSAKey:
    try:
        key = RSAKey.import_key(dict(entry))
        key.check_use("enc")
        key.check_alg(ALGORITHM)
    except (JoseError, ValueError, TypeError, KeyError):
        raise ValueError(f"not an RSA key for {ALGORITHM}") from None  # what they say may quote the key
    if key.raw_value.key_size < _KEY_BITS_MIN:
        raise ValueError(f"an RSA key of {key.raw_value.key_size} bits is too short: {_KEY_BITS_MIN} at least")
    key.ensure_kid()
    return key


def _read_header(jwe: str) -> dict[str, Any] | CardRefusal:
    """The protected header, not yet authenticated: only good for picking the key and refusing early."""
    if len(jwe) > JWE_CHARACTERS_MAX or not jwe.isascii() or jwe.count(".") != 4:  # noqa: PLR2004 - five parts
        return CardRefusal.UNREADABLE
    encoded, _, _ = jwe.partition(".")
    try:
        header = read_unambiguous(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except ValueError:  # `binascii.Error` is one
        return CardRefusal.UNREADABLE
    if not isinstance(header, dict):
        return CardRefusal.UNREADABLE
    supported = (
        (header.get("alg"), header.get("enc")) == (ALGORITHM, ENCRYPTION)
        and header.keys() <= _ALLOWED_HEADER  # `zip` among the rest: compression before encryption tells lengths apart
        and header.get("crit", [BINDING]) == [BINDING]
    )
    return header if supported else CardRefusal.UNSUPPORTED_ENCRYPTION


def _decrypt(jwe: str, key: RSAKey) -> bytes | None:
    """One answer for every failure, so that nobody can ask our key questions (RFC 7516, 11.5)."""
    try:
        return jose.decrypt_compact(jwe, key, registry=_REGISTRY).plaintext
    except Exception:  # noqa: BLE001 - whatever two libraries raise on bytes of a stranger: the card is unreadable
        return None


def _read_plaintext(plaintext: bytes) -> CardDetails | CardRefusal:
    try:
        members = read_unambiguous(plaintext)
    except ValueError:
        return CardRefusal.UNREADABLE
    if _names_cvv(members):
        return CardRefusal.CVV_PRESENT
    match members:
        case {"number": str(number), "exp_month": int(month), "exp_year": int(year), **others} if month is not True:
            holder = {name: others.pop(name, None) for name in ("name", "postal_code")}
            return CardRefusal.UNEXPECTED_MEMBER if others else _with_holder(read_card(number, month, year), holder)
        case _:
            return CardRefusal.UNREADABLE


def read_unambiguous(data: bytes) -> Any:
    """JSON that every reader understands alike: no member twice in an object. Raises ValueError, without the data."""
    try:
        orjson.loads(data)  # stricter than Python's parser about UTF-8, constants and depth
        return json.loads(data, object_pairs_hook=_members_once)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _members_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands twice")
    return members


def _with_holder(card: CardDetails | CardRefusal, holder: Mapping[str, Any]) -> CardDetails | CardRefusal:
    """The card with the name and postal code of its holder. Neither may hide another card number or be anything but a text."""
    if isinstance(card, CardRefusal):
        return card
    texts = [text for text in holder.values() if text is not None]
    if not all(isinstance(text, str) and not has_card_data(text) for text in texts):
        return CardRefusal.UNREADABLE
    try:
        return replace(card, **holder)
    except ValueError:
        return CardRefusal.UNREADABLE


def _names_cvv(value: object) -> bool:
    """Whether any member at any depth is named as a security code. Depth costs no recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if any(map(is_cvv_name, item)):
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False
