"""Finds card verification values, PINs and the tracks of magnetic stripes (PCI DSS 3.3.1): they are known by their names alone."""

import re
from collections.abc import Iterator
from typing import Final

from shared.card_data.effort import Effort
from shared.card_data.plain import as_ascii

# -- names, in lower case: any sign stands for a letter that is not ASCII ----------------------------------------------------------------

# `cid`, as American Express has it, is not among them: it is somebody's customer id as often.
_END = rb"(?:[_\- ]?(?:code|value|number|nummer|num|no|nr|data|val|digits|input|field|text))?x{0,8}+(?![a-z])"
"""Letters that are not ASCII read as x: `CVV\u7801`."""
_FIRST = rb"(?:(?<![a-z0-9].)|(?<=card.)|(?<=payment.)|(?<=cc.)|(?<=credit.)|(?<=debit.))"
"""A first letter that begins a word, or stands behind one of these: `cardCsc`."""

_CVV = rb"c(?:v[vc](?:[1-3](?![0-9])|(?:[_\-. ][1-3])??)|\.v\.[vc]\.?|cv2?|v[dn]2|av2|sv2)s?" + _END
_DE: Final = rb"[_\- ]?(?:d[ei][_\- ]?)?"
"""`code de s\u00e9curit\u00e9`, `codeSecurite`."""
_SPELT: Final = {
    b"security": rb"security[_\- ]?(?:code|value|number|digits)(?![a-z])",
    b"verification": rb"verification[_\- ]?(?:code|value|number)(?![a-z])",
    b"cryptogram": rb"cryptogram(?:me)?(?![a-z])",
    rb"code%b(?:s.c|v.r)" % _DE: rb"code%b(?:s.curit|v.rific)[a-z?]{1,6}+" % _DE,
    rb"c.digo%b(?:segur|verif)" % _DE: rb"c.digo%b(?:segur|verific)[a-z?]{1,6}+" % _DE,
    rb"codice%b(?:sicur|verif)" % _DE: rb"codice%b(?:sicurezza|verifica)" % _DE,
    b"sicherheits": rb"sicherheits(?:code|nummer|ziffer|zahl)",
    b"fziffer": rb"fziffer(?<=pr.fziffer)",
    b"fnummer": rb"fnummer(?<=pr.fnummer)",
    b"kod": rb"kod(?:(?<=kerhetskod)|(?<=kerhedskod)|(?<=venlik.kod)).?(?![a-z])",
    b"code": rb"code(?<=beveiligingscode)",
    b"cid": rb"cid(?:(?<=amex.cid)|(?<=amexcid))(?![a-z])",
}
"""As people spell it, by what it begins with, or has in the middle."""
_ANY_SPELT = b"|".join(_SPELT.values())
_SHORT = rb"c(?:%b(?:v[dn2]|av|sc)|ard[_\-. ]?(?:code|verification))%b" % (_FIRST, _END)
_PIN = rb"p%bin(?:[_\- ]?block)?(?![a-z])" % _FIRST
_PIN_CODE = rb"p%bin[_\- ]?code(?![a-z])" % _FIRST
_TRACK = rb"t%brack[_\- ]?(?:[12]|one|two)(?:[_\- ]?data)?(?![a-z])" % _FIRST
_IS_NAME = re.compile(
    rb"(?:[a-z]{0,20}|.*[^a-z])%b|(?:.*[^a-z0-9])?(?:%b|%b|%b|%b|%b)"
    % (_CVV, _ANY_SPELT, _SHORT, _PIN, _PIN_CODE, _TRACK),
    re.DOTALL,
)

# -- what stands between a name and its value --------------------------------------------------------------------------------------------

_QUOTE = rb"[\"'\\]{0,8}"
_VERB = rb"(?:is|ist|lautet|est|es|was)(?![a-z])"
_WORD = rb"(?:(?:%b|code|number|nr|no|value|val|content|data|text)[^0-9a-z]{1,16}+){0,2}" % _VERB
"""Of a sentence; or of a member, if the value is an object."""
_NOT_EMPTY = rb"(?!%b\s*:\s*(?:\"\"|'')\s*,)" % _QUOTE
"""Or what follows would be of the next member."""
_NEXT = rb"%b[^0-9a-z]{0,16}+%b" % (_NOT_EMPTY, _WORD)
_SIGN = rb"%b[^0-9a-z:=>,]{0,4}+(?:%b|[:=>,])[^0-9a-z]{0,16}+%b" % (_NOT_EMPTY, _VERB, _WORD)
_SENTENCE = (
    rb"(?![a-z \r\n?-]{0,32}(?:check|result|response|match|status|error|fail))[a-z \r\n?-]{1,32}?(?:(?<=[ \n])%b|[:=])[^0-9a-z]{1,8}+"
    % _VERB
)
_MEMBER = rb"[\"'\\<](?:\s*:\s*\{)?[^{}]{1,80}?[^a-z](?:val(?:ue)?|content|data|text)%b\s*[:=>]\s*\[?%b" % (
    _QUOTE,
    _QUOTE,
)
"""The name is a value itself: `{"name": "cvv", "type": "text", "value": "987"}`."""

# -- values ------------------------------------------------------------------------------------------------------------------------------

