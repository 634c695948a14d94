"""No sequence of clicks moves money above the limit by one person's word, charges twice, or sends what was not in the preview.

A state machine of Hypothesis clicks on the desk, over its HTTP doors and the real database: one person signed in, with a program's token
and at a terminal; a second person; somebody who may only look. Between the clicks messages fail, come back, are handled; the gateway moves
payments on; the sender of runs takes its turns; time passes, and what is due leaves. After each step everything that has left or will leave
is held against what the clicks allowed.

`REMIT_CLICKS=50` plays so many games instead of `GAMES`.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
import uvloop
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from services.staff import people_store, store
from services.staff.actions import dead_letters, payments, second_thoughts
from services.staff.charges import REQUESTS
from services.staff.dead_letters import DeadLetter, arrive
from services.staff.desk.app import make_app
from services.staff.desk.desk import Desk
from services.staff.desk.security import form_key
from services.staff.domain import CaseStatus, Settled
from services.staff.people import Role, at_terminal
from services.staff.run_sender import RunSender
from services.staff.store import Selection
from shared.contracts.invoice import InvoicePaymentRequested, PayInvoice, TokenMethod
from shared.messaging.codec import STRUCTURED, encode
from shared.messaging.envelope import Cause, Draft
from shared.messaging.topology import COMMANDS
from shared.persistence.database import Database
from shared.records import replace
from tests.support.databases import connect, truncate
from tests.support.desk_browser import DeskBrowser, DeskClock, DeskUnderTest, desk_settings
from tests.support.environment import Environment
from tests.support.kept_cases import LIMIT, keep_case, tell_case
from tests.support.kept_letters import event

GAMES, CLICKS = 8, 30
MIA, BEN, VIC, ROBOT, TERMINAL = "mia", "ben", "vic", "mia.robot", "mia at a terminal"
HERS = (MIA, ROBOT, TERMINAL)
"""One person, by whichever door."""
DAY_S = 86_400
CHARGE_WITHIN = timedelta(seconds=DAY_S)
AMOUNTS = (400, LIMIT, LIMIT + 1, 3 * LIMIT)
HANDLED, FAILED = "handled", "failed"
REFUSALS = (403, 404, 409, 422)
Result = TypeVar("Result")


@dataclass
class KnownLetter:
    """A failed message, how often it has come, and whether services could have handled it by now."""

    letter: DeadLetter
    came: int = 1


@dataclass(frozen=True)
class Leaving:
    """A message that has left, or will."""

    id: UUID
    type: str
    queue: str
    name: str
    """Its AMQP message id."""
    body: bytes

    @property
    def data(self) -> dict[str, Any]:
        """What it says; empty if it is no CloudEvent."""
        return dict(orjson.loads(self.body).get("data") or {})


@dataclass(frozen=True)
class RunShown:
    """The list of a run as it was shown: its messages, and how many may charge."""

    version: str
    listed: frozenset[UUID]
    charges: int


@dataclass
class LastClick:
    """A click that did something, so that it can be sent again."""

    door: str
    address: str
    fields: dict[str, Any]


class World:
    """The desk, whoever clicks, and what they may see."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.url = url
        self.database = self.run(Database.open(url, name="clicks", connections_max=4))
        self.observer = self.run(connect(url))
        self.clock = DeskClock()
        desk = Desk(self.database, desk_settings(), self.clock)
        self.desk = DeskUnderTest(desk, self.clock, make_app(desk))

    def run(self, work: Awaitable[Result]) -> Result:
        async def awaited() -> Result:
            return await work

        return self.runner.run(awaited())

    def close(self) -> None:
        self.run(self.observer.close())
        self.run(self.database.close())
        self.runner.close()


