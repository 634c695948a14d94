"""Card numbers and security codes are found in every form they come in; healthy messages are let through."""

import base64
import bz2
import gzip
import json
import lzma
import random
import urllib.parse
import zlib
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.card_data.brands import passes_luhn
from shared.card_data.plain import is_text
from shared.card_data.scan import (
    CARD_PLACEHOLDER,
    CVV_PLACEHOLDER,
    CardData,
    find_card_data,
    has_card_data,
    mask_card_data,
    spans,
)
from shared.card_data.values import as_text, place_of
from shared.card_data.verification_values import is_cvv_name
from shared.observability.visible import visible
from tests.cards.numbers import USUAL, any_number, number, printed


def holds_number(text: str | bytes) -> bool:
    return find_card_data(text) is CardData.NUMBER


def holds_value(text: str | bytes) -> bool:
    return find_card_data(text) is CardData.VERIFICATION_VALUE


FULL_WIDTH = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
KNOWN = (
    "4242424242424242",
    "4000056655665556",
    "5555555555554444",
    "2223003122003222",
    "378282246310005",
    "6011111111111117",
    "3056930009020004",
    "36227206271667",
    "3566002020360505",
    "6205500000000000004",
)


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    return number(random.Random(draw(st.integers())), draw(st.sampled_from(USUAL)))


@st.composite
def written_card_numbers(draw: st.DrawFn) -> str:
    """In one piece; with one kind of separator at two places or more; or with mixed ones in groups of four."""
    digits = draw(card_numbers())
    if draw(st.booleans()):
        separator = draw(st.sampled_from((" ", "-", ".")))
        places = draw(st.sets(st.integers(1, len(digits) - 1), min_size=2))
        return "".join(separator * (at in places) + digit for at, digit in enumerate(digits))
    groups = [digits[at : at + 4] for at in range(0, len(digits), 4)]
    return "".join(group + draw(st.sampled_from((" ", "-", " - ", ""))) for group in groups[:-1]) + groups[-1]


@given(written_card_numbers())
def test_every_brand_is_found_however_it_is_written(written: str) -> None:
    assert holds_number(written)
    assert holds_number(f'{{"note":"card {written}, thanks"}}'.encode())
    assert holds_number(as_text({"data": [{"note": f"my card is {written}"}]}))


@given(written_card_numbers())
def test_masking_leaves_nothing_to_find(written: str) -> None:
    masked = mask_card_data(f"before {written} after")
    assert masked == f"before {CARD_PLACEHOLDER} after"
    assert not holds_number(masked)


@given(card_numbers(), st.integers(1, 9))
def test_a_wrong_check_digit_is_no_card(digits: str, shift: int) -> None:
    assert not holds_number(digits[:-1] + str((int(digits[-1]) + shift) % 10))


@pytest.mark.parametrize("known", KNOWN)
def test_published_test_cards_are_found(known: str) -> None:
    assert holds_number(known)
    assert holds_number(as_text(int(known)))
    assert holds_number(as_text({known: None}))


@pytest.mark.parametrize(
    "text",
    [
        "4242 4242 4242 4242 12/28 123",
        "12 4242-4242-4242-4242 99",
        '{"amount":4242424242424242.0}',
        ";4242424242424242=28121010000000000000?",
        "%B4242424242424242^DOE/JANE^2812",
        "4242\u00a04242\u00a04242\u00a04242",
        "4242  4242  4242  4242 with two separators",
        "+4242 4242 4242 4242",
        "ORD-4242 4242 4242 4242",
        "4242\u20134242\u20134242\u20134242",
        "4242\u200b4242\u200b4242\u200b4242",
        "4242424242424242".translate(FULL_WIDTH),
        "Müller, 4242 4242 4242 4242, Köln",
        r"\u0034242424242424242",
        r"4242\u00204242\u002d4242\u20114242",
        "01a21a8f-6a6a-7350-831b-79d02df63333 4242 4242 4242 4242",
        "4242-4242-4242-4242 01A21A8F-6A6A-7350-831B-79D02DF63333",
        "2026-01-31 10:20:30-4242-4242-4242-4242",
        "2026-01-31 10:20:30.4242-4242-4242-4242",
        "2026-01-31T10:20:30.123+01:00 4242 4242 4242 4242",
    ],
)
def test_forms_people_and_devices_write(text: str) -> None:
    assert holds_number(text)
    assert holds_number(text.encode())


