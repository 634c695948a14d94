"""No body of 64 KiB holds the event loop, whatever is in it; and no ordinary large one is refused for the effort it takes."""

import base64
import html
import json
import time
import urllib.parse
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from shared.card_data.scan import CardData, find_card_data
from shared.messaging.codec import BODY_BYTES_MAX, STRUCTURED, Malformed, decode
from tests.cards import passing
from tests.cards.numbers import USUAL, number
from tests.cards.places import body_with
from tests.support.yardstick import slowness

CPU_S_MAX = 0.005
BUSY_FACTOR = 3
"""A machine at work is so much slower than the yardstick tells. What is not bounded takes ten to a hundred times as long."""
TRIES = 3


def filled(unit: str, begin: str = "") -> bytes:
    return _cut(begin.encode() + unit.encode("utf-8", "replace") * (BODY_BYTES_MAX // len(unit) + 1), BODY_BYTES_MAX)


def _cut(text: bytes, size: int) -> bytes:
    return text[:size].decode("utf-8", "ignore").encode()


def scattered(make: Callable[[Random], str]) -> bytes:
    """The same pieces in every run, each another."""
    source, pieces, size = Random(5), list[bytes](), 0
    while size < BODY_BYTES_MAX:
        pieces.append(make(source).encode("utf-8", "replace"))
        size += len(pieces[-1])
    return _cut(b"".join(pieces), BODY_BYTES_MAX)


# Each was the worst one of its kind for one draft of the scanner or another.
UNITS = (
    *("4", "34", "3434", "6", "4 ", "4-", "4+4+", "4.2.", "4:4:", "4\t\t\t", "4 2 4 2 4 2 4 2 4 2 4 2 4 2 4 1 "),
    *("4242424242424241 x ", "4242 4242 4242 4241 x ", "444444444444a", "44444444444444444444 ", "4242.4242424242"),
    *("4 4 4 4 4 4 4 4 4 4 4 4 4 -- ", "3782 822463 1000", "621234 1234567890", "12:34:56.123456+00:00 "),
    *("GB82WEST12345698765432 ", "DE89370400440532013000 ", "AA11 ", "00000000-4242-4242-4242-424200000000 "),
    *("\\u0034", "\\u200b", "\\ud83d", "\\ud83d\\ude00", "\\\\\\\\u0034", "\\x34", "\\n4", "\\", "\\u00"),
    *("%34", "%2534", "%EF%BC%94", "=34", "=3", "&#52;", "&amp;#52;", "&#x34;", "&#", "&nbsp;4", "&shy;", "&Tab;"),
    *("4" * 31 + " ", "7e" * 15 + "x", "4.24242424242424E15 ", "[4,", "[4,2,4,2,4,2,4,2,4,2,4,2],", "%u0034", "4=20"),
    *("987 is cvvx ", "123 (cvv ", "c.v.v. ", "kod ", "TENB"),
    *(
        "34 ",
        "34,",
        "34, ",
        "34-34,34:",
        "52,\n    ",
        "0x34,",
        "34 " * 12 + "x",
        "34 " * 11 + "x ",
        "34 34 34\n34 34 34 !",
    ),
    *("\\u{34}", "\\x{34}", "\\u{1d7d2}", "\\064", "\\0", "\\1\\0", "u{", "\\u{", "\\u{0000000000", "\\\\064", "=3d"),
    *("NDI0", "NDI0MjQy", "IAAA", "3a", "3a3a3a3a3a3a3a3a3a3a3a4", "0f", "MzAz", "0.642424242424242414&nbsp;"),
    *("\uff14", "\u0664", "4\u200b", "4\u00e9", "\u2463", "4\u6f22", "\U0001d7d2", "\u200b", "\U000e0020", "4\u0332"),
    *(
        '"cvv":',
        "cvv ",
        "cvv,,,,",
        "pin,pin,",
        "xpin",
        "pintpp",
        "xtrack",
        "c",
        "ccard",
        "card code ",
        "code de securit",
        "digo de seguridad ",
    ),
    *(
        "&bull;",
        "&bull;4",
        "&x;",
        "5A08",
        "5A084242424242424241F",
        "4242424242424241D2812101",
        "4242424242424D281210",
        "4::4::",
    ),
    *('"a":4242,', '"a":4,', "a=4242&", "a: 4\n", '"a":4242424242424,"b', '":4', '"1":1,', "card=4&", '"a":1 2 3 4,'),
    *(
        ":1-x",
        ":1-" + "a" * 31,
        ":1,1,1,1-x",
        ":1a:1",
        ":1,a:1",
        "4242    ",
        "4242.....",
        "4242    4242    4242    4242 x ",
        "4242    4242    4242    4241 x ",
    ),
    *(
        "4242    42    x ",
        "код безопасности ",
        "код",
        "код код без",
        "安全码",
        "安",
        "й",
        "безопасности",
        "secure code ",
    ),
    *(
        "sec",
        "sec code",
        "digit code",
        "3 digit code ",
        "cvv (" + "a" * 47,
        "cvv (a",
        "cvv (",
        "987=cvv=",
        "987 = cvv ",
    ),
    *("turvakoodi ", "bao mat ", "ma bao mat ", "venlik kod ", "codi de segureta", "saugos kod ", "cvvx[1]", "acsc "),
    *("cvv{", 'cvv":{"', "cvv={}{}", "cvvx{x}", "cvv a=b>", "cvv</a><b>", "cvvx", "cvv_plain ", "cvvc=", "pinblock:"),
    *(
        "pinblock:" + "a" * 40,
        "track:4242",
        "track=%b4242^",
        "track;4242=281",
        "newpin",
        "cc_cid ",
        "card sec code ",
        "security+code+",
    ),
    *("4242\u00b2", "4\u00b2", "4242\u2460\u2460", "34 34 34 34 34 34 34 34  34 34 34 34 ", "  ", "34  "),
    *('cvv "value":123,' + "x" * 74, "security code code is ", "track1=1234", "cvv is is ", '"a":{"cvv":"x'),
    *("{", "[", '{"a":', "[],", "{},", '"",', '"\\""', "1,", "1e5,", "9999999999999999999,", '"a":1,', "-"),
)
AFTER_A_NAME = (
    "data:1234 x ",
    "data:1234,id=a.a.a.a.a id=ccccccccccccc",
    "content=1234<name=",
    "text:1234 ",
    "v:987,k:x ",
    "v:987,{}k=cx",
    "value: 987, name: cvx ",
)
"""Values come before their names only in a text that has such a name."""
PIECES: dict[str, Callable[[Random], str]] = {
    "digits": lambda source: source.choice("0123456789"),
    "digits and signs": lambda source: source.choice("0123456789 -./"),
    "hexadecimal": lambda source: source.randbytes(8).hex(),
    "base64": lambda source: base64.b64encode(source.randbytes(30)).decode(),
    "base64 of digits": lambda source: base64.b64encode(b"%d" % source.getrandbits(80)).decode(),
    "base64 of URL encoding": lambda source: base64.b64encode(b"%%3%d" % source.randrange(10)).decode(),
    "base64 in hexadecimal": lambda source: base64.b64encode(b"%d" % source.getrandbits(60)).hex(),
    "encodings in turns": lambda source: source.choice(("\\u0034", "%34", "&#52;", "4", "NDI0", "3432")),
    "escapes": lambda source: f"\\u{source.choice((0x200B, 0x34, 0x20, 0x664, 0xD83D, 0xDE00)):04x}",
    "scripts in turns": lambda source: source.choice("\uff14\u0664a\u00e94 \u4e00\u200b"),
    "card numbers of orders": lambda source: f"ORD-{number(source, USUAL[0])} ",
    "card numbers in UUIDs": lambda source: f"{source.randbytes(4).hex()}-4242-4242-4242-{source.randbytes(6).hex()} ",
    "card numbers in floats": lambda source: f"0.{number(source, USUAL[0])},",
    "nearly card numbers": lambda source: f"4{source.randrange(10**14, 10**15)}, ",
    "floats": lambda source: f'"x":{source.uniform(-180, 180)},',
    "long integers": lambda source: f"{source.getrandbits(70)},",
    "members": lambda source: f'"{source.randbytes(2).hex()}":{source.randrange(10)},',
}
WORST: dict[str, Callable[[], bytes]] = {
    **{f"cvv-x, then {unit}": partial(filled, unit, "cvv-x ") for unit in AFTER_A_NAME},
    "rows of fours": partial(filled, "4444444444444444444444444444444 a3434"),
    "rows before e, and a list": partial(filled, "44242e15115,DE8937040044053213000 ", "[4,e1"),
    "an escape of zeros": partial(filled, "0", "\\u{"),
    **{repr(unit): partial(filled, unit) for unit in UNITS},
    **{name: partial(scattered, make) for name, make in PIECES.items()},
}


@pytest.mark.parametrize("name", WORST)
def test_no_body_holds_the_loop(name: str) -> None:
    body, frame = WORST[name](), body_with("@")
    in_a_command = frame.replace(b"@", _cut(body, BODY_BYTES_MAX - len(frame)).replace(b'"', b"'"))
    for one in (body, in_a_command):
        assert any(cpu_s(one) < CPU_S_MAX * BUSY_FACTOR * slowness() for _ in range(TRIES))


def cpu_s(body: bytes) -> float:
    started = time.thread_time()
    decode(body, content_type=STRUCTURED)
    return time.thread_time() - started


def test_what_takes_too_much_effort_is_refused_with_that_reason() -> None:
    body = body_with(("4242 4242 4242 4241 x " * 3_000)[:60_000])
    assert find_card_data(body) is CardData.TOO_MUCH
    refused = decode(body, content_type=STRUCTURED)
    assert isinstance(refused, Malformed)
    assert refused.detail == (
        "too much in data.note looks like card data or is encoded, so nobody can say: send less of it"
    )


# -- ordinary large bodies ---------------------------------------------------------------------------------------------------------------

WORDS = ("the", "invoice", "was", "issued", "twice", "shipping", "code", "order", "value", "tax", "19", "percent")
GERMAN = ("Die", "Rechnung", "wurde", "geändert;", "Überweisung", "nach", "Köln.", "Straße", "12,", "19,99", "€")
KINDS = passing.kinds()


def words(source: Random, vocabulary: tuple[str, ...] = WORDS) -> str:
    return " ".join(source.choices(vocabulary, k=8_000))


def dates_and_amounts(source: Random) -> str:
    return "\r\n".join(
        f"2026-{source.randrange(1, 13):02}-{source.randrange(1, 29):02};{source.uniform(1, 10_000):.2f}"
        for _ in range(3_000)
    )


def many(kind: str) -> Callable[[Random], Any]:
    """As many as a message may have."""
    return lambda source: [KINDS[kind].make(source) for _ in range(950)]


ORDINARY: dict[str, Callable[[Random], Any]] = {
    "line items": lambda source: [
        {
            "sku": f"SKU-{source.randrange(10**5)}",
            "name": "Steel bolt M8 x 40",
            "quantity": 12,
            "price": 12.5,
            "id": uuid,
        }
        for uuid in many("UUID, version 4")(source)[:160]
    ],
    "a file in base64": lambda source: base64.b64encode(source.randbytes(48_000)).decode(),
    "a file in base64, in lines": lambda source: base64.encodebytes(source.randbytes(46_000)).decode(),
    "a file in base64url": lambda source: base64.urlsafe_b64encode(source.randbytes(48_000)).decode(),
    "a text in base64": lambda source: base64.b64encode(words(source)[:48_000].encode()).decode(),
    "a file in hexadecimal": lambda source: source.randbytes(32_000).hex(),
    "UUIDs": many("UUID, version 4"),
    "a text of UUIDs": lambda source: " ".join(many("UUID, version 4")(source) + many("UUID, version 7")(source)),
    "hashes": many("hash, sha256"),
    "floats": many("float between 0 and 1"),
    "amounts": many("amount in minor units"),
    "places": lambda source: [KINDS["floats, geographical"].make(source) for _ in range(300)],
    "times": many("time, ISO 8601"),
    "times in ms": many("time in ms"),
    "IBANs": many("IBAN, Germany"),
    "EANs": many("EAN-13"),
    "order numbers": lambda source: [
        {"order_number": KINDS["order number of 16 digits, in a member named so"].make(source)} for _ in range(450)
    ],
    "prose": words,
    "German": lambda source: words(source, GERMAN),
    "Chinese": lambda source: "".join(chr(source.randrange(0x4E00, 0x9FA0)) for _ in range(21_000)),
    "emoji": lambda _: "ok \U0001f600\ufe0f " * 5_000,
    "HTML": lambda source: html.escape(f"<p class='a'>{words(source)[:30_000]}</p>"),
    "a URL": lambda source: urllib.parse.quote(words(source, GERMAN)[:25_000]),
    "a form": lambda source: "&".join(
        urllib.parse.urlencode({"name": "Jörg Müller", "street": "Hauptstraße 12", "amount": f"{price:.2f}"})
        for price in (source.uniform(1, 1_000) for _ in range(850))
    ),
    "JSON in base64": lambda source: base64.b64encode(
        json.dumps([{"amount_minor": source.randrange(10**5), "currency": "EUR"} for _ in range(1_000)]).encode()
    ).decode(),
    "CSV in base64": lambda source: base64.b64encode(
        "\r\n".join(
            f"2026-11-22;INV-{source.randrange(10**6):06};{source.choice(WORDS)}" for _ in range(1_400)
        ).encode()
    ).decode(),
    "CSV of dates and amounts": lambda source: dates_and_amounts(source)[: 36 * 1024],
    "CSV of dates and amounts in base64": lambda source: base64.b64encode(
        dates_and_amounts(source)[: 26 * 1024].encode()
    ).decode(),
    "JSON in JSON": lambda source: json.dumps([{"id": one, "price": 12.5} for one in many("UUID, version 4")(source)]),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_large_body_passes(name: str) -> None:
    body = body_with(ORDINARY[name](Random(name)))
    if len(body) > BODY_BYTES_MAX:
        text = ORDINARY[name](Random(name))
        body = body_with(text[: int(len(text) * (BODY_BYTES_MAX - 500) / len(body))])
    assert find_card_data(body) is None
