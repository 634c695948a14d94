"""Card numbers and security codes are found in every form; healthy messages pass."""

import base64
import json
import random
import time
import urllib.parse
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.card_data.scan import (
    CARD_PLACEHOLDER,
    card_number_spans,
    find_card_number,
    find_card_number_deep,
    find_cvv,
    is_cvv_name,
    mask_card_numbers,
    mask_cvv,
    passes_luhn,
    scan_value,
)

# Issuer ranges written from the brands' own pages, not copied from the scanner: (prefix, lengths).
BRANDS: dict[str, list[tuple[str, tuple[int, ...]]]] = {
    "Visa": [("4", (13, 16, 19))],
    "Mastercard": [(str(prefix), (16,)) for prefix in (51, 55, 2221, 2229, 2230, 2300, 2699, 2700, 2719, 2720)],
    "American Express": [("34", (15,)), ("37", (15,))],
    "Discover": [(prefix, (16, 19)) for prefix in ("6011", "644", "649", "65")],
    "JCB": [("3528", (16, 19)), ("3589", (16, 19))],
    "Diners Club": [("300", (14, 16)), ("305", (14,)), ("3095", (14,)), ("36", (14, 19)), ("38", (14,)), ("39", (16,))],
    "UnionPay": [("62", (16, 17, 18, 19)), ("8100", (16,)), ("8171", (19,))],
    "Maestro": [(prefix, (12, 13, 16, 19)) for prefix in ("5018", "5020", "5038", "5893", "6304", "6759", "6763")],
}
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


def with_check_digit(digits: str) -> str:
    return next(digits + check for check in "0123456789" if passes_luhn((digits + check).encode()))


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    prefix, lengths = draw(st.sampled_from([row for rows in BRANDS.values() for row in rows]))
    missing = draw(st.sampled_from(lengths)) - len(prefix) - 1
    return with_check_digit(prefix + draw(st.text("0123456789", min_size=missing, max_size=missing)))


@st.composite
def written_card_numbers(draw: st.DrawFn) -> str:
    """A number with one kind of separator at any places, or with mixed separators in groups of four."""
    number = draw(card_numbers())
    if draw(st.booleans()):
        separator = draw(st.sampled_from((" ", "-", ".")))
        return "".join(digit + separator * draw(st.booleans()) for digit in number[:-1]) + number[-1]
    groups = [number[at : at + 4] for at in range(0, len(number), 4)]
    return "".join(group + draw(st.sampled_from((" ", "-", ".", ""))) for group in groups[:-1]) + groups[-1]


@given(written_card_numbers())
def test_every_brand_is_found_however_it_is_written(number: str) -> None:
    assert find_card_number(number)
    assert find_card_number(f'{{"note":"card {number}, thanks"}}'.encode())
    assert scan_value({"data": [{"note": f"my card is {number}"}]})


@given(written_card_numbers())
def test_masking_leaves_nothing_to_find(number: str) -> None:
    masked = mask_card_numbers(f"before {number} after")
    assert masked == f"before {CARD_PLACEHOLDER} after"
    assert not find_card_number_deep(masked)


@given(card_numbers(), st.integers(1, 9))
def test_a_wrong_check_digit_is_no_card(number: str, shift: int) -> None:
    assert not find_card_number(number[:-1] + str((int(number[-1]) + shift) % 10))


@pytest.mark.parametrize("number", KNOWN)
def test_published_test_cards_are_found(number: str) -> None:
    assert find_card_number(number)
    assert scan_value(int(number))
    assert scan_value({number: None})


@pytest.mark.parametrize(
    "text",
    [
        "4242 4242 4242 4242 12/28 123",
        "12 4242-4242-4242-4242 99",
        '{"amount":4242424242424242.0}',
        ";4242424242424242=28121010000000000000?",
        "%B4242424242424242^DOE/JANE^2812",
        "4242\u00a04242\u00a04242\u00a04242",
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
    assert find_card_number(text)
    assert find_card_number(text.encode())


def test_spans_count_characters_not_bytes() -> None:
    text = "ä 4242 4242 4242 4242 ö 5555555555554444"
    assert [text[start:end] for start, end in card_number_spans(text)] == ["4242 4242 4242 4242", "5555555555554444"]


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
    assert [one for one in ids if find_card_number(one)] == []
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
    assert [body for body in bodies if find_card_number(body) or find_cvv(body)] == []
    assert [body for body in bodies[:1_000] if find_card_number_deep(body) or scan_value(json.loads(body))] == []


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
        "4242  4242  4242  4242 is two separators",
    ],
)
def test_a_text_without_a_card_number(text: str) -> None:
    assert not find_card_number(text)
    assert mask_card_numbers(text) == text


