"""A card reaches the payment gateway service encrypted for one payment, and is decrypted only there."""

import base64
import json
import os
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe as jose
from joserfc.jwk import RSAKey

from shared.card_data.encryption import (
    ALGORITHM,
    BINDING,
    ENCRYPTION,
    JWE_CHARACTERS_MAX,
    CardDetails,
    CardKeyring,
    CardRefusal,
    encrypt_card,
    generate_keyset,
    read_card,
)
from shared.card_data.fingerprint import fingerprint
from shared.card_data.scan import has_card_data
from tests.support.card_keys import card_keys

PAYMENT = UUID("6f9619ff-8b86-4d01-b42d-00cf4fc964ff")
ANOTHER_PAYMENT = UUID("6f9619ff-8b86-4d01-b42d-00cf4fc964fe")
CARD = CardDetails("4242424242424242", 12, 2030)
PUBLIC, PRIVATE = card_keys()
NEXT_PUBLIC, NEXT_PRIVATE = generate_keyset("2026-07")
KEY: dict[str, Any] = PUBLIC["keys"][0]
KEYRING = CardKeyring.load(PRIVATE)
HEADER = {"alg": ALGORITHM, "enc": ENCRYPTION, "kid": KEY["kid"], "crit": [BINDING], BINDING: str(PAYMENT)}
PLAINTEXT = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2030}


def sealed(plaintext: object = PLAINTEXT, header: dict[str, Any] | None = None, *, key: dict[str, Any] = KEY) -> str:
    """A JWE as another library might write it, with any header and plaintext."""
    header = HEADER if header is None else header
    registry = jose.JWERegistry(
        algorithms=["RSA-OAEP", "RSA-OAEP-256", "A256GCM", "A128GCM", "DEF"], strict_check_header=False
    )
    registry.header_registry[BINDING] = registry.header_registry["kid"]
    registry.header_registry["exp"] = registry.header_registry["kid"]
    content = plaintext if isinstance(plaintext, bytes) else json.dumps(plaintext)
    return jose.encrypt_compact(header, content, RSAKey.import_key(key), registry=registry)


def forged(header: object) -> str:
    """A JWE with a header that no library would write, and with other parts that look right."""
    return f"{base64url(json.dumps(header).encode())}.{'.'.join(sealed().split('.')[1:])}"


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sealed_by_hand(header: bytes, plaintext: bytes = json.dumps(PLAINTEXT).encode()) -> str:
    """A JWE whose header is exactly these bytes, and which is right in all else: whoever wrote it knows the public key."""
    content_key, nonce, key = os.urandom(32), os.urandom(12), RSAKey.import_key(KEY).raw_value
    assert isinstance(key, RSAPublicKey)
    wrapped = key.encrypt(content_key, OAEP(MGF1(SHA256()), SHA256(), None))
    sealed_text = AESGCM(content_key).encrypt(nonce, plaintext, base64url(header).encode())
    parts = (header, wrapped, nonce, sealed_text[:-16], sealed_text[-16:])
    return ".".join(map(base64url, parts))


def test_a_card_arrives_as_it_was_sent() -> None:
    jwe = encrypt_card(CARD, payment_id=PAYMENT, public_key_jwk=KEY)
    assert KEYRING.decrypt(jwe, PAYMENT) == CARD
    assert len(jwe) < JWE_CHARACTERS_MAX / 4
    assert not has_card_data(jwe)


def test_the_same_card_never_looks_the_same() -> None:
    first, second = (encrypt_card(CARD, payment_id=PAYMENT, public_key_jwk=KEY) for _ in range(2))
    assert fingerprint(first) != fingerprint(second)
    assert len(fingerprint(first)) == 64


def test_a_sender_with_another_library_may_leave_out_crit() -> None:
    header = {name: value for name, value in HEADER.items() if name != "crit"}
    assert KEYRING.decrypt(sealed(header=header), PAYMENT) == CARD
    assert KEYRING.decrypt(sealed(header=header | {BINDING: str(PAYMENT).upper()}), PAYMENT) == CARD


def test_a_card_is_for_one_payment() -> None:
    jwe = encrypt_card(CARD, payment_id=PAYMENT, public_key_jwk=KEY)
    assert KEYRING.decrypt(jwe, ANOTHER_PAYMENT) is CardRefusal.NOT_FOR_PAYMENT
    unbound = {name: value for name, value in HEADER.items() if name not in {"crit", BINDING}}
    assert KEYRING.decrypt(sealed(header=unbound), PAYMENT) is CardRefusal.NOT_FOR_PAYMENT


