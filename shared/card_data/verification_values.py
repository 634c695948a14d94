"""Finds card verification values, PINs and the tracks of magnetic stripes (PCI DSS 3.3.1): they are known by their names alone."""

import re
import string
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from shared.card_data.effort import Effort
from shared.card_data.plain import as_ascii

TO_NAMES: Final = bytes.maketrans(string.ascii_uppercase.encode() + b"+", string.ascii_lowercase.encode() + b" ")
"""Names are looked for in lower case, and a plus sign is a blank of a form."""

# -- names, in lower case: any sign stands for a letter that is not ASCII ----------------------------------------------------------------

# `cid`, as American Express has it, counts behind `amex`, `card` or `cc` only: it is somebody's customer id as often.
_END = rb"(?:[_\- ]?(?:code|value|number|nummer|num|no|nr|data|val|digits|input|field|text))?x{0,8}+(?:\[[0-9]\])?(?![a-z])"
"""Letters that are not ASCII read as x: `CVV\u7801`."""
_FIRST = rb"(?:(?<![a-z0-9].)|(?<=card.)|(?<=payment.)|(?<=cc.)|(?<=credit.)|(?<=debit.))"
"""A first letter that begins a word, or stands behind one of these: `cardCsc`."""

_OF_A_RESULT = rb"(?:check|result|resp|match|status|error|fail|verif|valid|reason|time|date|count|fee|[_-]id(?![a-z]))"
"""What a gateway says of a verification value has names with these: `cvc_check`, `cvvResponseCode`."""
_ANY_END = rb"(?![a-z0-9_\-]{0,24}?%b)[a-z_\-][a-z0-9_\-]{0,24}+" % _OF_A_RESULT
"""`cvvEntered`, `cvv_plain`, `cvvCode2`."""

_CVV = rb"c(?:v[vc](?:[1-3](?![0-9])|(?:[_\-. ][1-3])??)|\.v\.[vc]\.?|cv2?|v[dn]2|av2|sv2)s?" + _END
_CVV_IN_A_NAME = rb"cv[vc]" + _ANY_END
_DE: Final = rb"[_\- ]?(?:d[ei][_\- ]?)?"
"""`code de s\u00e9curit\u00e9`, `codeSecurite`."""
_OF_A_CARD = rb"(?:(?<=amex.cid)|(?<=amexcid)|(?<=card.cid)|(?<=cardcid)|(?<=cc.cid)(?<![a-z]cc.cid))"
_OF_DIGITS: Final = b"|".join(
    rb"(?<=%b.digit.code)|(?<=%bdigitcode)" % (count, count) for count in (b"three", b"four", b"3", b"4")
)
_KOD: Final = b"|".join(
    rb"(?<=%b.kod)|(?<=%bkod)" % (word, word)
    for word in (b"nostni", b"nostny", b"tonsagi", b"sigurnosni", b"varnostna", b"saugos", b"drosibas")
)
"""Of Czech, Slovak, Hungarian, Croatian, Slovenian, Lithuanian and Latvian."""
_SPELT: Final = {
    b"security": rb"security[_\- ]?(?:code|cd|value|number|num|no|nr|digits)(?![a-z])",
    rb"sec(?:ure)?[_\- ]?co?d": rb"sec(?:ure)?[_\- ]?(?:code|cd)(?![a-z])",
    b"signature": rb"signature[_\- ]?panel(?:[_\- ]?code)?(?![a-z])",
    b"digit": rb"digits?[_\- ]?(?:code(?:%b)|on[_\- ]the[_\- ](?:back|front|reverse))(?![a-z])" % _OF_DIGITS,
    b"verification": rb"verification[_\- ]?(?:code|value|number)(?![a-z])",
    b"cryptogram": rb"cryptogram(?:me)?(?:[_\- ]?visuel)?(?![a-z])",
    rb"code%b(?:s.c|v.r)" % _DE: rb"code%b(?:s.curit|v.rific)[a-z?]{1,6}+" % _DE,
    rb"c.digo%b(?:segur|verif)" % _DE: rb"c.digo%b(?:segur|verific)[a-z?]{1,6}+" % _DE,
    rb"codice%b(?:sicur|verif|contr)" % _DE: rb"codice%b(?:sicurezza|verifica|controllo)" % _DE,
    rb"codi?%b(?:securita|segureta)" % _DE: rb"codi?%b(?:securitate|seguretat)(?![a-z])" % _DE,
    b"sicherheits": rb"sicherheits(?:code|nummer|ziffer|zahl)",
    b"fziffer": rb"fziffer(?:(?<=pr.fziffer)|(?<=pruefziffer))",
    b"fnummer": rb"fnummer(?:(?<=pr.fnummer)|(?<=pruefnummer))",
    b"kartenkontroll": rb"kartenkontroll(?:nummer|ziffer|zahl)",
    b"turva": rb"turva(?:koodi?|luku|number)(?![a-z])",
    b"venlik": rb"venlik[_\- ]?(?:kod|numara|no)[a-z]{0,3}(?![a-z])",
    b"bao": rb"bao[_\- ]?mat(?:(?<=ma.bao.mat)|(?<=mabaomat))(?![a-z])",
    b"kod": rb"kod(?:(?:(?<=kerhetskod)|(?<=kerhedskod)|%b)[a-z]{0,2}(?![a-z])"
    rb"|e?[_\- ]?(?:(?:bezpiecz|zabezpiecz)[a-z]{1,12}+|keamanan|keselamatan))" % _KOD,
    b"code": rb"code(?:(?<=beveiligingscode)|(?<=veiligheidscode))",
    b"cid": rb"cid%b(?![a-z])" % _OF_A_CARD,
}
"""As people spell it, by what it begins with, or has in the middle."""
_ANY_SPELT = b"|".join(_SPELT.values())
_CARD_CODE = (
    rb"ard[_\-. ]?(?:code|validation|verification|check[_\-. ]?(?:code|value|digits?|number)"
    rb"|(?:sec(?:urity)?|val(?:idation)?|ver(?:if(?:ication)?)?)[_\-. ]?(?:code|cd|val(?:ue)?|num(?:ber)?|no|nr|digits))"
)
"""`cardCode`, `CardSecVal`, `card_validation_code`."""
_SHORT = rb"c(?:v[dnm]|sc|%b(?:v2|av|v[_-]?num(?:ber)?)|vx(?:2|(?<=cardcvx)|(?<=card.cvx))|%b)%b" % (
    _FIRST,
    _CARD_CODE,
    _END,
)

