"""What must pass: identifiers, times, amounts and numbers of daily business that hold many digits. Each kind makes one value.

`Kind.gives_way` names the kinds of which more than one in a thousand is refused, with the reason; README.md repeats them for senders.
"""

import base64
import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from tests.cards.numbers import luhn_digit

DIGITS = "0123456789"
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
REFUSED_MAX = 0.001
IS_A_BRANDS = "three in a hundred such numbers have a brand's prefix and a right check digit: they cannot be told from a card number"

IS_A_CARDS_FORM = "it is the form of a card, in which the same share has a right check digit"


@dataclass(frozen=True, slots=True)
class Kind:
    """`make` gives a value for the member `name`, or with `is_header` for the header. `refused_max`: the share that may be refused."""

    make: Callable[[Random], Any]
    name: str = "note"
    is_header: bool = False
    refused_max: float = REFUSED_MAX
    gives_way: str | None = None


def kinds() -> dict[str, Kind]:
    return dict([*_identifiers(), *_times(), *_floats(), *_order_numbers(), *_numbers_of_business()])


def _identifiers() -> Iterator[tuple[str, Kind]]:
    for version in range(1, 9):
        yield f"UUID, version {version}", Kind(partial(_uuid_text, version))
    yield "UUID, version 7, of these years", Kind(lambda source: str(_uuid7(source)))
    yield "UUID, capitals", Kind(lambda source: str(_uuid(source, 4)).upper())
    yield "UUID, without hyphens", Kind(lambda source: _uuid(source, 4).hex)
    yield "UUID, as a URN", Kind(lambda source: _uuid(source, 4).urn)
    yield "ULID", Kind(_ulid)
    yield "KSUID", Kind(lambda source: "2" + _of(source, BASE62, 26))
    yield "nanoid", Kind(lambda source: _of(source, BASE62 + "-_", 21))
    yield (
        "object id of MongoDB",
        Kind(lambda source: f"{source.randrange(0x60000000, 0x70000000):08x}{_hex(source, 16)}"),
    )
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512"):
        yield f"hash, {name}", Kind(partial(_digest, name))
    yield "token of a gateway", Kind(lambda source: f"tok_1{_of(source, BASE62, 23)}")
    yield "JSON Web Token", Kind(lambda source: ".".join(_url_base64(source, size) for size in (60, 180, 256)))
    yield (
        "encrypted card (JWE)",
        Kind(lambda source: ".".join(_url_base64(source, size) for size in (120, 256, 12, 90, 16))),
    )
    yield "hash, sha256 in base64", Kind(lambda source: base64.b64encode(source.randbytes(32)).decode())
    yield "address of a network card", Kind(lambda source: source.randbytes(6).hex(":"))
    yield "fingerprint of a certificate", Kind(lambda source: source.randbytes(32).hex(":").upper())
    yield "bytes in hexadecimal", Kind(lambda source: source.randbytes(source.randrange(12, 64)).hex(" "))
    yield "commit, abbreviated", Kind(lambda source: _hex(source, source.randrange(7, 16)))
    for header, make in TRACES.items():
        yield f"header {header}", Kind(make, name=header, is_header=True)


def _times() -> Iterator[tuple[str, Kind]]:
    for unit, factor in (("ms", 10**3), ("µs", 10**6), ("ns", 10**9)):
        yield f"time in {unit}", Kind(partial(_time, factor))
        yield f"time in {unit}, as a text", Kind(partial(_time_text, factor))
    yield "time, ISO 8601", Kind(_iso_time)
    yield "snowflake of Twitter", Kind(partial(_snowflake, 1_288_834_974_657, 22))
    yield "snowflake of Discord", Kind(partial(_snowflake, 1_420_070_400_000, 22))
    yield "snowflake of Instagram", Kind(partial(_snowflake, 1_314_220_021_721, 23))
    yield "ticks of .NET", Kind(lambda source: int(source.uniform(6.385e17, 6.42e17)))
    yield "ticks of .NET, of the winter of 2025", Kind(lambda source: f"6390{_of(source, DIGITS, 14)}")
    yield "sonyflake", Kind(lambda source: str(int(source.uniform(1e10, 4e10)) << 24 | source.getrandbits(24)))