def test_the_binding_cannot_be_rewritten() -> None:
    header = HEADER | {BINDING: str(ANOTHER_PAYMENT)}
    assert KEYRING.decrypt(forged(HEADER), PAYMENT) is CardRefusal.UNREADABLE, "joserfc orders members as we did"
    assert KEYRING.decrypt(forged(header), ANOTHER_PAYMENT) is CardRefusal.UNREADABLE


def test_keys_rotate_by_overlap() -> None:
    both = CardKeyring.load({"keys": [*PRIVATE["keys"], *NEXT_PRIVATE["keys"]]})
    old = encrypt_card(CARD, payment_id=PAYMENT, public_key_jwk=KEY)
    new = encrypt_card(CARD, payment_id=PAYMENT, public_key_jwk=NEXT_PUBLIC["keys"][0])
    assert both.decrypt(old, PAYMENT) == both.decrypt(new, PAYMENT) == CARD
    assert CardKeyring.load(NEXT_PRIVATE).decrypt(old, PAYMENT) is CardRefusal.UNKNOWN_KEY
    assert both.public_jwks() == {"keys": [*PUBLIC["keys"], *NEXT_PUBLIC["keys"]]}


@pytest.mark.parametrize(
    "holder", [{"name": "Zoë O'Hara-Smith", "postal_code": "SW1A 1AA"}, {"postal_code": "90210"}, {"name": "Jane"}]
)
def test_a_card_may_name_its_holder_for_address_verification(holder: dict[str, str]) -> None:
    card = CardDetails("4242424242424242", 12, 2030, **holder)
    assert KEYRING.decrypt(encrypt_card(card, payment_id=PAYMENT, public_key_jwk=PUBLIC["keys"][0]), PAYMENT) == card
    assert KEYRING.decrypt(sealed(PLAINTEXT | holder), PAYMENT) == card
    assert "Jane" not in repr(card)


def test_a_card_with_the_id_of_another_key_is_unreadable() -> None:
    both = CardKeyring.load({"keys": [*PRIVATE["keys"], *NEXT_PRIVATE["keys"]]})
    jwe = sealed(header=HEADER | {"kid": "2026-07"})
    assert both.decrypt(jwe, PAYMENT) is CardRefusal.UNREADABLE


@pytest.mark.parametrize(
    "change",
    [
        {"alg": "RSA-OAEP"},
        {"enc": "A128GCM"},
        {"zip": "DEF"},
        {"crit": [BINDING, "exp"], "exp": "1"},
        {"crit": [BINDING, BINDING]},
        {"epk": "x"},
        {"jku": "https://example.com/keys"},
    ],
    ids=str,
)
def test_other_encryption_is_refused(change: dict[str, Any]) -> None:
    assert KEYRING.decrypt(sealed(header=HEADER | change), PAYMENT) is CardRefusal.UNSUPPORTED_ENCRYPTION


@pytest.mark.parametrize(
    "change",
    [{"alg": "dir"}, {"alg": "none"}, {"alg": None}, {"crit": []}, {"crit": "x"}, {"crit": [BINDING, "zip"]}],
    ids=str,
)
def test_a_forged_header_is_refused(change: dict[str, Any]) -> None:
    assert KEYRING.decrypt(forged(HEADER | change), PAYMENT) is CardRefusal.UNSUPPORTED_ENCRYPTION


@pytest.mark.parametrize("name", [*HEADER, "typ"])
@pytest.mark.parametrize("is_escaped", [False, True])
def test_a_header_member_that_stands_twice_is_refused(name: str, *, is_escaped: bool) -> None:
    header = json.dumps(HEADER | {"typ": "JWE"})
    assert KEYRING.decrypt(sealed_by_hand(header.encode()), PAYMENT) == CARD, "by hand it is as good as by library"
    again = f"\\u{ord(name[0]):04x}{name[1:]}" if is_escaped else name
    for value in ("null", '"x"', json.dumps(HEADER.get(name, "JWE"))):
        for twice in (f'{header[:-1]}, "{again}": {value}}}', f'{{"{again}": {value}, {header[1:]}'):
            assert KEYRING.decrypt(sealed_by_hand(twice.encode()), PAYMENT) is CardRefusal.UNREADABLE