@pytest.mark.parametrize(
    "body",
    [b"4 " * 32_000, b"1 " * 32_000, b"4" * 64_000, b'"cvv":' + b" " * 64_000, b'"cvv": ' * 9_000, b"0." * 32_000],
)
def test_no_body_blocks_the_event_loop(body: bytes) -> None:
    """A bound against quadratic work, with which such a body would take minutes. Measured: 15 ms and less."""
    started = time.thread_time()
    find_card_number(body)
    find_cvv(body)
    assert time.thread_time() - started < 2


def test_more_groups_of_digits_than_any_message_has_count_as_a_card() -> None:
    assert find_card_number(b"1 " * 2_000)
    assert not find_card_number(b"1 " * 900)


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
@given(number=written_card_numbers(), before=st.sampled_from(("", "x=", "data/", "xyz", "q ")))
def test_the_deep_search_decodes_encodings(encode: Callable[[str], str], number: str, before: str) -> None:
    assert find_card_number_deep(f"{before}{encode(number)} rest")


def test_the_deep_search_passes_ids() -> None:
    source = random.Random(7)
    texts = [f"{random_uuid4(source)} {source.getrandbits(256):064x} {random_uuid7(source)}" for _ in range(5_000)]
    assert [text for text in texts if find_card_number_deep(text)] == []


@given(st.binary(max_size=400))
def test_any_bytes_can_be_scanned(body: bytes) -> None:
    find_card_number(body)
    find_card_number_deep(body)
    find_cvv(body)


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_any_text_can_be_masked(text: str) -> None:
    """Lone surrogates are included: `json.loads` accepts them."""
    assert not find_card_number(mask_card_numbers(text)) or "\\" in text
    scan_value(text)
    mask_cvv(text)


def test_deep_and_huge_values_can_be_scanned() -> None:
    value: object = "4242424242424242"
    for _ in range(5_000):
        value = [value]
    assert scan_value(value)
    assert not scan_value([10**5_000, float("inf"), float("nan"), True, None])


# -- security codes ----------------------------------------------------------------------------------------------------

CVV_NAMES = ("cvv", "CVV2", "cvc", "Cvc2", "csc", "cid", "cvn", "security_code", "securityCode", "card_cvc", "cardCvv")
MORE_CVV_NAMES = ("card_verification_value", "cardVerificationCode", "card-verification-number", "verification_value")


@pytest.mark.parametrize("name", CVV_NAMES + MORE_CVV_NAMES)
@pytest.mark.parametrize("value", ["123", '"1234"', ' "999" ', "\n 000"])
def test_a_security_code_is_found(name: str, value: str) -> None:
    assert is_cvv_name(name)
    assert find_cvv(f'{{"data": {{"card": {{"{name}" : {value}}}}}}}'.encode())


@pytest.mark.parametrize(
    "body",
    [rb'{"\u0063vv":"123"}', rb'{"cvv":"\u0031\u0032\u0033"}', '{"name":"Müller","cvv":"123"}'.encode()],
)
def test_escapes_do_not_hide_a_security_code(body: bytes) -> None:
    assert find_cvv(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"cvv":null}',
        b'{"cvv":12345}',
        b'{"amount":123}',
        b'{"code":"1234"}',
        b'{"cidr":"123"}',
        b'{"time":"2026-01-01"}',
    ],
)
def test_no_security_code(body: bytes) -> None:
    assert not find_cvv(body)


@pytest.mark.parametrize("text", ["cvv=123&a=1", "{'cvv': '123'}", r"{\"cvc\": \"123\"}", "Security code: 123"])
def test_security_codes_are_masked_in_text(text: str) -> None:
    assert "123" not in mask_cvv(text)
    assert "***" in mask_cvv(text)


HOSTILE = (
    *"\\%&#\"'- .04fA=",
    *("&#", "4 ", "4-", "ey", "\\u00", "&#1"),
    *"\u00e9\uff14",  # a letter and a digit that are not ASCII
)
LONGEST_BODY = 65_536


# All of them together take a second. A scanner with a step for each pair of characters would take half a minute.
@pytest.mark.timeout(20)
@pytest.mark.parametrize("end", ["", "!", "\\u00"])
def test_no_body_slows_the_scanner_down(end: str) -> None:
    for unit in HOSTILE:
        text = unit * (LONGEST_BODY // len(unit)) + end
        find_card_number_deep(text)
        mask_card_numbers(text)
        assert not find_cvv(text.encode())
        assert mask_cvv(text) == text


@pytest.mark.parametrize("escape", [r"\x34", r"\\x34", r"\\\\u0034", "&#52;", "&#0000052;", f"&#{'0' * 5_000}52;"])
def test_a_digit_behind_any_number_of_backslashes_or_zeros_is_found(escape: str) -> None:
    assert find_card_number_deep("1" + "-" + escape + "242424242424242")


def test_a_reference_to_no_character_is_no_error() -> None:
    assert not find_card_number_deep(f"&#{'1' * 5_000};")
