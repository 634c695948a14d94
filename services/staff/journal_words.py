"""Entries of the journal in words, for pages and downloads. Pure: no I/O, clock, randomness, logging."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from shared.records import dataclass

SAID: Final[Mapping[str, str]] = {
    "replay": "replayed a failed message",
    "discard": "discarded a failed message",
    "undo": "took back what was done last",
    "restore": "brought a discarded message back",
    "edit": "edited a failed message and replayed it",
    "ask": "asked the gateway",
    "resolve": "decided",
    "propose": "proposed",
    "agree": "agreed",
    "disagree": "did not agree",
    "withdraw": "took a proposal back",
    "refund": "asked for a refund",
    "claim": "took a case on",
    "unclaim": "gave a case back",
    "note": "wrote a note",
    "take_note": "took note of a contradiction",
    "contradict": "marked a decision as contradicted",
    "release": "released a message that ended connections",
    "drop": "dropped a message that ended connections",
    "purge": "took card data out",
    "sign_in": "signed in",
    "sign_out": "signed out",
    "add_person": "added a person",
    "set_roles": "gave roles",
    "set_active": "let somebody in or out",
    "set_password": "set a password",
    "add_token": "made a token for a program",
    "revoke_token": "ended a token of a program",
    "change_setting": "changed a setting",
    "export": "downloaded the log",
    "check_journal": "had the log checked",
    "run_preview": "previewed a replay of many",
    "run_second": "took in what is too old to charge",
    "run_try": "began a replay, and tried one message",
    "run_go": "went on with a replay: ten, then a hundred",
    "run_rest": "went on with a replay: the rest",
    "run_pause": "paused a replay",
    "run_resume": "resumed a replay",
    "run_leave_out": "left a message out of a replay, and went on",
    "run_stop": "stopped a replay for good",
    "run_speed": "changed the speed of a replay",
}
"""What an action is, behind the name of who did it. An action that is not here is told by its own name."""
TRIED: Final[Mapping[str, str]] = {
    "replay": "replay a failed message",
    "discard": "discard a failed message",
    "undo": "undo what was done last",
    "restore": "bring a discarded message back",
    "edit": "edit a failed message and replay it",
    "ask": "ask the gateway",
    "resolve": "decide",
    "agree": "agree",
    "disagree": "disagree",
    "withdraw": "take a proposal back",
    "refund": "give money back",
    "claim": "take a case on",
    "unclaim": "give a case back",
    "note": "write a note",
    "take_note": "take note of a contradiction",
    "sign_in": "sign in",
    "add_person": "add a person",
    "set_roles": "give roles",
    "set_active": "let somebody in or out",
    "set_password": "set a password",
    "add_token": "make a token for a program",
    "revoke_token": "end a token of a program",
    "run": "steer a replay of many",
    "run_second": "take in what is too old to charge",
}
"""What somebody tried who was refused, behind "tried to"."""
REFUSED: Final = "refused"
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Decisions": ("resolve", "propose", "agree", "disagree", "withdraw", "refund", "take_note", "contradict"),
    "Replays": ("replay", "discard", "undo", "restore", "edit", "run_"),
    "Refusals": (REFUSED,),
    "Signing in": ("sign_in", "sign_out"),
    "People and settings": ("add_person", "set_", "add_token", "revoke_token", "change_setting"),
    "Downloads and checks": ("export", "check_journal"),
}
"""Kinds of actions. A name that ends with `_` stands for all that begin so."""
VIA: Final[Mapping[str, str]] = {"terminal": "at a terminal", "desk": "at the desk", "api": "by a program"}
_RESOLVED: Final[Mapping[str, str]] = {
    "captured": "charged",
    "not_charged": "not charged",
    "refunded": "given back",
    "not_refunded": "kept",
    "refund_again": "give it back once more",
    "give_back": "give it back",
    "reopen": "open again",
}
_NOT_FACTS: Final = frozenset({"via", "request", "reason", "about", "before", "after"})
"""Details that an entry shows elsewhere."""


@dataclass(frozen=True, slots=True)
class Told:
    """An entry in words: what was done, why, and what came of it, with the kind of its badge."""

    said: str
    why: str | None
    kind: str
    result: str


def tell(action: str, details: Mapping[str, Any]) -> Told:
    """An entry in words. Texts of people are as they wrote them."""
    if action == REFUSED:
        act, code = _text(details.get("action")) or "something", _text(details.get("code")) or "not allowed"
        return Told(tried(act), None, "act", f"refused: {_words(code)}")
    said = SAID.get(action) or _words(action)
    if (resolution := _text(details.get("resolution"))) is not None:
        said = f"{said}: {_RESOLVED.get(resolution, _words(resolution))}"
    kind, result = ("hand", "waits for a second person") if action == "propose" else ("done", "done")
    return Told(said, _text(details.get("reason")), kind, result)


def tried(action: str) -> str:
    """What somebody tried who was refused, in words. Of the address of a form the end says what it does."""
    return f"tried to {TRIED[action]}" if action in TRIED else f"tried: {_words(action.rpartition('/')[2])}"


def facts(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What else an entry holds: labels and texts, in the order in which they were written."""
    return [
        (_words(name).capitalize(), flat(value))
        for name, value in details.items()
        if name not in _NOT_FACTS and value is not None
    ]


def stood(details: Mapping[str, Any], when: Literal["before", "after"]) -> str | None:
    """How what an entry is about stood before the act, or after it, as codes. None if the act changed nothing of it."""
    return flat(details[when]) if when in details else None


def in_lines(action: str, details: Mapping[str, Any]) -> tuple[str, str]:
    """An entry for a page without colours: what was done, to follow the name of who did it, and below it in lines what else it holds."""
    told = tell(action, details)
    via = VIA.get(str(details.get("via")))
    lines = [
        ", ".join(part for part in (via, None if told.kind == "done" else told.result) if part),
        told.why,
        *(f"{when}: {state}" for when in ("before", "after") if (state := stood(details, when)) is not None),
        *(f"{label}: {value}" for label, value in facts(details)),
    ]
    return told.said, "\n".join(line for line in lines if line)


def actions_of(group: str, known: Iterable[str]) -> list[str] | None:
    """The actions of a group, among those of which there are entries; for the name of an action this one. None: it is neither."""
    known = list(known)
    if group in GROUPS:
        names = GROUPS[group]
        return [one for one in known if one in names or any(n.endswith("_") and one.startswith(n) for n in names)]
    return [group] if group in known or group in SAID or group == REFUSED else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _words(code: str) -> str:
    return code.replace("_", " ")


def flat(value: object) -> str:
    """A value of JSON as a text that people read."""
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return "; ".join(f"{_words(str(name))}: {flat(one)}" for name, one in value.items())
        case list():
            return ", ".join(flat(one) for one in value) or "none"
        case None:
            return "none"
        case _:
            return str(value)
