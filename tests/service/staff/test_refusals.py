"""A refused act leaves nothing behind but the entry in the journal that says so, whatever was asked, by whom and in which order."""

import importlib
import itertools
import pkgutil
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from services.staff import actions, people_store
from services.staff.actions import accounts, cases, dead_letters, payments, proposals, runs, second_thoughts
from services.staff.actions.results import ActionResult
from services.staff.dead_letters import Withheld
from services.staff.domain import CaseStatus
from services.staff.letter_store import LetterFilter
from services.staff.people import Actor, Role, Via, at_terminal
from services.staff.runs import RunAct
from services.staff.store import Selection
from shared.persistence.database import Database
from shared.records import replace
from tests.support.databases import rows
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, keep_case, keep_request
from tests.support.kept_letters import event, keep, payment

EVERYTHING = frozenset(Role)
MIA = Actor("mia", Via.DESK, EVERYTHING)
WHO = (
    Actor("mia.robot", Via.API, EVERYTHING, is_program=True),
    Actor("", Via.DESK, EVERYTHING),
    at_terminal("ben"),
    MIA,
)
"""A program, nobody, a name that is only said, and a person. The last two can propose, so the first is refused before there is a case."""
NOW = datetime(2026, 11, 28, 2, 14, 7, tzinfo=UTC)
AMOUNT = LIMIT + 1
CARD = "it was 4242 4242 4242 4242"
WAYS = ((MIA, ""), (MIA, CARD), *((who, "why") for who in WHO))
"""Who acts, and what they write."""
Tried = Callable[[Actor], Awaitable[ActionResult | Sequence[ActionResult]]]