_PIN_WORDS: Final = (b"card", b"payment", b"credit", b"debit", b"cc", b"atm", b"user", b"new", b"old", b"confirm")
_PIN_END = rb"(?:[_\- ]?(?:number|num|nummer|nr|value|val|data|digits))"
_PIN = rb"p%bin(?:[_\- ]?code)?(?![a-z])" % _FIRST
_PIN_OF_A_CARD = rb"p(?:(?:%b)in%b?|%bin%b)(?![a-z])" % (
    b"|".join(rb"(?<=%b.)|(?<=%b[_\-. ].)" % (word, word) for word in _PIN_WORDS),
    _PIN_END,
    _FIRST,
    _PIN_END,
)
_PIN_BLOCK = rb"pin[_\- ]?(?:block|blk)(?![a-z])"
_EQUIVALENT = rb"(?:[_\- ]?(?:equivalent|equiv|eq))?(?:[_\- ]?data)?(?![a-z])"
_TRACK = rb"t%brack[_\- ]?(?:[123]|one|two|three)%b" % (_FIRST, _EQUIVALENT)
_ANY_TRACKS = rb"t%bracks?%b(?:[_\- ]?[123])?" % (_FIRST, _EQUIVALENT)
_IS_NAME = re.compile(
    rb"(?:[a-z]{0,20}|.*[^a-z])(?:%b|%b|%b)|(?:.*[^a-z0-9])?(?:%b)|.*(?:%b|%b|%b)"
    % (
        rb"c(?:v[dnm]|sc)" + _END,
        _CVV,
        _CVV_IN_A_NAME,
        b"|".join((_ANY_SPELT, _SHORT, _PIN, _TRACK)),
        _PIN_OF_A_CARD,
        _PIN_BLOCK,
        rb"track[_\- ]?data",
    ),
    re.DOTALL,
)

# -- what stands between a name and its value --------------------------------------------------------------------------------------------