@pytest.mark.parametrize(
    "plaintext",
    [
        b'{"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "exp_year": 2030}',
        b'{"number": "4242424242424242", "exp_month": 12, "exp_year": 2030, "number": "4000056655665556"}',
        b'{"\\u006eumber": "4000056655665556", "number": "4242424242424242", "exp_month": 12, "exp_year": 2030}',
    ],
)
def test_a_card_with_a_member_twice_is_refused(plaintext: bytes) -> None:
    assert KEYRING.decrypt(sealed(plaintext), PAYMENT) is CardRefusal.UNREADABLE


def test_the_json_serializations_are_not_read() -> None:
    """They have headers that are not protected, and several recipients. Nothing of them reaches the library."""
    header, key, nonce, text, tag = JWE.split(".")
    parts: dict[str, Any] = {"protected": header, "iv": nonce, "ciphertext": text, "tag": tag}
    flattened = parts | {"encrypted_key": key, "unprotected": {"kid": "another.key"}, "header": {"alg": "a.b.c"}}
    general = parts | {"recipients": [{"header": {"kid": KEY["kid"], "alg": "....."}, "encrypted_key": key}]}
    for serialized in (flattened, general):
        assert KEYRING.decrypt(json.dumps(serialized), PAYMENT) is CardRefusal.UNREADABLE


def test_a_number_is_no_key_id() -> None:
    key = RSAKey.import_key(PRIVATE["keys"][0] | {"kid": "7"})
    keyring = CardKeyring({"7": key, "None": key})
    assert keyring.decrypt(sealed(header=HEADER | {"kid": "7"}), PAYMENT) == CARD
    for kid in (7, None):
        assert keyring.decrypt(forged(HEADER | {"kid": kid}), PAYMENT) is CardRefusal.UNKNOWN_KEY


@pytest.mark.parametrize("kid", ["", "unknown", None, 7, ["x"]])
def test_an_unknown_key_is_named_as_such(kid: object) -> None:
    assert KEYRING.decrypt(forged(HEADER | {"kid": kid}), PAYMENT) is CardRefusal.UNKNOWN_KEY


@pytest.mark.parametrize(
    ("plaintext", "refusal"),
    [
        (PLAINTEXT | {"cvv": "123"}, CardRefusal.CVV_PRESENT),
        (PLAINTEXT | {"CVC2": 1}, CardRefusal.CVV_PRESENT),
        (PLAINTEXT | {"cvv": None}, CardRefusal.CVV_PRESENT),
        ({"card": [PLAINTEXT | {"securityCode": "123"}]}, CardRefusal.CVV_PRESENT),
        (PLAINTEXT | {"nickname": "Jane"}, CardRefusal.UNEXPECTED_MEMBER),
        (PLAINTEXT | {"name": 5}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"name": ""}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"name": "x" * 101}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"name": "4242 4242 4242 4242"}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"postal_code": "9\n0"}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"postal_code": "\ud800"}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"number": "4242424242424241"}, CardRefusal.INVALID_NUMBER),
        (PLAINTEXT | {"number": "42"}, CardRefusal.INVALID_NUMBER),
        (PLAINTEXT | {"number": ""}, CardRefusal.INVALID_NUMBER),
        (PLAINTEXT | {"number": "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢"}, CardRefusal.INVALID_NUMBER),
        (PLAINTEXT | {"number": 4242424242424242}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"exp_month": 0}, CardRefusal.INVALID_EXPIRY),
        (PLAINTEXT | {"exp_month": 13}, CardRefusal.INVALID_EXPIRY),
        (PLAINTEXT | {"exp_year": 30}, CardRefusal.INVALID_EXPIRY),
        (PLAINTEXT | {"exp_year": 10**12}, CardRefusal.INVALID_EXPIRY),
        (PLAINTEXT | {"exp_month": True}, CardRefusal.UNREADABLE),
        (PLAINTEXT | {"exp_month": "12"}, CardRefusal.UNREADABLE),
        ({"number": "4242424242424242"}, CardRefusal.UNREADABLE),
        ([], CardRefusal.UNREADABLE),
        (None, CardRefusal.UNREADABLE),
        (b"\xff\xfe", CardRefusal.UNREADABLE),
        (b"4242424242424242", CardRefusal.UNREADABLE),
        (b"[" * 1_500, CardRefusal.UNREADABLE),
        (b'{"a":' * 300 + b"1" + b"}" * 300, CardRefusal.UNREADABLE),
    ],
)
def test_a_plaintext_that_is_no_card_is_refused_with_its_reason(plaintext: object, refusal: CardRefusal) -> None:
    assert KEYRING.decrypt(sealed(plaintext), PAYMENT) is refusal


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "....",
        "a.b.c.d.e",
        "eyJ9....",
        "ä.b.c.d.e",
        "\ud800....",
        "x" * 10_000,
        forged([]),
        forged("x"),
        forged(None),
    ],
    ids=range(11),
)
def test_rubbish_is_unreadable(text: str) -> None:
    assert KEYRING.decrypt(text, PAYMENT) is CardRefusal.UNREADABLE
    assert len(fingerprint(text)) == 64