class Clicks(RuleBasedStateMachine):
    """One game. Amounts, doors and subjects are chosen by number; a number beyond the end begins again."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.desk = self.world.clock, self.world.desk
        self.browsers: dict[str, DeskBrowser] = {}
        self.form_keys: dict[str, str] = {}
        self.robot: httpx.AsyncClient | None = None
        self.robots = 0
        self.cases: dict[UUID, int | None] = {}
        self.letters: dict[UUID, KnownLetter] = {}
        self.left: list[Leaving] = []
        self.noted: set[UUID] = set()
        self.previews: dict[int, RunShown] = {}
        self.sure: set[int] = set()
        self.taken_in: set[UUID] = set()
        self.made_by: dict[int, str] = {}
        self.second_by: dict[int, str] = {}
        self.pages: dict[UUID, dict[str, Any]] = {}
        self.agreed: Counter[UUID] = Counter()
        self.last: LastClick | None = None

    def run(self, work: Awaitable[Result]) -> Result:
        return self.world.run(work)

    # -- the beginning ---------------------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.run(truncate(self.world.url))
        self.run(self._sign_in())
        self.run(self._let_edit())
        for amount in (LIMIT, LIMIT + 1, None):
            self.cases[self.run(keep_case(self.world.database, amount))] = amount
        for kind, amount in (
            (COMMANDS, 400),
            (COMMANDS, 3 * LIMIT),
            (REQUESTS, LIMIT + 1),
            (REQUESTS, LIMIT),
            ("event", 0),
        ):
            self.fails(kind, amount, 0, again=False)

    async def _sign_in(self) -> None:
        """Everybody begins a new session, and the program gets a new token. Forms of before are no longer theirs."""
        self.last = None
        for name, roles in ((MIA, tuple(Role)), (BEN, tuple(Role)), (VIC, (Role.VIEWER,))):
            self.browsers[name] = browser = await self.desk.browser(name, *roles)
            self.form_keys[name] = form_key(browser.client.cookies["remit-session"])
        self.robots += 1
        if self.robot is not None:
            await self.robot.aclose()
        self.robot = await self.desk.token(f"{ROBOT}{self.robots}", *Role)

    async def _let_edit(self) -> None:
        async with self.world.database.transaction() as tx:
            await people_store.save_setting(tx, second_thoughts.EDIT_AND_REPLAY, value=True, who=BEN, now=self.clock())

    def teardown(self) -> None:
        for browser in self.browsers.values():
            self.run(browser.client.aclose())
        if self.robot is not None:
            self.run(self.robot.aclose())

    # -- clicks ----------------------------------------------------------------------------------------------------------------------

    def click(self, door: str, address: str, **fields: Any) -> bool:
        """Send a form, or a request of the program. Returns whether something was done."""
        return self.run(self._click(door, address, {"once": str(uuid4()), **fields}))

    def click_on(self, door: str, letter_id: UUID, act: str, page: dict[str, Any] | None = None, **fields: Any) -> bool:
        """Click on the page of a message: on one that was opened before, or else on that of now."""
        return self.run(self._click(door, *_form_on(page or self._page(letter_id), act, **fields)))

    def _page(self, letter_id: UUID) -> dict[str, Any]:
        return self.run(self._get(f"/dead-letters/{letter_id}"))

    async def _get(self, address: str) -> dict[str, Any]:
        """The view of a page, as JSON."""
        assert self.robot is not None
        answer = await self.robot.get(f"/api/v1{address}")
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            await self._sign_in()
            answer = await self.robot.get(f"/api/v1{address}")
        assert answer.status_code == httpx.codes.OK, answer.text
        return dict(answer.json())

    async def _click(self, door: str, address: str, fields: dict[str, Any]) -> bool:
        self.clock.forward(seconds=2)  # people click more slowly than the desk allows
        answer = await self._send(door, address, fields)
        if answer.status_code == httpx.codes.UNAUTHORIZED or "/sign-in" in answer.headers.get("location", ""):
            await self._sign_in()
            answer = await self._send(door, address, fields)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:  # a clock that jumped back: nobody waits for long
            self.clock.forward(seconds=2)
            answer = await self._send(door, address, fields)
        done = answer.status_code in (httpx.codes.OK, httpx.codes.SEE_OTHER)
        assert done or answer.status_code in REFUSALS, f"{door} {address}: {answer.status_code} {answer.text}"
        if done:
            self.last = LastClick(door, address, fields)
        return done

    async def _send(self, door: str, address: str, fields: dict[str, Any]) -> httpx.Response:
        if door == ROBOT:
            assert self.robot is not None
            return await self.robot.post(f"/api/v1{address}", json=fields)
        sent = {"form_key": self.form_keys[door], **fields}
        headers = {"sec-fetch-site": "same-origin", "origin": self.desk.desk.settings.url}
        return await self.browsers[door].client.post(address, data=sent, headers=headers, follow_redirects=False)

    def case(self, number: int) -> UUID:
        return list(self.cases)[number % len(self.cases)]

    def some_letter(self, number: int) -> UUID:
        return list(self.letters)[number % len(self.letters)]

    def some_run(self, number: int) -> int:
        return list(self.previews)[number % len(self.previews)]

    @rule(
        door=st.sampled_from((*HERS, BEN)),
        number=st.integers(0, 8),
        resolution=st.sampled_from(("captured", "not_charged", "refunded", "give_back")),
    )
    def decide(self, door: str, number: int, resolution: Any) -> None:
        payment_id = self.case(number)
        version = self._one("SELECT version FROM cases WHERE payment_id = $1", payment_id)["version"]
        words: dict[str, Any] = {"evidence": "seen", "reason": "why", "receipt_number": "R-1"}
        if door == TERMINAL:
            who = at_terminal(MIA)
            self.run(
                payments.resolve(
                    self.world.database,
                    payment_id,
                    resolution=resolution,
                    expected_version=version,
                    who=who,
                    clock=self.clock,
                    **words,
                )
            )
        else:
            self.click(door, f"/cases/{payment_id}/decide", resolution=resolution, version=version, **words)

    @rule(
        door=st.sampled_from(HERS),
        number=st.integers(0, 8),
        amount=st.sampled_from((None, 1, LIMIT // 2, LIMIT, LIMIT + 1)),
    )
    def refund(self, door: str, number: int, amount: int | None) -> None:
        payment_id = self.case(number)
        if door == TERMINAL:
            who = at_terminal(MIA)
            self.run(
                payments.refund(
                    self.world.database,
                    payment_id,
                    refund_id=uuid4(),
                    reason="why",
                    who=who,
                    amount_minor=amount,
                    currency="EUR",
                    invoice_id="INV-1",
                    clock=self.clock,
                )
            )
        else:
            some = {} if amount is None else {"amount_minor": amount}
            self.click(door, f"/cases/{payment_id}/refund", reason="why", currency="EUR", invoice_id="INV-1", **some)

    @rule(door=st.sampled_from((MIA, ROBOT, BEN)), answer=st.sampled_from(("agree", "refuse")))
    def answer(self, door: str, answer: str) -> None:
        """To the proposal that is open for the longest time."""
        proposal = self._one(
            "SELECT id, payment_id, proposed_by FROM proposals WHERE state = 'open' ORDER BY proposed_at"
        )
        if proposal is None:
            return
        payment_id = proposal["payment_id"]
        if (
            self.click(door, f"/cases/{payment_id}/{answer}", proposal=str(proposal["id"]), saw="seen")
            and answer == "agree"
        ):
            assert door != ROBOT, "a program is no person"
            assert not proposal["proposed_by"].startswith(door), (
                "nobody is their own second person, nor that of their program"
            )
            self.agreed[payment_id] += 1

    @rule(door=st.sampled_from((MIA, ROBOT, BEN)), number=st.integers(0, 8))
    def withdraw(self, door: str, number: int) -> None:
        self.click(door, f"/cases/{self.case(number)}/withdraw")

    @rule(door=st.sampled_from((*HERS, BEN)), number=st.integers(0, 12))
    def discard(self, door: str, number: int) -> None:
        letter_id = self.some_letter(number)
        if door == TERMINAL:
            who = at_terminal(MIA)
            self.run(
                dead_letters.discard(
                    self.world.database, Selection(ids=(letter_id,)), who=who, reason="why", clock=self.clock
                )
            )
        else:
            self.click_on(door, letter_id, "discard")

    @rule(door=st.sampled_from((MIA, ROBOT)), numbers=st.lists(st.integers(0, 12), min_size=1, max_size=4))
    def discard_some(self, door: str, numbers: list[int]) -> None:
        ids = [str(self.some_letter(number)) for number in numbers]
        self.click(door, "/dead-letters/discard", id=ids, why="why", seen=self.clock().isoformat())

    @rule(door=st.sampled_from((MIA, ROBOT, BEN)), number=st.integers(0, 12))
    def replay(self, door: str, number: int) -> None:
        self.click_on(door, self.some_letter(number), "replay")

    @rule(number=st.integers(0, 12))
    def open_page(self, number: int) -> None:
        """Somebody opens the page of a message, and clicks later."""
        letter_id = self.some_letter(number)
        self.pages[letter_id] = self._page(letter_id)

    @precondition(lambda self: self.pages)
    @rule(
        door=st.sampled_from((MIA, ROBOT, BEN)),
        number=st.integers(0, 12),
        act=st.sampled_from(("replay", "discard", "undo", "restore", "edit")),
    )
    def click_on_an_old_page(self, door: str, number: int, act: str) -> None:
        """What is done is done with the message as it was shown, or it is not done."""
        letter_id, page = list(self.pages.items())[number % len(self.pages)]
        now = self._page(letter_id)
        if self.click_on(door, letter_id, act, page):
            seen = "undo_of" if act == "undo" else "version"
            assert page[seen] == now[seen], "nobody saw it so"

    @rule(door=st.sampled_from((MIA, ROBOT, BEN)), number=st.integers(0, 12), act=st.sampled_from(("undo", "restore")))
    def think_again(self, door: str, number: int, act: str) -> None:
        self.click_on(door, self.some_letter(number), act)

    @rule(
        door=st.sampled_from((MIA, ROBOT)),
        number=st.integers(0, 12),
        changes=st.sampled_from(({}, {"amount_minor": "1"}, {"payment_id": str(UUID(int=5))}, {"invoice_id": "INV-9"})),
    )
    def edit(self, door: str, number: int, changes: dict[str, str]) -> None:
        sent: dict[str, Any] = (
            {"set": changes} if door == ROBOT else {f"set_{name}": value for name, value in changes.items()}
        )
        drop = ["mandate"] if door == ROBOT else "mandate"
        self.click_on(door, self.some_letter(number), "edit", drop=drop, **sent)

    @rule(
        number=st.integers(0, 12),
        doors=st.permutations((MIA, ROBOT, BEN)),
        acts=st.permutations(("replay", "discard", "edit")),
    )
    def click_at_once(self, number: int, doors: Sequence[str], acts: Sequence[str]) -> None:
        """Two people do different things with the same message in the same moment."""
        page = self._page(self.some_letter(number))

        async def both() -> list[bool]:
            chosen = zip(doors[:2], acts[:2], strict=True)
            return await asyncio.gather(*(self._click(door, *_form_on(page, act)) for door, act in chosen))

        assert sum(self.run(both())) <= 1, "one wins, the other reads who"

    @precondition(lambda self: self.last is not None)
    @rule()
    def click_again(self) -> None:
        """The same form comes once more: by a second click, a reload, or a browser that tries again."""
        assert self.last is not None
        before = self._leaving()
        assert self.run(self._click(self.last.door, self.last.address, self.last.fields)), "it shows the first result"
        assert self._leaving() == before, f"a second click on {self.last.address} sent something"

    @rule(number=st.integers(0, 12), act=st.sampled_from(("replay", "discard", "undo", "edit")))
    def look_only(self, number: int, act: str) -> None:
        assert not self.click_on(VIC, self.some_letter(number), act)

    # -- runs ------------------------------------------------------------------------------------------------------------------------

    @rule(door=st.sampled_from((MIA, ROBOT)), numbers=st.lists(st.integers(0, 12), min_size=1, max_size=6))
    def preview(self, door: str, numbers: list[int]) -> None:
        chosen = sorted({str(self.some_letter(number)) for number in numbers})
        self._preview(door, what="selected", id=chosen)

    @rule(door=st.sampled_from((MIA, ROBOT)), queue=st.sampled_from((COMMANDS, REQUESTS, "saga.events")))
    def preview_all(self, door: str, queue: str) -> None:
        self._preview(door, what="group", queue=queue)

    def _preview(self, door: str, **fields: Any) -> None:
        if not self.click(door, "/replays", **fields):
            return
        no = self._one("SELECT max(no) AS no FROM replay_runs")["no"]
        self.made_by[no] = door
        shown, listed = self._open_preview(no)
        charging = [self.letters[id_].letter for id_ in listed if self._may_charge(self.letters[id_].letter)]
        sums: Counter[str] = Counter()
        for letter in charging:
            sums[str(letter.currency)] += letter.amount_minor or 0
        taken = sum(bin_["count"] for bin_ in shown["bins"] if bin_["taken"])
        assert (taken, shown["charges"], shown["sums"]) == (len(listed), len(charging), dict(sums))

    def _open_preview(self, no: int) -> tuple[dict[str, Any], frozenset[UUID]]:
        """What its page shows, and what it lists."""
        shown = self.run(self._get(f"/replays/{no}"))
        query = "SELECT letter_id FROM replay_items WHERE run_no = $1 AND state = 8"
        listed = frozenset(row["letter_id"] for row in self._rows(query, no))
        self.previews[no] = RunShown(shown["version"], listed, shown["charges"])
        return shown, listed

    @precondition(lambda self: self.previews)
    @rule(number=st.integers(0, 4))
    def open_preview_again(self, number: int) -> None:
        no = self.some_run(number)
        if self._one("SELECT state FROM replay_runs WHERE no = $1", no)["state"] == "previewed":
            self._open_preview(no)

    @precondition(lambda self: self.previews)
    @rule(door=st.sampled_from((MIA, ROBOT, BEN)), number=st.integers(0, 4))
    def take_in_what_is_old(self, door: str, number: int) -> None:
        """Whoever opened the preview before does not see it."""
        no = self.some_run(number)
        query = "SELECT letter_id FROM replay_items WHERE run_no = $1 AND why = 'too_old'"
        old = {row["letter_id"] for row in self._rows(query, no)}
        if self.click(door, f"/replays/{no}/second", reason="promised"):
            assert door not in (ROBOT, self.made_by[no]), (
                "no program and not whoever made the list is the second person"
            )
            self.second_by[no] = door
            self.taken_in |= old

    def _may_charge(self, letter: DeadLetter) -> bool:
        """Whether it may charge, and its payment has no outcome that staff know of."""
        query = "SELECT 1 AS one FROM cases WHERE payment_id = $1 AND status IN ('captured', 'declined', 'not_charged', 'refunded')"
        return bool(letter.may_charge) and not self._rows(query, letter.payment_id)

    @precondition(lambda self: self.previews)
    @rule(door=st.sampled_from((MIA, ROBOT, BEN)), number=st.integers(0, 4), sure=st.booleans())
    def try_one(self, door: str, number: int, *, sure: bool) -> None:
        no = self.some_run(number)
        said: dict[str, Any] = {"sure": sure} if door == ROBOT else {"sure": "true"} if sure else {}
        said["version"] = self.previews[no].version
        if self.click(door, f"/replays/{no}/try", reason="repaired", rate=500, **said):
            second = self.second_by.get(no)
            assert second is None or {second, door} == {MIA, BEN}, "two people let an old message charge"
            if sure:
                self.sure.add(no)

    @precondition(lambda self: self.previews)
    @rule(
        door=st.sampled_from((MIA, ROBOT, BEN)),
        number=st.integers(0, 4),
        act=st.sampled_from(("go", "go", "rest", "speed", "pause", "resume", "leave-out", "stop")),
    )
    def steer(self, door: str, number: int, act: str) -> None:
        no = self.some_run(number)
        said: dict[str, Any] = {"rate": 500} if act in ("rest", "speed") else {}
        if act in ("go", "rest", "resume", "leave-out"):
            said["version"] = self.run(self._get(f"/replays/{no}"))["version"]
        self.click(door, f"/replays/{no}/{act}", **said)

    @precondition(lambda self: self.previews)
    @rule(turns=st.integers(1, 3))
    def turns_are_taken(self, turns: int) -> None:
        sender = RunSender(self.world.database, _NoBroker(), self.clock, old_after=CHARGE_WITHIN)  # type: ignore[arg-type]
        for _ in range(turns):
            self.run(sender.run_once())

    # -- the world goes on -----------------------------------------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from((COMMANDS, REQUESTS, "event")),
        amount=st.sampled_from(AMOUNTS),
        hours=st.sampled_from((0, 23, 25)),
        again=st.booleans(),
    )
    def fails(self, kind: str, amount: int, hours: int, *, again: bool) -> None:
        """A message fails. `again`: it is about a payment that another one is about already."""
        known = {one.letter.payment_id: one.letter.amount_minor or 0 for one in self.letters.values()} if again else {}
        payment_id, amount = next(((id_, same) for id_, same in known.items() if id_ is not None), (uuid4(), amount))
        asked_at = self.clock() - timedelta(hours=hours)
        letter = event(len(self.letters)) if kind == "event" else _charge(kind, amount, asked_at, payment_id)
        self.letters[letter.id] = KnownLetter(letter)
        self.run(self._arrive(letter))

    async def _arrive(self, letter: DeadLetter) -> None:
        async with self.world.database.transaction() as tx:
            before = await store.lock_letters(tx, [letter.id])
            record = arrive(before.get(letter.id), letter, self.clock())
            await store.save_letters(tx, [record], locked=before.keys())

    @precondition(lambda self: self.left)
    @rule(number=st.integers(0, 12), became=st.sampled_from((HANDLED, HANDLED, FAILED)))
    def becomes(self, number: int, became: str) -> None:
        """What left is handled, or fails again."""
        sent = [one for one in self.letters.values() if self._times(self.left, one) >= one.came]
        if not sent:
            return
        known = sent[number % len(sent)]
        record = self._one("SELECT status, replays, outcome FROM dead_letters WHERE id = $1", known.letter.id)
        if record["status"] != "replayed" or record["outcome"] is not None:
            return
        if became == HANDLED:
            self._do("UPDATE dead_letters SET outcome = 'handled', outcome_at = now() WHERE id = $1", known.letter.id)
        else:
            known.came += 1
            self.run(self._arrive(replace(known.letter, generation=record["replays"])))

    @rule(number=st.integers(0, 8), status=st.sampled_from((CaseStatus.CAPTURED, CaseStatus.NOT_CHARGED)))
    def gateway_tells(self, number: int, status: CaseStatus) -> None:
        payment_id = self.case(number)
        version = self._one("SELECT version FROM cases WHERE payment_id = $1", payment_id)["version"]
        self.run(tell_case(self.world.database, payment_id, Settled(version + 1, status)))

    @rule(seconds=st.sampled_from((1, 5, 11, 90, 3_600, DAY_S + 3_600)))
    def time_passes(self, seconds: int) -> None:
        """On the clocks of the desk and of the database. Then what is due leaves. A form is remembered for a day."""
        self.last = self.last if seconds < DAY_S else None
        self.clock.forward(seconds=seconds)
        span = timedelta(seconds=seconds)
        self._do(
            "UPDATE outbox SET created_at = created_at - $1::interval, sweep_after = sweep_after - $1::interval",
            span,
        )
        self._do("UPDATE replay_items SET sent_at = sent_at - $1::interval, ended_at = ended_at - $1::interval", span)
        self._do(
            "UPDATE replay_runs SET paced_at = paced_at - $1::interval, lease_until = lease_until - $1::interval", span
        )
        due = self._rows(f"{_OUTBOX} WHERE sweep_after <= now() ORDER BY created_at, id")
        self._do("DELETE FROM outbox WHERE id = ANY($1::uuid[])", [row["outbox_batch"] for row in due])
        self.left += map(_leaving, due)

    @rule(seconds=st.sampled_from((-3_600, -40, 40)))
    def clock_jumps(self, seconds: int) -> None:
        """The clock of the desk alone, as a server's that is set."""
        self.clock.forward(seconds=seconds)

    # -- what holds ------------------------------------------------------------------------------------------------------------------

    @invariant()
    def no_harm_was_done(self) -> None:
        leaving = self._leaving()
        self.money_above_the_limit_takes_two(leaving)
        self.each_message_is_sent_once_or_closed(leaving)
        self.nothing_charges_late(leaving)
        if self.previews:
            self.a_run_sends_what_was_in_its_preview()

    def money_above_the_limit_takes_two(self, leaving: Sequence[Leaving]) -> None:
        by_payment: dict[UUID, list[dict[str, Any]]] = {}
        for one in leaving:
            if one.type.startswith(
                (
                    "remit.payment_gateway.ResolvePayment",
                    "remit.invoice.RequestRefund",
                    "remit.payment_gateway.MakeRefund",
                )
            ):
                by_payment.setdefault(UUID(one.data["payment_id"]), []).append(one.data)
        for payment_id, said in by_payment.items():
            amount = self._amount(payment_id)
            is_above = amount is None or amount > LIMIT
            alone = [one for one in said if "agreed" not in str(one.get("decided_by") or one.get("requested_by"))]
            assert len(said) - len(alone) <= self.agreed[payment_id], said
            assert not (is_above and any("resolution" in one for one in alone)), alone
            refunds = [one.get("amount_minor") or amount for one in alone if "resolution" not in one]
            total = sum(part or LIMIT + 1 for part in refunds)
            assert min(total, amount or total) <= LIMIT, alone

    def _amount(self, payment_id: UUID) -> int | None:
        if payment_id in self.cases:
            return self.cases[payment_id]
        return max(one.letter.amount_minor or 0 for one in self.letters.values() if one.letter.payment_id == payment_id)

    def each_message_is_sent_once_or_closed(self, leaving: Sequence[Leaving]) -> None:
        closed = Counter(one.data["command_id"] for one in leaving if one.type.startswith("remit.invoice.CloseCommand"))
        edited = [
            one for one in leaving if one.queue in (COMMANDS, REQUESTS, "saga.events") and self._letter_of(one) is None
        ]
        for known in self.letters.values():
            letter = known.letter
            sent = self._times(leaving, known)
            assert sent <= known.came, f"{letter.queue}: sent {sent} times, and it came {known.came} times"
            answered = closed[str(letter.event_id)]
            assert answered <= 1
            assert sent - (known.came - 1) + answered <= 1, "it was sent, and its sender was told that it is given up"
        for one in edited:
            originals = [known for known in self.letters.values() if _is_edit_of(one, known.letter)]
            assert originals, f"nobody's message, or a locked field of it differs: {one.body!r}"

    def nothing_charges_late(self, leaving: Sequence[Leaving]) -> None:
        for one in leaving:
            if one.id in self.noted:
                continue
            self.noted.add(one.id)
            known = self._letter_of(one)
            if known is None or known.letter.id in self.taken_in:
                continue
            if known.letter.may_charge and known.letter.asked_at is not None:
                assert self.clock() - known.letter.asked_at <= CHARGE_WITHIN + timedelta(seconds=4), "it charges late"

    def a_run_sends_what_was_in_its_preview(self) -> None:
        query = (
            "SELECT subject, (details ->> 'run')::bigint AS no FROM journal WHERE action = 'replay' AND details ? 'run'"
        )
        sent: dict[int, list[UUID]] = {}
        for row in self._rows(query):
            sent.setdefault(row["no"], []).append(row["subject"])
        for no, subjects in sent.items():
            shown = self.previews[no]
            assert len(set(subjects)) == len(subjects), f"R-{no} sent one message twice"
            assert set(subjects) <= shown.listed, f"R-{no} sent what was not in its preview"
            assert not shown.charges or no in self.sure, f"R-{no} charges, and nobody said that it shall"

    # -- looking ---------------------------------------------------------------------------------------------------------------------

    def _leaving(self) -> list[Leaving]:
        """What has left, and what waits in the outbox."""
        return [*self.left, *map(_leaving, self._rows(f"{_OUTBOX} ORDER BY created_at, id"))]

    def _times(self, leaving: Sequence[Leaving], known: KnownLetter) -> int:
        return sum(one.name == known.letter.message_id and one.queue == known.letter.queue for one in leaving)

    def _letter_of(self, one: Leaving) -> KnownLetter | None:
        """The failed message that was sent again as it is."""
        for known in self.letters.values():
            if (one.name, one.queue, one.body) == (known.letter.message_id, known.letter.queue, known.letter.body):
                return known
        return None

    def _rows(self, query: str, *arguments: object) -> list[Any]:
        return list(self.run(self.world.observer.fetch(query, *arguments)))

    def _one(self, query: str, *arguments: object) -> Any:
        return next(iter(self._rows(query, *arguments)), None)

    def _do(self, statement: str, *arguments: object) -> None:
        self.run(self.world.observer.execute(statement, *arguments))