_QUOTE = rb"[\"'\\]{0,8}"
_VERB = rb"(?:is|ist|lautet|est|es|was|would be|should be)(?![a-z])"
_WORD = rb"(?:(?:%b|code|number|nr|no|value|val|content|data|text)[^0-9a-z]{1,16}+){0,2}" % _VERB
"""Of a sentence; or of a member, if the value is an object."""
_NOT_EMPTY = rb"(?!%b\s*:\s*(?:\"\"|'')\s*,)" % _QUOTE
"""Or what follows would be of the next member."""
_ASIDE = rb"(?:\s?[(][^()]{1,48}[)])?"
"""`CVV (3 digits): 987`"""
_NEXT = rb"%b%b[^0-9a-z]{0,16}+%b" % (_NOT_EMPTY, _ASIDE, _WORD)
_SIGN = rb"%b[^0-9a-z:=>,]{0,4}+(?:%b|[:=>,])[^0-9a-z]{0,16}+%b" % (_NOT_EMPTY, _VERB, _WORD)
_SENTENCE = (
    rb"(?![a-z \r\n?-]{0,32}(?:check|result|response|match|status|error|fail))[a-z \r\n?-]{1,32}?(?:(?<=[ \n])%b|[:=])[^0-9a-z]{1,8}+"
    % _VERB
)
_VALUE_NAME = rb"(?:val|(?:string|int|long|number|raw|field|text)?value|v|content|data|text)"
_MEMBER = rb"[\"'\\<](?:\s*:\s*\{)?[^{}]{1,80}?(?:\{[^{}]{0,80}\}[^{}]{0,80}?)?(?<![a-z])%b%b\s*[:=>]\s*\[?%b" % (
    _VALUE_NAME,
    _QUOTE,
    _QUOTE,
)
"""The name is a value itself: `{"name": "cvv", "type": "text", "value": "987"}`."""
_INSIDE = (
    rb"%b(?:\s*:\s*\{\s*%b(?![a-z_]{0,20}?%b)[a-z_]{1,20}+%b\s*:\s*%b|\s[^<>=]{1,40}=[^<>]{1,40}>\s*|\s*</[a-z0-9:]{1,16}>\s*<[^<>]{1,40}>\s*)"
    % (_QUOTE, _QUOTE, _OF_A_RESULT, _QUOTE, _QUOTE)
)
"""In an object, in an element with attributes, or in the next element: `{"cvv": {"raw": "987"}}`, `<td>cvv</td><td>987</td>`."""

# -- values ------------------------------------------------------------------------------------------------------------------------------

_NO_RESULT = rb"(?![_\-. ]?check%b\s*[:=]\s*%b[a-z])" % (_QUOTE, _QUOTE)
"""`"cvc_check": "pass"` is what every charge of a gateway says. Looking behind each would cost more than all else in its evidence."""
_DIGITS = rb"((?:[0-9]{3,4}|[0-9](?:[^0-9a-z]{1,12}[0-9]){2,3})(?![0-9a-z])(?!\.[0-9]*[1-9]))"
_BEHIND_SURE = rb"(?:%b|%b|%b|%b)%b" % (_NEXT, _SENTENCE, _MEMBER, _INSIDE, _DIGITS)
_BEHIND_SHORT = rb"(?:%b|%b|%b)%b" % (_SIGN, _MEMBER, _INSIDE, _DIGITS)
_PIN_DIGITS = rb"((?:%b|[0-9](?:[^0-9a-z]{1,12}[0-9]){3,5})(?![0-9a-z]))"
_DIGITS_OF_A_PIN = _PIN_DIGITS % rb"[0-9]{4,5}|0[0-9]{5}"
"""Of six digits only those that are no postal code of India, which stands behind `PIN` as well."""
_DIGITS_OF_A_CARDS_PIN = _PIN_DIGITS % rb"[0-9]{4,6}"
_BLOCK = rb"((?:(?:[0-9a-f]{2}[ :-]?){8,16}|[0-9]{4,6})(?![0-9a-z])|[0-9a-z/ ]{11}=|[0-9a-z/ ]{22}==)"
"""Eight or sixteen bytes in hexadecimal or base64, whose plus signs read as blanks here (ISO 9564-1); or a PIN."""
_TRACK_DATA = rb"([^\"'\\,]{0,20}[0-9]{4}[^\"'\\,]*)"
_TRACK_DATA_BEFORE = rb"([^\"'\\,<]{0,20}[0-9]{4}[^\"'\\,<]{0,100}+)"
"""What comes before a name is bounded: a text of many such values without a name must not be read to its end for each of them."""
_LIKE_A_TRACK = rb"([;%]?b?[0-9*x]{4,19}+(?:[=d][0-9]{4}|\^[^\"\\^]{0,26}\^[0-9]{4})[^\"'\\,<]{0,100}+)"
"""`track` is a word of many meanings."""


