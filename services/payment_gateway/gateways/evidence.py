"""Evidence: what a gateway said, short enough to read and safe enough to store."""

import re

MAX_EVIDENCE_CHARS = 300  # a person reads it in one glance, and a row of `attempts` stays small

_SECRET_KEY = re.compile(r"\b([a-z]{2})_(live|test)_\w+")
_CARD_DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def evidence(*parts: object) -> str:
    """The parts in one line: API keys and card numbers masked, control characters and lone surrogates gone, bounded in
    length.

    A gateway quotes what it was sent ("No such token: ..."), so nothing it says is stored as it came.
    """
    text = " ".join(str(part) for part in parts if part not in (None, ""))
    text = _CONTROL.sub(" ", text)
    text = _SECRET_KEY.sub(r"\1_\2_****", text)
    text = _CARD_DIGITS.sub(_mask_card, text)
    return text if len(text) <= MAX_EVIDENCE_CHARS else text[: MAX_EVIDENCE_CHARS - 1] + "…"


def _mask_card(found: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", found[0])
    return "****" if _luhn_holds(digits) else found[0]


def _luhn_holds(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(int(digit) for digit in digits[::-2]) + sum(doubled)) % 10 == 0
