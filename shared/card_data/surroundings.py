"""What stands around digits that look like a card number, and says whether they are one."""

import re
from typing import Final

from shared.card_data.brands import DIGITS_MAX, IS_ISSUED

_LOOK_BACK = 48
_LOOK_AHEAD = 24
_IDENTIFIER_LENGTH_MAX = 140  # characters of a SHA-512 and what stands around it
_TELEPHONE_DIGITS_MAX = 15  # ITU-T E.164

_CARD_WORD = re.compile(
    rb"(?i)(?<!dis)card|visa|master|maestro|amex|american express|diners|unionpay|rupay|(?<![a-z])(?:pan|cc|jcb|mir|elo)(?![a-z])"
    rb"|kart[ae]|(?<![a-z])kart(?![a-z])|tarjeta|carta[^a-z]|cart[aeo]+ |carte|credit|kredit|debit"
)
_EXPIRY = re.compile(
    rb"[^0-9A-Za-z]{1,4}(?:exp\w*[^0-9A-Za-z]{0,3})?(?:0[1-9]|1[0-2])[/\-. ]?(?:20)?[2-4]\d(?!\d)", re.IGNORECASE
)

_ORDER_WORD = (
    rb"(?:purchase|sales|customer)?orders?|bestell(?:ung|nummer|nr)|auftrag(?:snummer|snr)?|commande|pedido|ordine|zamowienie"
    rb"|shipments?|shipping|parcel|tracking|waybill|consignment|delivery|sendung(?:snummer)?|trace|span|parent|snowflake|timestamp"
)
_NOT_BEFORE_A_CARD = re.compile(
    rb"(?:(?<![A-Za-z])(?i:%b)|(?<=[a-z])(?:Order|Trace|Span|Shipment|Tracking))"
    rb"(?i:[_\- ]?(?:id|no|nr|num|number|ref|reference|key|code))?[^0-9A-Za-z]{0,6}$" % _ORDER_WORD
)
_CODE = re.compile(
    rb"(?<![0-9A-Za-z])(?:(?!(?:CARD|PAN|CC|VISA|MC|AMEX|JCB|MIR|ELO|CREDIT|DEBIT|KARTE|CARTE|ACCT|ACCOUNT|KONTO|NO|NR|NUM|NUMBER)[\-_/#])"
    rb"[A-Z][A-Z0-9]{0,7}[\-_/#](?:[0-9]{2,6}[\-_/])?|(?i:order|ord|po|so|inv)[\-_/#]?)$"
)

_IDENTIFIER = re.compile(
    rb"""
    (?<![0-9A-Za-z])
    (?:
        [0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}        # UUID
      | [0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}           # W3C traceparent
      | [0-9a-f]{32}/[0-9]{1,20}                                    # X-Cloud-Trace-Context
      | (?=[0-9]*[A-Fa-f])                                          # object, span and trace ids, hashes: a letter is in it
        (?:[0-9A-Fa-f]{16}|[0-9A-Fa-f]{24}|[0-9A-Fa-f]{32}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{48}|[0-9A-Fa-f]{56}|[0-9A-Fa-f]{64}
          |[0-9A-Fa-f]{96}|[0-9A-Fa-f]{128})
    )
    (?![0-9A-Za-z])
    """,
    re.VERBOSE,
)
_FLOAT = re.compile(rb"(?<![0-9.])[0-9]{1,13}\.[0-9]+(?![0-9]*\.[0-9])")

_IBAN_START = re.compile(rb"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?=[ \-]?[0-9A-Za-z])")
_IBAN_TABLE: Final = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18
FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24
ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23
ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
"""
"""Characters by country (the registry that SWIFT keeps for ISO 13616)."""
_IBAN_LENGTHS: Final = {entry[:2].encode(): int(entry[2:]) for entry in _IBAN_TABLE.split()}
_IBAN_WRITTEN_MAX = 33 + 33  # with a blank between any two characters


def is_meant(data: bytes, start: int, end: int, digits: bytes, *, is_printed: bool) -> bool:
    """Whether digits that have a brand's prefix and pass Luhn are to be taken for a card number, by what stands around them."""
    if not is_printed:
        before = data[max(0, start - _LOOK_BACK) : start]
        if before.endswith(b"+") and len(digits) <= _TELEPHONE_DIGITS_MAX:
            return False
        if _is_named_otherwise(before) and not data[end : end + 1].isalnum():
            return False
        if not IS_ISSUED.match(digits) and not _speaks_for_a_card(data, before, end):
            return False
        if _is_float(data, start, end):
            return False
    return not _is_identifier(data, start, end)


def _is_named_otherwise(before: bytes) -> bool:
    if _CODE.search(before):
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


def _is_identifier(data: bytes, start: int, end: int) -> bool:
    """Whether any of them are part of a UUID, a hash, a trace id, or an account number with its own check digits."""
    for one in _IDENTIFIER.finditer(data, max(0, start - _IDENTIFIER_LENGTH_MAX), end + _IDENTIFIER_LENGTH_MAX):
        if one.start() < end and start < one.end():
            return True
    for one in _IBAN_START.finditer(data, max(0, start - _IBAN_WRITTEN_MAX), end):
        if start < one.start() + _iban_length(data[one.start() : one.start() + _IBAN_WRITTEN_MAX]):
            return True
    return False


def _iban_length(text: bytes) -> int:
    """The characters of the IBAN at the beginning of this text, 0 if there is none: of its country's length, and right modulo 97."""
    length = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    plain, at = b"", 0
    while length and len(plain) < length and at < len(text):
        if text[at : at + 1].isalnum():
            plain += text[at : at + 1]
        elif text[at] not in b" -":
            return 0
        at += 1
    if not length or len(plain) < length or text[at : at + 1].isalnum():
        return 0
    turned = (plain[4:] + plain[:4]).decode()
    return at if int("".join(str(int(character, 36)) for character in turned)) % 97 == 1 else 0