def _floats() -> Iterator[tuple[str, Kind]]:
    yield "float between 0 and 1", Kind(lambda source: source.random())
    yield "float up to a million", Kind(lambda source: source.uniform(0, 1e6))
    yield "float around 0", Kind(lambda source: source.gauss(0, 1))
    yield "float, tiny", Kind(lambda source: source.random() * 1e-7)
    yield "floats, geographical", Kind(lambda source: [source.uniform(-90, 90), source.uniform(-180, 180)])
    yield "float, in floating point", Kind(lambda source: f"{source.uniform(1, 10)!r}E{source.randrange(3, 15)}")
    yield "float, as a text", Kind(lambda source: repr(source.uniform(0, 100)))


def _order_numbers() -> Iterator[tuple[str, Kind]]:
    for length in range(12, 20):
        name = f"order number of {length} digits"
        for form, (member, written) in ORDER_NUMBERS.items():
            yield f"{name}, {form}", Kind(partial(_order_number, written, length), name=member)
        yield f"{name}, as a JSON number", Kind(partial(_order_number_as_json, length), name="orderId")
        bare = partial(_order_number, "{}", length)
        if length in MAY_BE_A_CARDS:
            yield f"{name}, bare", Kind(bare, refused_max=MAY_BE_A_CARDS[length], gives_way=IS_A_BRANDS)
        else:
            yield f"{name}, bare", Kind(bare)
    yield "order number of 13 digits that begins with 4, bare", Kind(lambda source: "4" + _of(source, DIGITS, 12))


ORDER_NUMBERS = {
    "in a member named so": ("order_number", "{}"),
    "after the word": ("note", "Order no. {}"),
    "behind ORD-": ("note", "ORD-{}"),
    "behind PO": ("note", "PO{}"),
    "behind a code and a year": ("note", "SO-2026-{}"),
    "behind a code of three words": ("note", "ORDER-NO-{}"),
    "before a date": ("note", "Order no. {} 12/28/2026"),
    "before a time": ("note", "ORD-{} 12:28:123"),
    "before an amount": ("note", "ORD-{} 12.28 EUR"),
    "in an element": ("note", "<order>{}</order>"),
}
MAY_BE_A_CARDS = {14: 0.006, 15: 0.004, 16: 0.04, 19: 0.0025}
"""Lengths that brands issue, and the share that may be refused."""


def _numbers_of_business() -> Iterator[tuple[str, Kind]]:
    yield "EAN-13", Kind(lambda source: _gtin(_number(source, 12)))
    yield "EAN-13 that begins with 4", Kind(lambda source: _gtin("4" + _of(source, DIGITS, 11)))
    yield "SSCC-18", Kind(lambda source: _gtin(_of(source, DIGITS, 17)))
    yield "ISBN-13", Kind(lambda source: _gtin(f"978{_of(source, DIGITS, 9)}"))
    yield "creditor's reference", Kind(_creditor_reference)
    yield "SIRET, in a member named so", Kind(_siret, name="siret")
    yield "postal code of India", Kind(lambda source: str(source.randrange(110_000, 860_000)), name="pincode")
    yield "postal code of India, as a pin", Kind(lambda source: source.randrange(110_000, 860_000), name="pin")
    for form in ("Bengaluru, PIN: {}", "Pin Code - {}", "Mumbai PIN={}"):
        yield f"address in India, {form}", Kind(partial(_postal_code, form))
    yield "what a gateway says of a verification value", Kind(_result, name="cvvResponseCode")
    yield "number of a song", Kind(lambda source: source.randrange(1, 10_000), name="track")
    for country in IBANS:
        yield f"IBAN, {country}", Kind(partial(_iban, country))
        yield f"IBAN, {country}, in groups", Kind(partial(_iban_in_fours, country))
    for country, pattern in TELEPHONES.items():
        yield f"telephone number, {country}", Kind(partial(_filled, pattern))
        yield f"telephone number, {country}, in one piece", Kind(partial(_in_one_piece, pattern))
    yield (
        "amount in minor units",
        Kind(lambda source: source.randrange(1, 10 ** source.randrange(1, 14)), name="amount_minor"),
    )
    yield "list of ages", Kind(lambda source: [source.randrange(18, 80) for _ in range(source.randrange(12, 60))])
    yield "list of percentages", Kind(lambda source: [source.randrange(101) for _ in range(40)])
    yield "table of numbers", Kind(_table)
    yield "numbers in members with a count", Kind(partial(_counted_members, range(1, 8)))
    yield (
        "telephone numbers in members with a count",
        Kind(lambda source: {"tel1": _of(source, DIGITS, 8), "tel2": _of(source, DIGITS, 8)}),
    )
    yield (
        "four numbers of four digits in members with a count",
        Kind(partial(_counted_members, range(4, 5)), refused_max=0.04, gives_way=IS_A_CARDS_FORM),
    )
    yield "prices of eight articles", Kind(lambda source: [{"price": source.randrange(1000, 9999)} for _ in range(8)])
    yield "number behind a word that begins like a verification value's", Kind(_behind_a_word)
    yield "customer's number", Kind(lambda source: source.randrange(1000, 9999), name="cid")


