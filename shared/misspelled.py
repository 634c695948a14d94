"""Finds slips in the names of environment variables: a name that nobody knows and that is nearly one that somebody knows.

A variable with a slip in its name would be passed over in silence, and the default would hold. Foreign variables must not be taken for
slips: Kubernetes sets some for each of its services, and other programs have their own.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

SHORT = 8
"""Names of fewer letters may differ in one letter, longer ones in two: of short ones a second letter makes another word."""
SHORTEST = 6
"""Shorter names are passed over: `USER` and `USED` differ in one letter."""
_OF_KUBERNETES = re.compile(r".*_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_.*)?")
_ADDRESS_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://[0-9a-fA-F.:\[\]]+")


def misspelled(variables: Mapping[str, str], known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each name in `variables` that is none of the `known` and nearly one of them, with that one."""
    for name, value in sorted(variables.items()):
        if len(name) < SHORTEST or name in known or not value.strip() or is_of_kubernetes(name, value):
            continue
        meant = _nearest(name.upper(), known)
        if meant is not None:
            yield name, meant


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether it is a service link: `INVOICE_PORT=tcp://10.0.0.1:8080` and others, for a service of that name in the namespace."""
    return bool(_OF_KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and _ADDRESS_OF_KUBERNETES.fullmatch(value)))


def _nearest(name: str, known: Iterable[str]) -> str | None:
    distances = {one: distance(name, one) for one in known if len(one) >= SHORTEST and _may_be_near(name, one)}
    near = [one for one, far in distances.items() if far <= _most(name, one)]
    return min(near, key=distances.__getitem__, default=None)


def _may_be_near(name: str, known: str) -> bool:
    """A look that costs little: a letter replaced takes one kind of letters away, and brings another one."""
    most = _most(name, known)
    return abs(len(known) - len(name)) <= most and len({*name} ^ {*known}) <= 2 * most


def _most(name: str, known: str) -> int:
    return 1 if min(len(name), len(known)) < SHORT else 2


def distance(left: str, right: str) -> int:
    """How many letters have to be added, left out, replaced, or exchanged with their neighbour, to make one word of the other."""
    before: list[int] = []
    last = list(range(len(right) + 1))
    for row, here in enumerate(left, start=1):
        line = [row]
        for column, there in enumerate(right, start=1):
            cost = min(last[column] + 1, line[-1] + 1, last[column - 1] + (here != there))
            if row > 1 and column > 1 and here == right[column - 2] and left[row - 2] == there:
                cost = min(cost, before[column - 2] + 1)
            line.append(cost)
        before, last = last, line
    return last[-1]