_NO_RESULT = rb"(?![_\-. ]?check%b\s*[:=]\s*%b[a-z])" % (_QUOTE, _QUOTE)
"""`"cvc_check": "pass"` is what every charge of a gateway says. Looking behind each would cost more than all else in its evidence."""
_DIGITS = rb"((?:[0-9]{3,4}|[0-9](?:[^0-9a-z]{1,12}[0-9]){2,3})(?![0-9a-z])(?!\.[0-9]*[1-9]))"
_BEHIND_SURE = rb"(?:%b|%b|%b)%b" % (_NEXT, _SENTENCE, _MEMBER, _DIGITS)
_BEHIND_SHORT = rb"(?:%b|%b)%b" % (_SIGN, _MEMBER, _DIGITS)
_PIN_DIGITS = rb"((?:[0-9]{4,%d}|[0-9](?:[^0-9a-z]{1,12}[0-9]){3,%d})(?![0-9a-z]))"
_TRACK_DATA = rb"([^\"'\\,]{0,20}[0-9]{4}[^\"'\\,]*)"
_TRACK_DATA_BEFORE = rb"([^\"'\\,<]{0,20}[0-9]{4}[^\"'\\,<]{0,100}+)"
"""What comes before a name is bounded: a text of many such values without a name must not be read to its end for each of them."""


def _before(value: bytes, *names: bytes) -> bytes:
    """The value comes first: `{"value": "987", "name": "card_cvv"}`."""
    return (
        rb"\s*\[?\s*%b%b%b\s*\]?\s*[,<][^{}]{0,80}?(?:name|key|type|field|label|id)%b\s*[:=>]\s*%b"
        rb"[a-z0-9_\-. \[]{0,24}?(?:%b)(?=[\"'\\<\]])" % (_QUOTE, value, _QUOTE, _QUOTE, _QUOTE, b"|".join(names))
    )


_SAID_BEFORE = re.compile(
    rb"(?<![0-9a-z.])([0-9]{3,4})[^0-9a-z]{1,3}(?:(?:is|was|as|ist|als)[ ](?:[a-z]{1,5}[ ]){0,2}|\()\Z"
)
"""`987 is the CVV`, `987 (CVV)`."""
_SAID_BEFORE_MAX: Final = 24
_MAY_BE_SAID_BEFORE = re.compile(rb"[0-9]{3}[^0-9a-z]{1,3}(?:(?:is|was|as|ist|als)[ ]|\()")


_HINT_US, _NAME_US, _REVERSED_US = 0.6, 3, 15
"""What a hint and a name cost, in microseconds; and a name of which the value may come first."""


class _NamedValue:
    """A name and how a value stands with it. Each such name begins with the hint, which has no look-behind: so it is found fast."""

    def __init__(self, hint: bytes, name: bytes, value: bytes, *, name_us: float = _NAME_US) -> None:
        self._name_us = name_us
        self._hint = re.compile(hint)
        self._name = re.compile(name)
        self._whole = re.compile(rb"(?:%b)%b" % (name, value))

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
    _NamedValue(rb"c(?:v[dn2]|av|sc|ard[_\-. ]?(?:code|ver))", _SHORT, _BEHIND_SHORT),
    _NamedValue(b"pin", _PIN, _SIGN + _PIN_DIGITS % (6, 5)),
    _NamedValue(b"pin", _PIN_CODE, _SIGN + _PIN_DIGITS % (5, 4)),  # six digits are a postal code of India
    _NamedValue(b"track", _TRACK, _SIGN + _TRACK_DATA),
)
_VALUE: Final = rb"(?:val(?:ue)?|content|data|text)%b\s*[:=>]" % _QUOTE
_REVERSED: Final = _NamedValue(
    _VALUE,
    _VALUE,
    rb"(?:%b|%b|%b)"
    % (
        _before(_DIGITS, _CVV, _ANY_SPELT, _SHORT),
        _before(_PIN_DIGITS % (6, 5), _PIN),
        _before(_TRACK_DATA_BEFORE, _TRACK),
    ),
    name_us=_REVERSED_US,
)
_ANY_CVV = re.compile(b"c(?=v[vc])" + _CVV[1:])
# One of these is in every name. A search for each first letter is faster than one for all of them.
_C_HINT = re.compile(
    rb"c(?:v[vcnd2]|cv|\.v\.[vc]|sv2|sc|av|ard[_\-. ]?(?:code|ver)"
    rb"|ode%b(?:s.c|v.r)|odice%b(?:sicur|verif)|.digo%b(?:segur|verif)|ryptogram"
    rb"|ode(?<=iligingscode)|id(?:(?<=amex.cid)|(?<=amexcid)))" % (_DE, _DE, _DE),
    re.DOTALL,
)
# The whole word comes first, so that the search is one for it.
_ANY_PIN = re.compile(rb"pin%b(?:[_\- ]?(?:block|code))?(?![a-z])" % _FIRST.replace(b".)", b"...)"))
_ANY_TRACK = re.compile(rb"track%b[_\- ]?(?:[12]|one|two)" % _FIRST.replace(b".)", b".....)"))

# What the steps cost, in microseconds.
_BYTE_US, _C_US, _WORD_US = 0.008, 0.025, 0.2


def may_name_a_value(lowered: bytes) -> bool:
    """Whether the name of a verification value, a PIN or a track may stand in this ASCII text in lower case."""
    return (
        _C_HINT.search(lowered) is not None
        or (b"pin" in lowered and _ANY_PIN.search(lowered) is not None)  # not in `shipping`
        or (b"track" in lowered and _ANY_TRACK.search(lowered) is not None)  # not in `tracking`
        or b"security" in lowered
        or b"verification" in lowered
        or b"sicherheits" in lowered
        or b"fziffer" in lowered
        or b"fnummer" in lowered
        or b"kod" in lowered
    )


def is_cvv_name(name: str) -> bool:
    """Whether a member or setting of this name holds a card verification value, a PIN or the track of a magnetic stripe."""
    return _IS_NAME.fullmatch(as_ascii(name).lower()) is not None


def verification_values(data: bytes, effort: Effort) -> Iterator[tuple[int, int]]:
    """Where verification values stand in this ASCII text behind their names, as (start, end). Raises `TooMuchEffort`."""
    lowered = data.lower()
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