WORDS_OF_OTHERS = (
    *("sector code", "section", "security deposit", "digits", "digital code", "signature", "secondary", "cvmResult"),
    *(
        "kod pocztowy",
        "kodak",
        "codi postal",
        "código postal",
        "codice fiscale",
        "Kontrollnummer",
        "Baot",
        "turvallisuus",
    ),
    *("код товара", "Код", "индекс", "رمز", "קוד", "安全", "보안", "セキュリティ", "κωδικός πελάτη", "рамка"),
)


def _behind_a_word(source: Random) -> str:
    return f"{source.choice(WORDS_OF_OTHERS)}: {source.randrange(100, 10_000)}"


def _table(source: Random) -> str:
    return "\n".join(
        "".join(f"{source.randrange(10 ** source.randrange(1, 6)):>10}" for _ in range(8)) for _ in range(4)
    )


def _counted_members(lengths: range, source: Random) -> dict[str, int]:
    return {f"q{at}": int(_number(source, source.choice(lengths))) for at in range(1, 5)}


def _postal_code(form: str, source: Random) -> str:
    return form.format(source.randrange(110_000, 860_000))


def _result(source: Random) -> str:
    return str(source.randrange(100, 1_000))


def _of(source: Random, alphabet: str, length: int) -> str:
    return "".join(source.choices(alphabet, k=length))


def _hex(source: Random, length: int) -> str:
    return f"{source.getrandbits(4 * length):0{length}x}"


def _url_base64(source: Random, size: int) -> str:
    return base64.urlsafe_b64encode(source.randbytes(size)).decode().rstrip("=")


def _number(source: Random, length: int) -> str:
    return source.choice("123456789") + _of(source, DIGITS, length - 1)


def _uuid(source: Random, version: int) -> uuid.UUID:
    """The standard library sets versions 1 to 5 only."""
    bits = source.getrandbits(128) & ~(0xF << 76) & ~(0x3 << 62)
    return uuid.UUID(int=bits | version << 76 | 0x2 << 62)


def _uuid7(source: Random) -> uuid.UUID:
    bits = _uuid(source, 7).int & ((1 << 80) - 1)
    return uuid.UUID(int=int(source.uniform(1.6e12, 2.2e12)) << 80 | bits)


def _ulid(source: Random) -> str:
    moment, text = int(source.uniform(1.6e12, 2.2e12)), ""
    for _ in range(10):
        moment, digit = divmod(moment, 32)
        text = BASE32[digit] + text
    return text + _of(source, BASE32, 16)


def _uuid_text(version: int, source: Random) -> str:
    return str(_uuid(source, version))


def _digest(name: str, source: Random) -> str:
    return hashlib.new(name, source.randbytes(8), usedforsecurity=False).hexdigest()


def _time(factor: int, source: Random) -> int:
    return int(source.uniform(1.5e9, 2.1e9) * factor)


def _time_text(factor: int, source: Random) -> str:
    return str(_time(factor, source))


def _snowflake(epoch_ms: int, bits: int, source: Random) -> str:
    return str(int(source.uniform(epoch_ms + 1e10, 1.8e12) - epoch_ms) << bits | source.getrandbits(bits))


def _order_number(written: str, length: int, source: Random) -> str:
    return written.format(_number(source, length))


def _order_number_as_json(length: int, source: Random) -> int:
    return int(_number(source, length))


def _iso_time(source: Random) -> str:
    r = source.randrange
    return (
        f"20{r(20, 36)}-{r(1, 13):02}-{r(1, 29):02}{source.choice('T ')}{r(24):02}:{r(60):02}:{r(60):02}.{r(10**6):06}"
        f"{source.choice(('Z', '+00:00', '+02:00', '-0700', ''))}"
    )


