"""Groups of a card number that stand in members, in fields of a form or in lines, one in each: `{"pan1": "4242", "pan2": "4242"}`."""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final, NamedTuple

from shared.card_data.brands import DIGITS_MAX, DIGITS_MIN
from shared.card_data.effort import Effort
from shared.card_data.plain import APART

_GROUPS: Final = rb"[0-9]{1,13}(?:[^0-9A-Za-z]{1,4}[0-9]{1,8}+(?![^0-9A-Za-z]{0,3}[:=])){0,3}"
_NAME: Final = rb"(?:[A-Za-z_][0-9A-Za-z_.\-\[]{0,31}|[0-9]{1,2}(?=[\"'\]]))"
"""One of digits alone stands in quotes or brackets: a time of day has none."""
_SIGN: Final = rb"[^0-9A-Za-z]{0,3}[:=][^0-9A-Za-z]{0,4}"
_NEXT: Final = rb"(?:[^0-9A-Za-z]{1,12}|%b)%b%b(?=[0-9])" % (APART.encode(), _NAME, _SIGN)
_CHAIN = re.compile(rb"[:=][^0-9A-Za-z]{0,4}+(?=[0-9])(?:%b%b){1,40}%b(?![0-9A-Za-z])" % (_GROUPS, _NEXT, _GROUPS))
"""From the sign behind a name to the last of the values, if nothing stands in them but groups of digits. It is bounded, so that what a
long one costs is reckoned before all of it is read."""
_LAST_NAME = re.compile(rb"(%b)[^0-9A-Za-z]{0,3}\Z" % _NAME)
_NAMED_GROUPS = re.compile(rb"(%b)%b(%b)(?![0-9A-Za-z])" % (_NAME, _SIGN, _GROUPS))
_GOES_ON = re.compile(rb"-[0-9A-Za-z]")
"""Behind the groups of a UUID. It is looked for afterwards: a pattern that fails here would be tried again from each letter."""
_LOOK_BACK: Final = 36
_GROUPS_MIN: Final = 3
"""Two telephone numbers have as many digits."""
_COUNT = re.compile(rb"[0-9_.\-\[]+|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|(?<=[a-z])[A-Z]$")
"""What names differ in that count the groups: `pan1`, `pan[2]`, `pan_c`, `panD`, `4`, `e`."""
_OF_A_CARD = re.compile(rb"(?i)card|(?<![a-z])(?:f?pan|cc|bin)(?![a-z])|(?:first|last)_?(?:four|six|[46])(?![0-9])")
_GROUP = re.compile(rb"[0-9]+")

# What the steps cost, in microseconds.
_SIGN_US: Final = 0.12
_BYTE_US: Final = 0.02
_MEMBER_US: Final = 2


class _Member(NamedTuple):
    name: bytes
    groups: list[bytes]


def may_hold_groups(data: bytes) -> bool:
    """Whether two members that follow each other hold groups of digits in this ASCII text."""
    return _CHAIN.search(data) is not None


def holds_groups(data: bytes, effort: Effort) -> bool:
    """The same for a text of any length. Raises `TooMuchEffort`."""
    effort.spend((data.count(b":") + data.count(b"=")) * _SIGN_US)
    return may_hold_groups(data)


def groups_together(data: bytes, effort: Effort) -> bytes:
    """The groups that may make a card number, beside each other; empty if there are none. Raises `TooMuchEffort`.

    They count if their members have one name but for a count, and hold no more digits than a card number; or if one of the names speaks
    for a card.
    """
    effort.spend((data.count(b":") + data.count(b"=")) * _SIGN_US)
    return APART.encode().join(text for found in _CHAIN.finditer(data) for text in _numbers(data, found, effort))


def _numbers(data: bytes, found: re.Match[bytes], effort: Effort) -> Iterator[bytes]:
    effort.spend(len(found[0]) * _BYTE_US)
    before = _LAST_NAME.search(data, max(0, found.start() - _LOOK_BACK), found.start())
    start = before.start() if before else found.start()
    named = _NAMED_GROUPS.finditer(data, start, found.end())
    members = [_Member(one[1], _GROUP.findall(one[2])) for one in named if not _GOES_ON.match(data, one.end())]
    effort.spend(len(members) * _MEMBER_US)
    if any(_OF_A_CARD.search(member.name) for member in members):
        yield b"card " + _beside([group for member in members for group in member.groups])
    for _, run in groupby(members, key=lambda member: _COUNT.sub(b"", member.name)):
        alike = [member.groups for member in run]
        groups = [group for one in alike for group in one]
        if len(alike) > 1 and len(groups) >= _GROUPS_MIN and DIGITS_MIN <= sum(map(len, groups)) <= DIGITS_MAX:
            yield _beside(groups)


def _beside(groups: list[bytes]) -> bytes:
    """Digits one by one count with blanks between them; others only in groups as on a card, which stand with any sign."""
    return (b" " if max(map(len, groups)) == 1 else b", ").join(groups)
