"""Evidence: the answer of a gateway as a text that is short enough to read and safe to store."""

import re

from shared.card_data.scan import CARD_DATA_ENCODED, beginning, mask_card_data

EVIDENCE_CHARS_MAX = 300  # a person reads it in one glance, and a row of `attempts` stays small
_READ_CHARS_MAX = 4_096  # of one part: an answer may have megabytes, and searching them for card numbers takes seconds

_CUT = "…"
_MASKED = "****"
_BEGINNING_MIN = 4
"""Of fewer characters nobody can tell whether they begin a token."""
_SECRET_KEY = re.compile(r"\b([a-z]{2})_(live|test)_\w+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def evidence(*parts: object) -> str:
    """The parts in one line of at most `EVIDENCE_CHARS_MAX` characters.

    API keys and card numbers are masked, control characters and lone surrogates are removed. A gateway quotes what it was sent ("No such
    token: ..."), so none of its texts is stored as it came.
    """
    shown = mask_card_data(" ".join(_shown(part) for part in parts if part not in (None, "")))
    if shown is not None:  # now in one line, in which other digits stand side by side
        shown = mask_card_data(_SECRET_KEY.sub(r"\1_\2_****", _CONTROL.sub(" ", shown)))
    if shown is None:
        return CARD_DATA_ENCODED
    return shown if len(shown) <= EVIDENCE_CHARS_MAX else shown[: EVIDENCE_CHARS_MAX - 1] + _CUT


def without_token(evidence: str, token: str | None) -> str:
    """The evidence without the token of its payment, which a gateway quotes ("No such token"): whoever hears of it could pay with it.

    Nor does the beginning of a token stay that was cut off there.
    """
    if not token:
        return evidence
    shown = evidence.replace(token, _MASKED)
    kept = shown.removesuffix(_CUT)
    lengths = range(min(len(token), len(kept)), _BEGINNING_MIN - 1, -1) if kept != shown else ()
    cut = next((length for length in lengths if kept.endswith(token[:length])), 0)
    return f"{kept[:-cut]}{_MASKED}{_CUT}" if cut else shown


def _shown(part: object) -> str:
    """A text or a number as it is. Anything else is shown by its type only: a list may be nested without end, and its text would raise."""
    if isinstance(part, str):
        return beginning(part, _READ_CHARS_MAX)
    return str(part) if isinstance(part, int | float) else f"({type(part).__name__})"
