"""The settings of `remit` itself. Typer and the terminal's library read some of them as well; they are declared here for the reference."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

from services.staff.settings import ReplaySettings
from shared.settings import Settings, variable


class StaffPagesSettings(ReplaySettings):
    """The settings of the pages for staff."""

    who: str = variable("REMIT_WHO", "", must="a name", unset="`USER`", about="Who acts, for the journal.")
    user: str = variable("USER", "", must="a name", unset="the user of the process", about="See `REMIT_WHO`.")


def _of_a_web_process(url: str) -> str:
    """The address without a path. Raises ValueError, whose text follows the name of the variable."""
    parts = urlsplit(url)
    is_own = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if url and not (parts.hostname and (parts.scheme == "https" or is_own) and not parts.path.strip("/")):
        raise ValueError("must begin with https:// and have no path: by http:// everybody on the way reads the token")
    return url.rstrip("/")


class DoorAccessSettings(Settings):
    """Where `remit doctor` finds the door."""

    url: Annotated[str, AfterValidator(_of_a_web_process)] = variable(
        "REMIT_DOOR_URL",
        "",
        must="an address such as https://door.example.com, without a path",
        unset="it is not looked at",
        about="The door as senders reach it: `remit doctor` looks whether it answers.",
    )


class DeskAccessSettings(Settings):
    """The settings of the pages for staff that ask the staff desk instead of the database."""

    url: Annotated[str, AfterValidator(_of_a_web_process)] = variable(
        "REMIT_DESK_URL",
        "",
        must="an address such as https://desk.example.com, without a path",
        unset="`remit payments` and `remit dead-letters` ask the database",
        about="The staff desk that `remit payments` and `remit dead-letters` ask; they then need no password of a database.",
    )
    token: str = variable(
        "REMIT_DESK_TOKEN",
        "",
        must="a token of the desk",
        unset="needed with `REMIT_DESK_URL`",
        about="Who acts at the desk that `REMIT_DESK_URL` names: a program's token, which an admin makes there.",
        secret=True,
    )


class CardSettings(Settings):
    """The settings of `remit card`."""

    public_keys_file: str = variable(
        "CARD_PUBLIC_KEYS_FILE",
        "",
        must="the path of a public JWK set",
        unset="`--key-file` names it",
        about="The keys that belong to those of `CARD_KEYS_FILE`, for `remit card encrypt`.",
    )


class TerminalSettings(Settings):
    """The settings of everything that `remit` prints."""

    columns: str = variable(
        "COLUMNS",
        "",
        must="a whole number",
        unset="the terminal's width; in a pipe or a file as wide as they need",
        about="How wide the tables of `remit` are.",
    )
    comp_words: str = variable(
        "COMP_WORDS",
        "",
        must="what a shell says",
        unset="nothing is completed",
        about="What is typed so far: a shell sets it while it completes.",
    )


class AuditSettings(Settings):
    """The settings of `remit audit`, and of whom it audits: a sender that notes what it sent."""

    ledger: str = variable(
        "REMIT_AUDIT_LEDGER",
        "",
        must="the path of the sandbox's ledger",
        unset="`--ledger` names it",
        about="What the sandbox gateway charged, for `remit audit`.",
    )
    logs: str = variable(
        "REMIT_AUDIT_LOGS",
        "",
        must="the path of a folder",
        unset="`--logs` names it",
        about="A folder of log files, for `remit audit`.",
    )
    history: str = variable(
        "REMIT_HISTORY",
        "",
        must="the path of a file",
        unset="`--history` names it; `remit invoice` notes nothing",
        about="A sender's own record, for `remit audit`: a line a command that `remit invoice` sent.",
    )
