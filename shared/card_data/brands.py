"""The brands' ranges and lengths, and the check digit of a card number."""

from typing import Final

DIGITS_MIN, DIGITS_MAX = 12, 19  # ISO/IEC 7812-1: Maestro's shortest to the longest
_PREFIX_DIGITS: Final = 6

# Brand, ranges of prefixes, lengths that are issued, lengths that are published besides. Sources: the brands' own pages and the list of
# issuer ranges in Wikipedia, "Payment card number". Maestro keeps to the ranges in use: all of 50 and 56-69 would take in everything.
BRANDS: Final[tuple[tuple[str, str, set[int], set[int]], ...]] = (
    ("Visa", "4", {16}, {13, 18, 19}),
    ("Mastercard", "51-55 2221-2720", {16}, set()),
    ("American Express", "34 37", {15}, set()),
    ("Discover", "6011 644-649 65", {16}, {17, 18, 19}),
    ("JCB", "3528-3589", {16}, {17, 18, 19}),
    ("Diners Club", "300-305 3095 36 38-39", {14, 16}, {15, 17, 18, 19}),
    ("UnionPay", "62", {16, 19}, {17, 18}),
    ("UnionPay, second range", "8100-8171", {16}, {17, 18, 19}),
    ("Maestro", "5018 5020 5038 5612 5893 6304 6759 6761-6763 676770 676774", {16, 18, 19}, {12, 13, 14, 15, 17}),
    ("Maestro of Germany", "6390", {16, 19}, {12, 13, 14, 15, 17, 18}),  # ticks of .NET have 18 digits
    ("Mir", "2200-2204", {16}, {17, 18, 19}),
    ("RuPay", "508 60 65 81-82 353 356", {16}, set()),
    ("Elo", "504175 506699-506778 509 627780 636297 636368", {16}, set()),
    ("Troy", "9792 65", {16}, set()),
    ("Verve", "506099-506198 507865-507964 650000-650029", {16, 18, 19}, set()),
    ("Hipercard", "606282 384100 384140 384160 637095 637568 637599 637609 637612", {16}, {13, 19}),
)


def _lengths_by_prefix(*, published: bool) -> bytes:
    """For each number of six digits the lengths of card numbers that begin with it, one bit a length: those that are issued, or also those
    that are only published."""
    table = bytearray(10**_PREFIX_DIGITS)
    for _, ranges, issued, besides in BRANDS:
        bits = sum(1 << length - DIGITS_MIN for length in issued | (besides if published else set()))
        with_bits = bytes(byte | bits for byte in range(256))
        for first, last in (range_.partition("-")[::2] for range_ in ranges.split()):
            begin, end = int(first.ljust(_PREFIX_DIGITS, "0")), int((last or first).ljust(_PREFIX_DIGITS, "9")) + 1
            table[begin:end] = table[begin:end].translate(with_bits)
    return bytes(table)


_ISSUED: Final = _lengths_by_prefix(published=False)
_PUBLISHED: Final = _lengths_by_prefix(published=True)
_LENGTHS: Final = tuple(
    tuple(length for length in range(DIGITS_MIN, DIGITS_MAX + 1) if bits & 1 << length - DIGITS_MIN)
    for bits in range(256)
)
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")


def published_lengths(digits: bytes) -> tuple[int, ...]:
    """The lengths of card numbers that begin with these six ASCII digits or more."""
    return _LENGTHS[_PUBLISHED[int(digits[:_PREFIX_DIGITS])]]


def is_issued(digits: bytes) -> bool:
    """Whether a brand issues numbers with this prefix and of this length, and does not only publish so."""
    return len(digits) in _LENGTHS[_ISSUED[int(digits[:_PREFIX_DIGITS])]]


def passes_luhn(digits: bytes) -> bool:
    """Whether the last of these ASCII digits is the check digit of the others (ISO/IEC 7812-1 annex B)."""
    return (sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED)) - len(digits) * ord("0")) % 10 == 0