def _before(value: bytes, *names: bytes) -> bytes:
    """The value comes first: `{"value": "987", "name": "card_cvv"}`."""
    return (
        rb"\s*\[?\s*%b%b%b\s*\]?\s*[,<][^{}]{0,80}?(?:name|key|k|type|field|label|id)%b\s*[:=>]\s*%b"
        rb"[a-z0-9_\-. \[]{0,24}?(?:%b)(?=[\"'\\<\]])" % (_QUOTE, value, _QUOTE, _QUOTE, _QUOTE, b"|".join(names))
    )


_SAID_BEFORE = re.compile(
    rb"(?<![0-9a-z.])([0-9]{3,4})(?:[^0-9a-z]{1,3}(?:(?:is|was|as|ist|als)[ ](?:[a-z]{1,5}[ ]){0,2}|\()|\s?=\s?)\Z"
)
"""`987 is the CVV`, `987 (CVV)`, `987 = CVV`."""
_SAID_BEFORE_MAX: Final = 24
_MAY_BE_SAID_BEFORE = re.compile(rb"[0-9]{3}(?:[^0-9a-z]{1,3}(?:(?:is|was|as|ist|als)[ ]|\()|\s?=)")


_HINT_US, _NAME_US, _REVERSED_US = 0.6, 3, 15
"""What a hint and a name cost, in microseconds; and a name of which the value may come first."""


class _NamedValue:
    """A name and how a value stands with it. Each such name begins with the hint, which has no look-behind: so it is found fast.

    The long pattern is compiled when the name is first met: all of them would take 30 ms of each start.
    """

    def __init__(self, hint: bytes, name: bytes, value: bytes, *, name_us: float = _NAME_US) -> None:
        self._name_us = name_us
        self._hint = re.compile(hint)
        self._name = re.compile(name)
        self._named_value = rb"(?:%b)%b" % (name, value)

    @cached_property
    def _whole(self) -> re.Pattern[bytes]:
        return re.compile(self._named_value)

    def find(self, lowered: bytes, effort: Effort) -> Iterator[tuple[int, int] | None]:
        """Where the values stand; None for a name without one."""
        at = 0
        while (hint := self._hint.search(lowered, at)) is not None:
            effort.spend(_HINT_US)
            start, at = hint.start(), hint.start() + 1
            if self._name.match(lowered, start):
                effort.spend(self._name_us)
                found = self._whole.match(lowered, start)
                yield found and found.span(found.lastindex or 0)
                at = found.end() if found else at