class Subjects:
    """What acts are about: cases and failed messages of every kind, one of each that does not exist, and a run."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.cases: list[UUID] = [uuid4()]
        self.letters: list[UUID] = [uuid4()]
        self.proposals: list[UUID] = [uuid4()]

    async def begin(self) -> None:
        requests = [await keep_request(self.database, amount) for amount in (AMOUNT, 1)]
        self.cases += [
            await keep_case(self.database, AMOUNT),
            await keep_case(self.database, 1, status=CaseStatus.CAPTURED),
            requests[0][1],
        ]
        old = replace(payment("INV-2", 5_00), asked_at=NOW - timedelta(days=2))
        withheld = replace(event(1), body=None, withheld=Withheld.CARD_DATA)
        elsewhere = replace(event(2), queue="somebody.elses")
        self.letters += await keep(self.database, old, withheld, elsewhere, event(3), clock=lambda: NOW)
        self.letters += [letter for letter, _ in requests]
        previewed = await runs.preview(self.database, LetterFilter(), who=MIA, title="all", clock=lambda: NOW)
        assert previewed.no == 1
        async with self.database.connection() as connection:
            await people_store.insert_person(
                connection,
                people_store.Person(uuid4(), "cleo", frozenset({Role.ADMIN}), "hash", None, active=True),
                NOW,
            )

    def tries(self, text: str) -> Iterator[tuple[Callable[..., Any], Tried]]:
        """Every act, on every subject, with this text."""
        for case in self.cases:
            yield from self._about_case(case, text)
        for letter in self.letters:
            yield from self._about_letter(letter, text)
        for no, act in itertools.product((1, 2), RunAct):
            yield runs.act, _bound(runs.act, self.database, no, act, reason=text, rate=501 if text == CARD else 10)
            yield runs.take_in, _bound(runs.take_in, self.database, no, reason=text)
        yield from self._about_people(text)

    def _about_case(self, case: UUID, text: str) -> Iterator[tuple[Callable[..., Any], Tried]]:
        about: Mapping[Callable[..., Any], Sequence[Mapping[str, Any]]] = {
            payments.ask: [{}, {"invoice_id": text}],
            payments.resolve: [
                {"resolution": one, "expected_version": version, "evidence": text, "reason": text}
                for one, version in itertools.product(("captured", "not_charged", "refunded"), (3, 4))
            ],
            payments.refund: [
                {"refund_id": uuid4(), "reason": text, **more}
                for more in (
                    {},
                    {"invoice_id": "INV-9", "currency": "EUR", "amount_minor": AMOUNT},
                    {"invoice_id": "INV-9", "currency": "CHF"},
                    {"invoice_id": "INV-9", "currency": "EUR", "amount_minor": -1},
                )
            ],
            cases.claim: [{}],
            cases.unclaim: [{}],
            cases.note: [{"text": text}],
            cases.take_note: [{"text": text, "seen": 1}],
            proposals.agree: [{"proposal_id": one, "saw": text} for one in self.proposals],
            proposals.disagree: [{"proposal_id": one, "saw": text} for one in self.proposals],
            proposals.withdraw: [{}, {"proposal_id": self.proposals[0]}],
        }
        for act, ways in about.items():
            yield from ((act, _bound(act, self.database, case, **way)) for way in ways)

    def _about_letter(self, letter: UUID, text: str) -> Iterator[tuple[Callable[..., Any], Tried]]:
        one = Selection(ids=(letter,))
        yield dead_letters.replay, _bound(dead_letters.replay, self.database, one, reason=text, undo_s=10)
        yield dead_letters.discard, _bound(dead_letters.discard, self.database, one, reason=text)
        yield second_thoughts.undo, _bound(second_thoughts.undo, self.database, letter)
        yield second_thoughts.restore, _bound(second_thoughts.restore, self.database, letter, reason=text)
        yield second_thoughts.note, _bound(second_thoughts.note, self.database, letter, text=text)
        yield second_thoughts.edit, _bound(second_thoughts.edit, self.database, letter, reason=text)

    def _about_people(self, text: str) -> Iterator[tuple[Callable[..., Any], Tried]]:
        for name in (text, "cleo", "nobody"):
            yield accounts.add_person, _bound(accounts.add_person, self.database, name, roles=EVERYTHING, password="h")
            yield accounts.set_roles, _bound(accounts.set_roles, self.database, name, roles=frozenset())
            yield accounts.set_active, _bound(accounts.set_active, self.database, name, active=False)
            yield accounts.set_password, _bound(accounts.set_password, self.database, name, password="other")
            made = accounts._make_token
            yield made, _bound(made, self.database, name, "secret", roles=EVERYTHING, days=len(text) * 400)
            yield accounts.revoke_token, _bound(accounts.revoke_token, self.database, name)


def _bound(act: Callable[..., Any], *given: Any, **more: Any) -> Tried:
    return lambda who: act(*given, **more, who=who, clock=lambda: NOW)


def acts_of_people() -> set[Callable[..., Any]]:
    """Every act whose refusals are journalled."""
    modules = [
        importlib.import_module(f"{actions.__name__}.{one.name}") for one in pkgutil.iter_modules(actions.__path__)
    ]
    found = [
        one for module in modules for one in vars(module).values() if callable(one) and hasattr(one, "__wrapped__")
    ]
    return {one for one in found if getattr(one, "__code__", None) is dead_letters.replay.__code__}


_TABLES = "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
_REFUSALS_ASIDE = {"journal": " WHERE t.action <> 'refused'", "proposals": " WHERE t.state <> 'outdated'"}
"""What a refusal leaves: its entry in the journal. That a proposal no longer counts is a fact of before, which it found."""


async def kept(url: str) -> dict[str, str]:
    """A digest of every table but what a refusal may leave."""
    names = [row["name"] for row in await rows(url, _TABLES)]
    digests = ", ".join(
        f"(SELECT md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '')) FROM {name} t"
        f'{_REFUSALS_ASIDE.get(name, "")}) AS "{name}"'
        for name in names
    )
    (row,) = await rows(url, f"SELECT {digests}")
    return dict(row)


async def test_a_refused_act_leaves_nothing_but_its_entry_in_the_journal(
    environment: Environment, database: Database
) -> None:
    subjects = Subjects(database)
    await subjects.begin()
    url = environment.databases["staff"]
    refused: Counter[Callable[..., Any]] = Counter()
    codes: set[str] = set()
    before = await kept(url)
    for (act, tried), who in ((one, who) for who, text in WAYS for one in subjects.tries(text)):
        result = await tried(who)
        results = [result] if isinstance(result, ActionResult) else result
        after = await kept(url)
        if all(not one.ok for one in results):
            changed = {name for name in after if after[name] != before[name]}
            assert not changed, f"{act.__module__}.{act.__name__} by {who.name!r}: {results} changed {changed}"
            refused[act] += 1
            codes |= {str(one.refusal) for one in results}
        subjects.proposals += [one.proposal for one in results if one.proposal is not None]
        before = after
    assert set(refused) == acts_of_people(), "an act is not tried, or none of its tries is refused"
    assert len(codes) >= 20, codes