def test_a_header_too_deep_to_parse_is_unreadable() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 2_000).decode()
    assert KEYRING.decrypt(f"{deep}.a.b.c.d", PAYMENT) is CardRefusal.UNREADABLE


def test_size_is_bounded_before_anything_is_decoded() -> None:
    assert KEYRING.decrypt(sealed(PLAINTEXT | {"x": "x" * 3_000}), PAYMENT) is CardRefusal.UNREADABLE


JWE = sealed()


@settings(max_examples=60)
@given(st.integers(0, len(JWE) - 1), st.sampled_from("AQgw09-_.=+ ä"))
def test_a_jwe_with_a_changed_character_is_refused(at: int, character: str) -> None:
    changed = JWE[:at] + character + JWE[at + 1 :]
    answer = KEYRING.decrypt(changed, PAYMENT)
    assert isinstance(answer, CardRefusal) or changed == JWE


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    assert isinstance(KEYRING.decrypt(text, PAYMENT), CardRefusal)


# -- cards and keys show nothing of themselves -------------------------------------------------------------------------


def test_a_card_shows_nothing_of_itself() -> None:
    for shown in (repr(CARD), str(CARD), f"{CARD}", f"{[CARD]}", f"{CARD!r}"):
        assert "4242" not in shown
        assert "2030" not in shown


def test_a_keyring_shows_key_ids_only() -> None:
    assert repr(KEYRING) == f"CardKeyring({KEY['kid']})"
    assert PRIVATE["keys"][0]["d"] not in repr(KEYRING)
    assert "d" not in KEYRING.public_jwks()["keys"][0]


@pytest.mark.parametrize(("number", "month", "year"), [("4242424242424241", 1, 2030), ("x", 1, 2030), ("", 1, 2030)])
def test_only_cards_can_be_made(number: str, month: int, year: int) -> None:
    with pytest.raises(ValueError, match=r"^not a card number$"):
        CardDetails(number, month, year)
    assert read_card(number, month, year) is CardRefusal.INVALID_NUMBER


def test_a_person_may_type_spaces_and_hyphens() -> None:
    assert read_card(" 4242-4242 4242 4242 ", 12, 2030) == CARD
    assert read_card("4242 4242 4242 4242", 13, 2030) is CardRefusal.INVALID_EXPIRY
    assert read_card("4242 4242 4242 4242", 12, 1999) is CardRefusal.INVALID_EXPIRY


@pytest.mark.parametrize(
    ("jwks", "complaint"),
    [
        ({}, "not a JWK set"),
        ({"keys": []}, "not a JWK set"),
        (PUBLIC, "is a public key"),
        ({"keys": [PRIVATE["keys"][0]] * 2}, "same `kid`"),
        ({"keys": [{"kty": "oct", "k": "AAAA"}]}, "not an RSA key"),
        ({"keys": ["x"]}, "not an RSA key"),
        ({"keys": [PRIVATE["keys"][0] | {"use": "sig"}]}, "not an RSA key"),
        ({"keys": [PRIVATE["keys"][0] | {"p": "AAAA"}]}, "not an RSA key"),
    ],
)
def test_a_set_that_cannot_decrypt_is_refused_without_showing_it(jwks: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as raised:
        CardKeyring.load(jwks)
    assert PRIVATE["keys"][0]["d"][:20] not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.filterwarnings("ignore:Key size should be")
def test_short_keys_are_refused() -> None:
    short = RSAKey.generate_key(1024).as_dict(private=True)
    with pytest.raises(ValueError, match="1024 bits is too short"):
        CardKeyring.load({"keys": [short]})