def _gtin(digits: str) -> str:
    """With the check digit of GS1: 3 and 1 in turns, from the right."""
    total = sum(int(digit) * (3 if at % 2 == 0 else 1) for at, digit in enumerate(reversed(digits)))
    return digits + str(-total % 10)


IBANS = {
    "Germany": "DE dddddddddddddddddd",
    "Austria": "AT dddddddddddddddd",
    "Switzerland": "CH ddddddddddddddddd",
    "France": "FR ddddddddddddddddddddddd",
    "Spain": "ES dddddddddddddddddddd",
    "Italy": "IT Adddddddddddddddddddddd",
    "the Netherlands": "NL AAAAdddddddddd",
    "the United Kingdom": "GB AAAAdddddddddddddd",
    "Poland": "PL dddddddddddddddddddddddd",
    "Belgium": "BE dddddddddddd",
}
TELEPHONES = {
    "Germany": "+49 30 dddddddd",
    "the United States": "+1 (ddd) ddd-dddd",
    "the United Kingdom": "+44 20 dddd dddd",
    "France": "+33 6 dd dd dd dd",
    "Italy": "+39 3dd ddd dddd",
    "Spain": "+34 6dd ddd ddd",
    "Poland": "+48 ddd ddd ddd",
    "India": "+91 9dddd ddddd",
    "China": "+86 138 dddd dddd",
    "Brazil": "+55 (11) 9dddd-dddd",
    "Indonesia": "+62 8dd-dddd-dddd",
    "Hungary": "+36 30 ddd dddd",
}


def _filled(pattern: str, source: Random) -> str:
    return "".join(source.choice(DIGITS) if sign == "d" else sign for sign in pattern)


def _in_one_piece(pattern: str, source: Random) -> str:
    return "+" + "".join(filter(str.isdigit, _filled(pattern, source)))


def _iban(country: str, source: Random) -> str:
    """With right check digits (ISO 13616)."""
    code, pattern = IBANS[country].split()
    account = "".join(source.choice({"d": DIGITS, "A": BASE62[10:36]}[sign]) for sign in pattern)
    remainder = int("".join(str(int(sign, 36)) for sign in f"{account}{code}00")) % 97
    return f"{code}{98 - remainder:02}{account}"


def _siret(source: Random) -> str:
    """The number of a place of business in France has the check digit of a card number."""
    digits = _of(source, DIGITS, 13)
    return digits + luhn_digit(digits)


def _creditor_reference(source: Random) -> str:
    """ISO 11649."""
    reference = _of(source, DIGITS, 21)
    return f"RF{98 - int(f'{reference}271500') % 97:02}{reference}"


def _iban_in_fours(country: str, source: Random) -> str:
    text = _iban(country, source)
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


TRACES: dict[str, Callable[[Random], str]] = {
    "traceparent": lambda source: f"00-{_hex(source, 32)}-{_hex(source, 16)}-01",
    "tracestate": lambda source: (
        f"33@nr=0-0-{source.randrange(10**6, 10**7)}-{source.randrange(10**7, 10**8)}-{_hex(source, 16)}-{_hex(source, 16)}"
        f"-1-1.{source.randrange(10**4)}-{source.randrange(1_600_000_000_000, 1_900_000_000_000)}"
    ),
    "b3": lambda source: f"{_hex(source, 32)}-{_hex(source, 16)}-1-{_hex(source, 16)}",
    "x-b3-traceid": lambda source: _hex(source, source.choice((16, 32))),
    "x-b3-spanid": lambda source: _hex(source, 16),
    "uber-trace-id": lambda source: f"{source.getrandbits(64):x}:{source.getrandbits(64):x}:0:1",
    "x-datadog-trace-id": lambda source: str(source.getrandbits(63)),
    "x-datadog-parent-id": lambda source: str(source.getrandbits(64)),
    "x-amzn-trace-id": lambda source: (
        f"Root=1-{_hex(source, 8)}-{_hex(source, 24)};Parent={_hex(source, 16)};Sampled=1"
    ),
    "x-cloud-trace-context": lambda source: f"{_hex(source, 32)}/{source.getrandbits(64)};o=1",
    "sentry-trace": lambda source: f"{_hex(source, 32)}-{_hex(source, 16)}-1",
    "elastic-apm-traceparent": lambda source: f"00-{_hex(source, 32)}-{_hex(source, 16)}-01",
    "x-request-id": lambda source: str(_uuid(source, 4)),
}