def test_spans_count_characters_not_bytes() -> None:
    text = "ä 4242 4242 4242 4242 ö 5555555555554444"
    assert [text[start:end] for start, end in spans(text, CardData.NUMBER)] == [
        "4242 4242 4242 4242",
        "5555555555554444",
    ]


# -- healthy messages --------------------------------------------------------------------------------------------------


def random_uuid4(source: random.Random) -> str:
    return str(UUID(int=source.getrandbits(128), version=4))


def random_uuid7(source: random.Random) -> str:
    milliseconds = source.randrange(1_600_000_000_000, 2_200_000_000_000)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | source.getrandbits(12) << 64 | 2 << 62 | source.getrandbits(62)))


@pytest.mark.parametrize("make", [random_uuid4, random_uuid7])
def test_no_uuid_is_a_card(make: Callable[[random.Random], str]) -> None:
    source = random.Random(16)
    ids = [make(source) for _ in range(100_000)]
    assert [one for one in ids if holds_number(one)] == []
    digits_only = [one.replace("-", "").translate(str.maketrans("abcdef", "      ")) for one in ids]
    assert any(passes_luhn(word.encode()) for one in digits_only for word in one.split() if len(word) > 12), "vacuous"


def realistic_body(source: random.Random) -> bytes:
    instant = f"2026-{source.randrange(1, 13):02}-{source.randrange(1, 29):02}T12:34:56.{source.randrange(10**6):06}Z"
    invoice = f"INV-2026-{source.randrange(10**6):06}"
    return json.dumps(
        {
            "specversion": "1.0",
            "id": random_uuid7(source),
            "source": "/upstream/erp",
            "type": "remit.invoice.PayInvoice.v1",
            "subject": invoice,
            "time": instant,
            "correlationid": random_uuid4(source),
            "causationid": random_uuid4(source).upper(),
            "traceparent": f"00-{source.getrandbits(128):032x}-{source.getrandbits(64):016x}-01",
            "data": {
                "invoice_id": invoice,
                "payment_id": random_uuid4(source),
                "amount_minor": source.randrange(1, 10**9),
                "sent_at": source.randrange(1_600_000_000_000, 1_900_000_000_000),
                "hash": f"{source.getrandbits(256):064x}",
                "rate": source.random(),
                "telephone": f"+49 30 {source.randrange(10**8):08}",
            },
        }
    ).encode()


def test_healthy_bodies_pass() -> None:
    source = random.Random(5)
    bodies = [realistic_body(source) for _ in range(5_000)]
    assert [body for body in bodies if holds_number(body) or holds_value(body)] == []
    assert [body for body in bodies[:1_000] if holds_number(body) or holds_number(as_text(json.loads(body)))] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-07-01 12:34:56.123456789-07:00",
        "10.0.0.1 10.0.0.2 45.32.100.100 203.0.113.17",
        "00000000-0000-0000-0000-000000000000",
        "4" * 100,
        "0.4242424242424242",
        "42424242424242422",
        "12    4242    4242    4242    4242",
        "4242    4242    4242    4242    12    13    14",
    ],
)
def test_what_is_no_card(text: str) -> None:
    assert not holds_number(text)
    assert mask_card_data(text) == text


def test_a_long_list_of_floats_passes() -> None:
    source = random.Random(3)
    assert not holds_number(json.dumps([source.random() for _ in range(3_000)]))
    assert not holds_number(json.dumps([source.uniform(-180, 180) for _ in range(3_000)]))


def test_more_numbers_of_a_cards_shape_than_chance_explains_count_as_one() -> None:
    wrong = "4242 4242 4242 4241 x "
    assert not has_card_data(wrong * 50)
    assert find_card_data(wrong * 2_000) is CardData.TOO_MUCH


