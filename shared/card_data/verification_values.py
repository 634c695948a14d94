"""Finds card verification values, PINs and the tracks of magnetic stripes (PCI DSS 3.3.1): they are known by their names alone."""

import re

from shared.card_data.encodings import without_backslashes
from shared.card_data.plain import as_ascii, twins_of

CVV_PLACEHOLDER = "***"

# In lower case. `cid`, as American Express has it, is not among them: it is somebody's customer id as often. Each alternative begins with
# a letter, not with a look behind: so the search takes a nanosecond a character.
_SHORT_NAMES = rb"(?:ccv2?|cvd2?|cvn2?|cav2?|csc|cv2|csv2)"
_LONG_NAMES = rb"security[_\- ]?(?:code|value|number)|verification[_\- ]?(?:code|value|number)"
_OF_A_CARD = rb"[_\-. ]?(?:%b|code|%b|verification)" % (_SHORT_NAMES, _LONG_NAMES)
_SUFFIX = rb"(?:[_\- ]?(?:code|value|number|num|no|nr))?(?![a-z])"
_SURE_NAME = rb"(?:cvv2?|cvc2?)%b" % _SUFFIX
_NAME = rb"(?:c(?<![a-z0-9]c)(?:cv2?|vd2?|vn2?|av2?|sc|v2|sv2)|card%b|payment%b|%b)%b" % (
    _OF_A_CARD,
    _OF_A_CARD,
    _LONG_NAMES,
    _SUFFIX,
)
_PIN_NAME = rb"(?:p(?<![a-z0-9]p)in|card[_\-. ]?pin)(?:[_\- ]?(?:block|code))?(?![a-z])"
_TRACK_NAME = rb"t(?<![a-z0-9]t)rack[_\- ]?[12](?:[_\- ]?data)?(?![a-z])"

_THREE_OR_FOUR = rb"(?:[0-9]{3,4}|[0-9](?:[^0-9a-z]{1,4}[0-9]){2,3})(?![0-9a-z])(?!\.[0-9]*[1-9])"
_WORD_BETWEEN = rb"(?:(?:is|ist|est|es|was|code|number|nr|no|value|val|content|data|text)[^0-9a-z]{1,16}+)?"
"""Of a sentence, `CVC is 987`; or of a member: the name is a value itself (`{"name": "cvv", "value": "987"}`), or the value an object."""
_IS = rb"[^0-9a-z:=>,]{0,4}+(?:(?:is|ist|est)(?![a-z])|[:=>,])[^0-9a-z]{0,16}+%b" % _WORD_BETWEEN
_PATTERNS = (
    re.compile(rb"%b[^0-9a-z]{0,16}+%b(%b)" % (_SURE_NAME, _WORD_BETWEEN, _THREE_OR_FOUR)),
    re.compile(rb"%b%b(%b)" % (_NAME, _IS, _THREE_OR_FOUR)),
    re.compile(rb"%b%b([0-9]{4,6})(?![0-9a-z])" % (_PIN_NAME, _IS)),
    re.compile(rb"%b%b([^\"'\\,]{0,20}[0-9]{4}[^\"'\\,]*)" % (_TRACK_NAME, _IS)),
    re.compile(
        rb"val(?:ue)?Q\s*:\s*\[?\s*Q(%b)Q\s*\]?\s*,\s*Q(?:name|key|type|field|label|id)Q\s*:\s*Q(?:%b|%b)".replace(
            b"Q", rb"[\"'\\]{0,8}"
        )
        % (_THREE_OR_FOUR, _SURE_NAME, _NAME)
    ),
)
_IS_CVV_NAME = re.compile(
    rb"(?:[a-z]{0,20}|.*[^a-z])(?:%b)|(?:.*[^a-z0-9])?(?:%b|%b|%b)" % (_SURE_NAME, _NAME, _PIN_NAME, _TRACK_NAME),
    re.DOTALL,
)
_HINT = re.compile(rb"c(?:v[vcnd2]|cv|sv2|sc|av|ode)")


def is_cvv_name(name: str) -> bool:
    """Whether a member or setting of this name holds a card verification value, a PIN or the track of a magnetic stripe."""
    return _IS_CVV_NAME.fullmatch(as_ascii(name).lower()) is not None


def find_cvv(text: str | bytes) -> bool:
    """Whether a verification value stands in this text behind its name, as JSON, as a setting or in a sentence (PCI DSS 3.3.1.2)."""
    data = as_ascii(text).lower()
    if b"\\" in data:
        data = without_backslashes(data).lower()
    return _may_name_a_cvv(data) and any(pattern.search(data) for pattern in _PATTERNS)


def _may_name_a_cvv(lowered: bytes) -> bool:
    """One of these is in every name; this looks at every body."""
    return _HINT.search(lowered) is not None or b"pin" in lowered or b"verif" in lowered or b"track" in lowered


def mask_cvv(text: str) -> str:
    """The text with a placeholder for each verification value behind its name."""
    data = twins_of(text).lower()
    if not _may_name_a_cvv(data):
        return text
    for start, end in sorted({one.span(1) for pattern in _PATTERNS for one in pattern.finditer(data)}, reverse=True):
        text = f"{text[:start]}{CVV_PLACEHOLDER}{text[end:]}"
    return text
