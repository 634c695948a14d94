"""What stands around digits that look like a card number, and says whether they are one."""

import re
from typing import Final

from shared.card_data.brands import DIGITS_MAX, is_issued

_LOOK_BACK: Final = 48
_LOOK_AHEAD: Final = 24
_TELEPHONE_DIGITS_MAX: Final = 15  # ITU-T E.164
_TELEPHONE_PREFIX = re.compile(rb"(?<![0-9A-Za-z._~\-])[+]\Z")
"""Behind a letter, a digit or a sign that forms leave as it is, a plus sign is a blank of a form: `card+4242...`."""

_CARD_WORD = re.compile(
    rb"(?i)(?<!dis)card|visa|master|maestro|amex|american express|diners|unionpay|rupay|(?<![a-z])(?:pan|cc|jcb|mir|elo)(?![a-z])"
    rb"|kart[ae]|(?<![a-z])kart(?![a-z])|tarjeta|carta[^a-z]|cart[aeo]+ |carte|credit|kredit|debit"
)
_MONTH, _YEAR = rb"(?:0[1-9]|1[0-2])", rb"(?:20)?[2-4][0-9](?![0-9])"
_EXPIRY = re.compile(rb"[^0-9A-Za-z]{1,4}(?:exp\w*[^0-9A-Za-z]{0,3})?%b[/\-. ]?%b" % (_MONTH, _YEAR), re.IGNORECASE)
_REST_OF_A_CARD = re.compile(
    rb"=[0-9]{7}"  # of a track
    rb"|[^0-9A-Za-z]{1,4}(?:exp[a-z]*[^0-9A-Za-z]{0,4}%b[^0-9A-Za-z]{0,3}%b"
    rb"|%b ?/ ?%b(?!/)"
    rb"|%b[^0-9A-Za-z:]{0,3}%b[^0-9A-Za-z]{1,3}(?!20[2-4][0-9])[0-9]{3,4}(?![0-9]))" % ((_MONTH, _YEAR) * 3),
    re.IGNORECASE,
)
"""An expiry date that is no amount, date or time of day behind an order number: with its word, a slash, or a verification value."""

_ORDER_WORD = (
    rb"(?:purchase|sales|customer)?orders?|bestell(?:ung|nummer|nr)|auftrag(?:snummer|snr)?|commande|pedido|ordine|zamowienie"
    rb"|shipments?|shipping|parcel|tracking|waybill|consignment|delivery|sendung(?:snummer)?|snowflake|timestamp|siret"
)
_TRACING_WORD = rb"(?:(?:trace|parent|span)[_\-. ]?)+id"
"""Never without `id`: `<span>` is an element of HTML."""
_NOT_BEFORE_A_CARD = re.compile(
    rb"(?:(?:(?<![A-Za-z])(?i:%b)|(?<=[a-z])(?:Order|Shipment|Tracking))(?i:[_\- ]?(?:id|no|nr|num|number|ref|reference|key|code))?"
    rb"|(?<![A-Za-z])(?i:%b)|(?<=[a-z])(?:Trace|Span|Parent)[Ii][Dd])[^0-9A-Za-z]{0,6}$" % (_ORDER_WORD, _TRACING_WORD)
)
_CODE = re.compile(
    rb"(?<![0-9A-Za-z])(?:(?:[A-Z][A-Z0-9]{0,11}[\-_/#]){0,2}[A-Z][A-Z0-9]{0,7}[\-_/#](?:[0-9]{2,6}[\-_/])?"
    rb"|(?i:order|ord|po|so|inv)[\-_/#]?)$"
)
_CODE_OF_A_CARD = re.compile(
    rb"CARD(?!BOARD)|KA?AR[TD]|KORT|CARTE|CARTA|TARJ|VISA|MASTER|MAESTRO|PLASTIC|AMEX|DINERS|DISCOVER|UNIONPAY|RUPAY|HIPER|VERVE"
    rb"|CREDI|KREDI|DEBI|PAYMENT|(?<!JA)(?<!S)PAN(?:NO|NR|NUM|NUMBER)?[0-9]?[\-_/#]"
    rb"|(?<![A-Z0-9])(?:BIN|CC|C|KK|CRD|MC|JCB|MIR|ELO|TROY|CUP|ACC|ACCT|ACCOUNT|KONTO|PAY)(?:N|NO|NR|NUM|NUMBER|NBR|NUMERO|NUMMER|ID)?[0-9]?[\-_/#]"
)
_CODE_OF_NOTHING = re.compile(
    rb"(?:(?:N|NO|NR|NUM|NUMBER|NBR|NUMERO|NUMMER|ID|KEY|CODE|VALUE|DATA|TEXT)[0-9]?[\-_/#])+(?:[0-9]{2,6}[\-_/])?"
).fullmatch
"""`NO-` names nothing, and `ORDER-NO-` an order."""

_TRACE_ID = re.compile(rb"(?<![0-9A-Za-z])[0-9a-f]{32}/$")  # X-Cloud-Trace-Context: the id of a span follows
_FLOAT = re.compile(rb"(?<![0-9.])[0-9]{1,13}\.[0-9]+(?![0-9]*\.[0-9])")

_HEXADECIMAL: Final = b"0123456789abcdefABCDEF"
_HASH_LENGTH_MAX: Final = 1_024
_HASH_LENGTHS: Final = {16, 24, *range(32, _HASH_LENGTH_MAX + 1, 2)}
"""Span ids, object ids, trace ids and hashes; up to a signature of RSA with 4 096 bits."""
_OF_EACH_KIND_MIN: Final = 8
"""Of so many characters of a hash at least one is a letter and one a digit. A card number with letters behind it, or in the data of a
chip, is none."""
_DASHED = re.compile(
    rb"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"  # UUID
    rb"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})(?![0-9A-Za-z])"  # W3C traceparent
)
_DASHED_LENGTH: Final = 55