@pytest.mark.parametrize(
    "text",
    [
        '{"order_number":"4242424242424242"}',
        '{"order_number": 4242424242424242}',
        '{"purchaseOrderId":"4242424242424242"}',
        "Order no. 4242424242424242 is late",
        "ORD-4242424242424242",
        "PO4242424242424242",
        "SO-2026-4242424242424242",
        '{"trace_id":"4242424242424242"}',
        '{"amount_minor":630400000000}',
        "4222222222222",
        "DE95 4242 4242 4242 4242 42",
        "ORD-NO-4242424242424242",
        '{"dd.trace_id":"4242424242424242"}',
        '{"parentSpanId":"4242424242424242"}',
        '["ORD-4242424242424242", 1228]',
        '{"tel":"+378282246310005"}',
        "call +378282246310005",
    ],
)
def test_what_stands_before_a_bare_number_says_that_it_is_no_card(text: str) -> None:
    assert not holds_number(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"invoice_id":"4242424242424242"}',
        '{"card_order_number":"4242424242424242"}',
        "CARD-4242424242424242",
        "ORD-4242424242424242x",
        "card 4222222222222",
        "4222 222 222 222",
        "6304000000000 12/28",
    ],
)
def test_what_speaks_for_a_card(text: str) -> None:
    assert holds_number(text)


@given(st.sampled_from(("-", " ", "\u200b", "\u00b7\u200b ")), st.integers())
def test_marks_that_nobody_sees_do_not_shift_what_is_masked(separator: str, seed: int) -> None:
    written = printed(any_number(random.Random(seed)), separator)
    assert mask_card_data(f"\u200bb\u200b {written}\u200b a") == f"\u200bb\u200b {CARD_PLACEHOLDER}\u200b a"


def test_nothing_that_a_screen_would_not_show_hides_a_number() -> None:
    """`visible` says what nobody sees. What is reserved or private is alike, so not all of it is tried. A line break is seen."""
    alike = (*range(0xD800, 0xF900, 97), *range(0xE0000, 0x110000, 9_973))
    unseen = [one for one in map(chr, (*range(0x80, 0xD800), *range(0xF900, 0x20000), *alike)) if visible(one) != one]
    assert [one for one in unseen if not one.isspace() and not holds_number(one.join("4242424242424242"))] == []


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-32", "cp500"], ids=["UTF-16", "UTF-16 without a mark", "UTF-32", "EBCDIC"]
)
def test_other_encodings_are_no_text(encoding: str) -> None:
    assert not is_text("pay with 4242424242424242".encode(encoding))


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, bz2.compress, lzma.compress])
def test_what_is_compressed_is_no_text(compress: Callable[[bytes], bytes]) -> None:
    assert not is_text(compress(b"pay with 4242424242424242"))
    assert is_text("M\u00fcller\r\n\tpays".encode())


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"data": {"customer_id": "4242424242424242"}}, "data.customer_id"),
        ({"data": {"lines": [{"note": "x"}, {"note": "4242 4242 4242 4242"}]}}, "data.lines.1.note"),
        ({"data": {"n": 4242424242424242}}, "data.n"),
        ({"data": {"4242424242424242": 1}}, "data.[card number]"),
        ({"data": {"cvv": "123"}}, "data.cvv"),
        ({"data": {"card": {"name": "cvc", "value": 987}}}, "data.card.value"),
        ({"headers": {"note": {"deep": [b"4242424242424242"]}}}, "headers.note.deep"),
        ({"headers": {"cvv": {"raw": "987"}}}, "headers.cvv.raw"),
        ({"headers": {"k": "cvv", "v": "987"}}, "headers.v"),
        ({"headers": {"cvc": {"status": 200}}}, None),
        ({"data": {"order_number": "4242424242424242"}}, None),
    ],
)
def test_the_path_of_what_was_found(value: object, place: str | None) -> None:
    found = find_card_data(as_text(value))
    assert (found and place_of(found, value)) == place


