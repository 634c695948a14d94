"""Who acts: a person at a desk or a terminal, or a program. Pure: no I/O, clock, randomness, logging."""

from enum import StrEnum
from uuid import UUID

from shared.ids import derived_id, new_id
from shared.records import dataclass


class Role(StrEnum):
    """What somebody may do. Roles add up; an admin alone moves no money."""

    VIEWER = "viewer"  # sees everything but tokens and people
    REPLAYER = "replayer"  # replays, discards, edits
    RESOLVER = "resolver"  # asks the gateway, decides, agrees
    ADMIN = "admin"  # people, roles, tokens of programs


class Via(StrEnum):
    """By which door an action came."""

    TERMINAL = "terminal"  # the name is only said, not proved
    DESK = "desk"
    API = "api"

    @classmethod
    def _missing_(cls, value: object) -> "Via":  # noqa: ARG003 - whatever it says
        """A door that this build does not know proves no name, like a terminal."""
        return cls.TERMINAL


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, by which door, and in which request.

    `request` is an id that the door chose for this one act. The ids of its journal entries follow from it, so that the same act, sent
    twice, is journalled and done once.
    """

    name: str
    via: Via
    roles: frozenset[Role] = frozenset()
    is_program: bool = False
    request: UUID | None = None

    @property
    def can_be_second(self) -> bool:
        """Whether this can be the second person: one who proved a name. A program is no person."""
        return self.via is not Via.TERMINAL and not self.is_program

    def entry_id(self, action: str, subject: UUID) -> UUID:
        """The id of the journal entry of this act on `subject`."""
        return new_id() if self.request is None else derived_id(self.request, f"{action}:{subject}")


def at_terminal(name: str) -> Actor:
    """Somebody who has the database's password, and says this name."""
    return Actor(name, Via.TERMINAL, frozenset(Role))
