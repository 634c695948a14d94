"""Whom to call: what the file that STAFF_CONTACTS_FILE names says. JSON, a list of people and lines:

    [{"name": "On call: cleo.admin", "number": "+49 30 23125 147", "hours": "until 08:00, then dan.admin"},
     {"name": "Card gateway", "number": "+49 30 23125 200", "hours": "say account 4411", "page": "https://status.example.com"},
     {"name": "Head of billing", "number": "+49 30 23125 101", "above_minor": 1000000, "currency": "EUR"}]

It is read anew for each page, so that a new name shows at once.
"""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

BYTES_MAX = 64 * 1024


class Contact(BaseModel):
    """Somebody to call. `hours` is a sentence; above this amount in doubt (minor units) they want to be called."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100)
    number: str = Field(min_length=3, max_length=40, pattern=r"^[+0-9][0-9 ()/.-]*$")
    hours: str = Field(default="", max_length=200)
    above_minor: int | None = Field(default=None, ge=0)
    currency: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    page: str | None = Field(default=None, max_length=500)

    @field_validator("page")
    @classmethod
    def _is_web(cls, page: str | None) -> str | None:
        if page is not None and not page.startswith(("https://", "http://")):
            raise ValueError("must be an address of a page")
        return page

    @property
    def digits(self) -> str:
        """The number as a telephone wants it."""
        return re.sub(r"[^+0-9]", "", self.number)


class Contacts(BaseModel):
    """Whom to call, or why nobody is named."""

    people: list[Contact] = []
    problem: str | None = None


_PEOPLE = TypeAdapter(list[Contact])
NOBODY = "Nobody is entered: name a file with people and numbers in STAFF_CONTACTS_FILE."


def read_contacts(path: str) -> Contacts:
    """Read the file. What is wrong with it is a sentence of the page, and no error: whoever looks has other worries."""
    if not path:
        return Contacts(problem=NOBODY)
    try:
        with Path(path).open("rb") as file:
            content = file.read(BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            return Contacts(problem="STAFF_CONTACTS_FILE: the file is too large.")
        people = _PEOPLE.validate_json(content)
    except OSError as error:
        return Contacts(problem=f"STAFF_CONTACTS_FILE cannot be read: {error.strerror}.")
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False, include_url=False)[0]["loc"])
        return Contacts(problem=f"STAFF_CONTACTS_FILE is not as it must be{f' at {where}' if where else ''}.")
    return Contacts(people=people, problem=None if people else NOBODY)