_OUTBOX = "SELECT id, type, routing_key, message_id, body, outbox_batch FROM outbox_messages"


def _leaving(row: Any) -> Leaving:
    return Leaving(row["id"], row["type"], row["routing_key"], row["message_id"] or "", row["body"])


def _form_on(page: dict[str, Any], act: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    """Where the form of this act on the page of a message is sent, and with what."""
    address, once = f"/dead-letters/{page['id']}/{act}", {"once": str(uuid4())}
    if act == "undo":
        return f"{address}?of={page['undo_of'] or UUID(int=7)}", once
    why = {} if act == "replay" else {"reason": "why"}
    return address, {**once, **why, "version": page["version"], **fields}


def _charge(queue: str, amount_minor: int, asked_at: datetime, payment_id: UUID) -> DeadLetter:
    """A failed message that charges a card if it is sent again. A member that no contract knows is what can be edited."""
    kind = PayInvoice if queue == COMMANDS else InvoicePaymentRequested
    data = kind(
        invoice_id="INV-1",
        payment_id=payment_id,
        amount_minor=amount_minor,
        currency="EUR",
        method=TokenMethod(token="pm_card_visa"),
    )
    sent = encode(Draft(data), Cause(uuid4(), "C-1", asked_at), 0, source="/billing")
    body = sent.body.replace(b'"data":{', b'"data":{"mandate":"SEPA-2211",')
    return DeadLetter(
        uuid4(), queue, "remit", "handler_failed", error_type="TypeError", body=body, body_bytes=len(body), content_type=STRUCTURED,
        message_id=str(sent.id), event_id=sent.id, type=data.wire_name, invoice_id="INV-1", payment_id=data.payment_id,
        amount_minor=amount_minor, currency="EUR", may_charge=True, asked_at=asked_at,
    )  # fmt: skip


def _is_edit_of(one: Leaving, letter: DeadLetter) -> bool:
    """Whether this is the message with nothing changed but what nobody needs: who pays what to whom is the same, and where it goes."""
    if letter.body is None or one.queue != letter.queue:
        return False
    original = orjson.loads(letter.body)
    return {**original.get("data", {}), "mandate": None} == {**one.data, "mandate": None}


class _NoBroker:
    """Stands in for the relay of the run's sender: what it does not publish stays in the outbox."""

    async def publish(self, batches: object) -> None: ...


@pytest.fixture
def world(environment_urls: Environment) -> Iterator[World]:
    opened = World(environment_urls.databases["staff"])
    yield opened
    opened.close()


def test_no_sequence_of_clicks_does_harm(world: World) -> None:
    with _clicking_on(world):
        run_state_machine_as_test(
            Clicks,
            settings=settings(
                max_examples=int(os.environ.get("REMIT_CLICKS", GAMES)),
                stateful_step_count=CLICKS,
                deadline=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )


@contextmanager
def _clicking_on(world: World) -> Iterator[None]:
    Clicks.world = world
    try:
        yield
    finally:
        del Clicks.world
