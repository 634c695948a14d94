"""What the doctor says about one thing: whether it is well, and what to do if not."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Condition(StrEnum):
    WELL = "well"
    LOOK = "look"
    """It works. Somebody should have a look all the same."""
    BROKEN = "broken"
    UNSEEN = "not seen"
    """It was not looked at, and `do` says how it would be."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`what`: the part. `says`: one sentence. `do`: what to type or to mend; empty if there is nothing to do."""

    what: str
    condition: Condition
    says: str
    do: str = ""


def well(what: str, says: str) -> Diagnosis:
    return Diagnosis(what, Condition.WELL, says)


def look(what: str, says: str, do: str) -> Diagnosis:
    return Diagnosis(what, Condition.LOOK, says, do)


def broken(what: str, says: str, do: str) -> Diagnosis:
    return Diagnosis(what, Condition.BROKEN, says, do)


def unseen(what: str, says: str, do: str) -> Diagnosis:
    return Diagnosis(what, Condition.UNSEEN, says, do)


def is_healthy(diagnoses: Sequence[Diagnosis]) -> bool:
    """Whether nothing is broken."""
    return all(one.condition is not Condition.BROKEN for one in diagnoses)