_IBAN_START = re.compile(rb"[A-Za-z](?<![0-9A-Za-z].)[A-Za-z][0-9]{2}(?=[ \-]?[0-9A-Za-z])")
_IBAN_TABLE: Final = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18
FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24
ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23
ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
"""Characters by country (the registry that SWIFT keeps for ISO 13616)."""
_IBAN_LENGTHS: Final = {entry[:2].encode(): int(entry[2:]) for entry in _IBAN_TABLE.split()}
_IBAN_WRITTEN_MAX = 33 + 33  # with a blank between any two characters
_BETWEEN_IBAN: Final = b" -"
_IBAN_DIGITS: Final = str.maketrans({letter: str(int(letter, 36)) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"})
_CREDITOR_REFERENCE = re.compile(rb"RF[0-9]{2}(?:[ \-]?[0-9]){1,21}(?![0-9A-Za-z])")  # ISO 11649


def is_meant(data: bytes, start: int, end: int, digits: bytes, *, is_printed: bool) -> bool:
    """Whether digits that have a brand's prefix and pass Luhn are to be taken for a card number, by what stands around them."""
    if not is_printed:
        before = data[max(0, start - _LOOK_BACK) : start]
        if _TELEPHONE_PREFIX.search(before) and len(digits) <= _TELEPHONE_DIGITS_MAX:
            return False
        before = before.replace(b"+", b" ")  # of a form
        if _is_named_otherwise(before) and not (
            data[end : end + 1].isalnum() or _REST_OF_A_CARD.match(data, end, end + _LOOK_AHEAD)
        ):
            return False
        if not is_issued(digits) and not _speaks_for_a_card(data, before, end):
            return False
        if _is_float(data, start, end):
            return False
    return not (_is_in_hash(data, start, end) or _is_in_uuid(data, start, end) or _is_in_iban(data, start, end))


def _is_named_otherwise(before: bytes) -> bool:
    if (code := _CODE.search(before)) is not None:
        return _CODE_OF_A_CARD.search(code[0]) is None and _CODE_OF_NOTHING(code[0]) is None
    if _TRACE_ID.search(before):
        return True
    found = _NOT_BEFORE_A_CARD.search(before)
    return found is not None and _CARD_WORD.search(before, max(0, found.start() - 8)) is None


def _speaks_for_a_card(data: bytes, before: bytes, end: int) -> bool:
    return _CARD_WORD.search(before) is not None or _EXPIRY.match(data, end, end + _LOOK_AHEAD) is not None


def _is_float(data: bytes, start: int, end: int) -> bool:
    """Whether they stand in a number with a decimal point. Before it a float has 13 digits at most: it has no more than 17 in all."""
    if b"." not in data[max(0, start - DIGITS_MAX) : end + 1]:
        return False
    return any(
        one.start() <= start and end <= one.end()
        for one in _FLOAT.finditer(data, max(0, start - DIGITS_MAX), end + DIGITS_MAX)
    )


def _is_in_hash(data: bytes, start: int, end: int) -> bool:
    """Whether the first or the last of them are part of a number in hexadecimal that has the length of an id or a hash, and reads as one
    besides them too."""
    for at in {start, end - 1}:
        before, behind = data[max(0, at - _HASH_LENGTH_MAX) : at], data[at : at + _HASH_LENGTH_MAX]
        first = at - len(before) + len(before.rstrip(_HEXADECIMAL))
        last = at + len(behind) - len(behind.lstrip(_HEXADECIMAL))
        is_alone = not data[first - 1 : first].isalnum() and not data[last : last + 1].isalnum()
        if is_alone and last - first in _HASH_LENGTHS and _is_hexadecimal(data[first:start] + data[end:last]):
            return True
    return False


def _is_hexadecimal(text: bytes) -> bool:
    """Whether as many of these hexadecimal digits are letters and decimal digits as chance makes."""
    letters = len(text.translate(None, b"0123456789"))
    return min(letters, len(text) - letters) * _OF_EACH_KIND_MIN >= len(text) > 0


def _is_in_uuid(data: bytes, start: int, end: int) -> bool:
    """Whether any of them are part of a UUID or of the ids of a trace."""
    first, last = max(0, start - _DASHED_LENGTH), end + _DASHED_LENGTH
    if b"-" not in data[start - 1 : end + 1]:
        return False
    return any(one.start() < end and start < one.end() for one in _DASHED.finditer(data, first, last))


def _is_in_iban(data: bytes, start: int, end: int) -> bool:
    """Whether any of them are part of an account number, or a creditor's reference, with its own check digits."""
    return any(
        start < one.start() + _iban_length(data[one.start() : one.start() + _IBAN_WRITTEN_MAX])
        for one in _IBAN_START.finditer(data, max(0, start - _IBAN_WRITTEN_MAX), end)
    )


def _iban_length(text: bytes) -> int:
    """The characters of the IBAN at the beginning of this text, as it is written; 0 if there is none: of its country's length, and right
    modulo 97. A creditor's reference has any length, and mostly digits."""
    if reference := _CREDITOR_REFERENCE.match(text):
        length = len(reference[0].translate(None, _BETWEEN_IBAN))
    else:
        length = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    plain = text.translate(None, _BETWEEN_IBAN)[:length]
    if not length or len(plain) < length or not plain.isalnum():
        return 0
    if int((plain[4:] + plain[:4]).decode().upper().translate(_IBAN_DIGITS)) % 97 != 1:
        return 0
    written = next(at for at in range(length, len(text) + 1) if len(text[:at].translate(None, _BETWEEN_IBAN)) == length)
    return 0 if text[written : written + 1].isalnum() else written