# -- behind encodings --------------------------------------------------------------------------------------------------

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64, url-safe, unpadded": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "url": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "form": urllib.parse.quote_plus,
    "json escapes": lambda text: "".join(f"\\u{ord(character):04x}" for character in text),
    "twice escaped": lambda text: "".join(f"\\\\u{ord(character):04x}" for character in text),
    "byte escapes": lambda text: "".join(f"\\x{byte:02x}" for byte in text.encode()),
    "hexadecimal": lambda text: text.encode().hex(),
    "bytea": lambda text: f"\\x{text.encode().hex()}",
    "html": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "base64 of url": lambda text: base64.b64encode(urllib.parse.quote(f"card={text}").encode()).decode(),
    "base64 of json": lambda text: base64.b64encode(json.dumps({"card": text}).encode()).decode(),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
@given(written=written_card_numbers(), before=st.sampled_from(("", "x=", "data/", "xyz", "q ")))
def test_encodings_are_undone(encode: Callable[[str], str], written: str, before: str) -> None:
    assert holds_number(f"{before}{encode(written)} rest")


def test_the_look_behind_encodings_lets_ids_pass() -> None:
    source = random.Random(7)
    texts = [f"{random_uuid4(source)} {source.getrandbits(256):064x} {random_uuid7(source)}" for _ in range(5_000)]
    assert [text for text in texts if holds_number(text)] == []


@given(st.binary(max_size=400))
def test_any_bytes_can_be_scanned(body: bytes) -> None:
    holds_number(body)
    holds_number(body)
    holds_value(body)


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    """Lone surrogates included: `json.loads` lets them through."""
    masked = mask_card_data(text)
    assert masked is None or not spans(masked, CardData.NUMBER)
    holds_number(as_text(text))
    mask_card_data(text)


def test_deep_and_huge_values_can_be_scanned() -> None:
    value: object = "4242424242424242"
    for _ in range(5_000):
        value = [value]
    assert holds_number(as_text(value))
    assert not holds_number(as_text([10**5_000, float("inf"), float("nan"), True, None]))


# -- security codes ----------------------------------------------------------------------------------------------------

CVV_NAMES = ("cvv", "CVV2", "cvc", "Cvc2", "csc", "cvn", "security_code", "securityCode", "card_cvc", "cardCvv")
MORE_CVV_NAMES = ("card_verification_value", "cardVerificationCode", "card-verification-number", "verification_value")
NAMES_IN_USE = (
    "ccv",
    "cvd",
    "cv2",
    "csv2",
    "cardCode",
    "payment_cvv",
    "dCVV",
    "cvc_2",
    "amex_cid",
    "codigoSeguridad",
    "code_securite",
    "codice_sicurezza",
    "iCVV2",
    "cvv_code",
    "cvvNumber",
    "card_cvn",
)


@pytest.mark.parametrize("name", CVV_NAMES + MORE_CVV_NAMES + NAMES_IN_USE)
@pytest.mark.parametrize("value", ["123", '"1234"', ' "999" ', "\n 000"])
def test_a_security_code_is_found(name: str, value: str) -> None:
    assert is_cvv_name(name)
    assert holds_value(f'{{"data": {{"card": {{"{name}" : {value}}}}}}}'.encode())


@pytest.mark.parametrize(
    "body",
    [rb'{"\u0063vv":"123"}', rb'{"cvv":"\u0031\u0032\u0033"}', '{"name":"Müller","cvv":"123"}'.encode()],
)
def test_escapes_do_not_hide_a_security_code(body: bytes) -> None:
    assert holds_value(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"cid":1234}',
        b'{"amount":630400000000}',
        b'{"cvc_check":"pass"}',
        b'{"shipping":"1234"}',
        b'{"cvv":null}',
        b'{"cvv":12345}',
        b'{"amount":123}',
        b'{"code":"1234"}',
        b'{"cidr":"123"}',
        b'{"time":"2026-01-01"}',
        b'{"note":"CVC opened 2026"}',
        b'{"note":"article 123, cvv checked"}',
        b'{"note":"kod 123"}',
        b'{"cvvResponseCode":"200"}',
        b'{"cvv2_match":"123"}',
        b'{"cvc":{"status":200}}',
        b'{"acc_cid":"1234"}',
        b'{"customer[cid]":"1234"}',
        b'{"cardValue":"150"}',
        b'{"pinBlock":"encrypted"}',
        b"the PIN block: see line 12 of the file",
        b'{"type":"cvv","interval":150}',
        b'{"pin":560001}',
        b'{"track":"1234"}',
        b'{"tracks":["1234"]}',
    ],
)
def test_no_security_code(body: bytes) -> None:
    assert not holds_value(body)