_RULES: Final = (
    _NamedValue(rb"c(?:v[vcdn]|cv|\.v\.|av2|sv2)", _CVV + _NO_RESULT, _BEHIND_SURE),
    *(_NamedValue(hint, name, _BEHIND_SURE) for hint, name in _SPELT.items()),
    _NamedValue(b"cv[vc]", _CVV_IN_A_NAME, _BEHIND_SHORT),
    _NamedValue(rb"c(?:v[dnm2x_-]|av|sc|ard[_\-. ]?(?:code|sec|va|ver|check))", _SHORT, _BEHIND_SHORT),
    _NamedValue(b"pin", _PIN, _SIGN + _DIGITS_OF_A_PIN),
    _NamedValue(b"pin", _PIN_OF_A_CARD, _SIGN + _DIGITS_OF_A_CARDS_PIN),
    _NamedValue(b"pin", _PIN_BLOCK, _SIGN + _BLOCK),
    _NamedValue(b"track", _TRACK, _SIGN + _TRACK_DATA),
    _NamedValue(b"track", _ANY_TRACKS, _SIGN + _LIKE_A_TRACK),
)
_VALUE: Final = rb"(?:val(?:ue)?|(?<![a-z])v|content|data|text)%b\s*[:=>]" % _QUOTE
_REVERSED: Final = _NamedValue(
    _VALUE,
    _VALUE,
    rb"(?:%b|%b|%b|%b)"
    % (
        _before(_DIGITS, _CVV, _CVV_IN_A_NAME, _ANY_SPELT, _SHORT),
        _before(_DIGITS_OF_A_PIN, _PIN),
        _before(_DIGITS_OF_A_CARDS_PIN, _PIN_OF_A_CARD),
        _before(_TRACK_DATA_BEFORE, _TRACK),
    ),
    name_us=_REVERSED_US,
)
_ANY_CVV = re.compile(b"c(?=v[vc])" + _CVV[1:])
# One of these is in every name. A search for each first letter is faster than one for all of them.
_C_HINT = re.compile(
    rb"c(?:v(?:[vcndm2]|[_-]num|x(?:2|(?<=cardcvx)|(?<=card.cvx)))|cv|\.v\.[vc]|sv2|sc|av|ard[_\-. ]?(?:code|sec|va|ver|check)"
    rb"|ode%b(?:s.c|v.r)|odice%b(?:sicur|verif|contr)|odi?%b(?:securita|segureta)|.digo%b(?:segur|verif)|ryptogram"
    rb"|ode(?:(?<=iligingscode)|(?<=ligheidscode))|id%b)" % (_DE, _DE, _DE, _DE, _OF_A_CARD),
    re.DOTALL,
)
# The whole word comes first, so that the search is one for it.
_ANY_PIN = re.compile(rb"pin(?:[_\- ]?(?:block|blk|code)|%b)?(?![a-z])" % _PIN_END)
_ANY_TRACK = re.compile(rb"track(?:[_\- ]?(?:[123]|one|two|three|data|eq)|s?(?![a-z]))")
_ANY_SEC = re.compile(rb"sec(?:urity|(?:ure)?[_\- ]?co?d)")
_ANY_DIGITS = re.compile(rb"digits?[_\- ]?(?:code|on[_\- ]the)")

# What the steps cost, in microseconds.
_BYTE_US, _C_US, _WORD_US = 0.008, 0.025, 0.2


def may_name_a_value(lowered: bytes) -> bool:
    """Whether the name of a verification value, a PIN or a track may stand in this ASCII text in lower case."""
    return (
        _C_HINT.search(lowered) is not None
        or (b"pin" in lowered and _ANY_PIN.search(lowered) is not None)  # not in `shipping`
        or (b"track" in lowered and _ANY_TRACK.search(lowered) is not None)  # not in `tracking`
        or (b"sec" in lowered and _ANY_SEC.search(lowered) is not None)  # not in `section`
        or b"verification" in lowered
        or b"sicherheits" in lowered
        or b"fziffer" in lowered
        or b"fnummer" in lowered
        or b"kod" in lowered
        or b"turva" in lowered
        or b"venlik" in lowered
        or b"bao" in lowered
        or b"kartenkontroll" in lowered
        or b"signature" in lowered
        or (b"digit" in lowered and _ANY_DIGITS.search(lowered) is not None)
    )


def is_cvv_name(name: str) -> bool:
    """Whether a member or setting of this name holds a card verification value, a PIN or the track of a magnetic stripe."""
    return _IS_NAME.fullmatch(as_ascii(name).translate(TO_NAMES)) is not None


def verification_values(data: bytes, effort: Effort) -> Iterator[tuple[int, int]]:
    """Where verification values stand in this ASCII text behind their names, as (start, end). Raises `TooMuchEffort`."""
    lowered = data.translate(TO_NAMES)
    words = lowered.count(b"pin") + lowered.count(b"track")
    effort.spend(len(data) * _BYTE_US + lowered.count(b"c") * _C_US + words * _WORD_US)
    if not may_name_a_value(lowered):
        return  # nearly every healthy message
    has_names = False
    for rule in _RULES:
        for place in rule.find(lowered, effort):
            has_names = True
            if place is not None:
                yield place
    if has_names:
        yield from filter(None, _REVERSED.find(lowered, effort))
        yield from _said_before(lowered, effort)


def _said_before(lowered: bytes, effort: Effort) -> Iterator[tuple[int, int]]:
    if _MAY_BE_SAID_BEFORE.search(lowered) is None:
        return
    for name in _ANY_CVV.finditer(lowered):
        effort.spend(_NAME_US)
        first = max(0, name.start() - _SAID_BEFORE_MAX)
        if found := _SAID_BEFORE.search(lowered[first : name.start()]):
            yield first + found.start(1), first + found.end(1)