@pytest.mark.parametrize(
    "text",
    [
        "cvv: 987",
        "CVC is 987",
        "the security code is: 9876",
        '{"cvv":[987]}',
        '{"cvv":["9","8","7"]}',
        '{"cvv": [9, 8, 7]}',
        '{"cvv":{"value":"987"}}',
        '{"name":"cvv","value":"987"}',
        '{"value": 987, "name": "cvc2"}',
        "<cvv>987</cvv>",
        '{"cvv":"\uff19\uff18\uff17"}',
        '{"pin":"1234"}',
        '{"track2":";5018=2812101"}',
    ],
)
def test_a_verification_value_is_found_and_masked_however_it_is_written(text: str) -> None:
    assert holds_value(text)
    assert holds_value(text.encode())
    assert not holds_value(mask_card_data(text) or "")


@pytest.mark.parametrize("text", ["cvv=123&a=1", "{'cvv': '123'}", r"{\"cvc\": \"123\"}", "Security code: 123"])
def test_security_codes_are_masked_in_text(text: str) -> None:
    masked = mask_card_data(text)
    assert masked is not None
    assert "123" not in masked
    assert CVV_PLACEHOLDER in masked


HOSTILE = (
    *"\\%&#\"'- .04fA=",
    *("&#", "4 ", "4-", "ey", "\\u00", "&#1"),
    *"\u00e9\uff14",  # a letter and a digit that are not ASCII
)
LONGEST_BODY = 65_536


# All of them take a second; one that takes a step for each pair of characters takes half a minute.
@pytest.mark.timeout(20)
@pytest.mark.parametrize("end", ["", "!", "\\u00"])
def test_no_body_holds_the_scanner_up(end: str) -> None:
    for unit in HOSTILE:
        text = unit * (LONGEST_BODY // len(unit)) + end
        assert find_card_data(text.encode()) in {None, CardData.TOO_MUCH}
        assert mask_card_data(text) in {None, text}


@pytest.mark.parametrize("escape", [r"\x34", r"\\x34", r"\\\\u0034", "&#52;", "&#0000052;", f"&#{'0' * 5_000}52;"])
def test_a_digit_behind_any_number_of_backslashes_or_zeros_is_found(escape: str) -> None:
    assert holds_number("1" + "-" + escape + "242424242424242")


def test_a_reference_to_no_character_is_no_error() -> None:
    assert not holds_number(f"&#{'1' * 5_000};")


@pytest.mark.parametrize(
    "one", ["2026-01-01T12:34:56.123456+00:00", "1767225600000", "0199d0aa-1c2e-7f3a-8b1c-5d6e7f8a9b0c"]
)
def test_64_kib_of_what_healthy_messages_are_made_of_pass(one: str) -> None:
    """A scan has a limit of effort, and these stay below it."""
    assert not holds_number(json.dumps([one] * (65_000 // (len(one) + 4))))


@pytest.mark.parametrize("name", ["id", "card_ref", "id2"])
def test_a_uuid_beside_a_short_number_is_no_number_in_several_members(name: str) -> None:
    """Its first three groups may be sixteen digits that read as a card number."""
    for uuid in ("36731819-1076-4701-b380-1a08c3cf109f", "54811078-0414-4699-b09a-e89a7eb358f3"):
        text = f'{{"specversion": "1.0", "id1": 12, "{name}": "{uuid}", "type": "remit.invoice.IssueInvoice.v1"}}'
        assert not has_card_data(text)
