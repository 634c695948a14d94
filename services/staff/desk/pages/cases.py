"""Cases: payments of which nobody knows what happened to the money, and what a person does about them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from hashlib import blake2s
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response, StreamingResponse

from services.staff import case_store, domain, people_store, store, told_store
from services.staff.actions import cases as case_actions
from services.staff.actions import payments, proposals
from services.staff.actions.proposing import why_second
from services.staff.actions.results import unfit
from services.staff.case_store import CaseKey, CaseList, ListedCase
from services.staff.desk import acted, case_words
from services.staff.desk.frame import Count
from services.staff.desk.once import NUL
from services.staff.desk.parameters import key_text, read_key, read_moment
from services.staff.desk.problems import Mistaken, Refused, SeeAlso
from services.staff.desk.routing import Act, Desk, Done, Room
from services.staff.desk.spreadsheet import cell, csv_lines
from services.staff.domain import Case, CaseStatus, LastDecision
from services.staff.find import minor_units
from services.staff.heard import MessageHeard
from services.staff.people import Actor, Role
from services.staff.proposals import (
    Proposal,
    ProposalRefusal,
    SecondPersonLimits,
    Stake,
    refusal_of_answer,
    stakes_of,
)
from services.staff.reasons import ANSWER_WORDS
from services.staff.standing import standing_of
from services.staff.store import JournalEntry, KeptCase
from services.staff.story import InvoiceTold, steps_of
from shared.contracts.base import AMOUNT_MINOR_MAX, EVIDENCE_LENGTH_MAX, TEXT_LENGTH_MAX
from shared.ids import derived_id, read_uuid
from shared.persistence.database import Connection
from shared.records import dataclass

room = Room(__name__)

LISTED, DOWNLOADED_AT_ONCE, NEWS_MAX = 50, 500, 1_000
STORY_SHOWN = 12
"""The last steps of the story that stand beside a case; the whole of it has a page of its own."""
SHOWN: tuple[tuple[CaseList, str], ...] = (
    ("open", "Open"),
    ("mine", "Waiting for me"),
    ("second", "Needs a second person"),
    ("contradicted", "Contradicted"),
    ("settled", "Settled"),
)


# -- what the pages show ---------------------------------------------------------------------------------------------------------------


class CasePart(BaseModel):
    model_config = ConfigDict(frozen=True)


class CaseBadge(CasePart):
    """How a case stands. `kind` is the class of its badge."""

    status: str
    kind: str
    text: str
    sub: str


class CaseRow(CasePart):
    """A case in a list."""

    payment_id: UUID
    invoice_id: str
    amount_minor: int | None
    currency: str | None
    state: CaseBadge
    since: datetime
    claimed_by: str | None


class CurrencySum(CasePart):
    """Open cases in one currency; `unknown` of them have no known amount."""

    currency: str | None
    amount_minor: int
    cases: int
    unknown: int


class CaseTab(CasePart):
    """One list of cases, and how many it has."""

    show: CaseList
    text: str
    cases: int


class CasesView(CasePart):
    """A page of a list of cases. `next` is the key of the next page."""

    show: CaseList
    rows: list[CaseRow]
    tabs: list[CaseTab]
    sums: list[CurrencySum]
    next: str | None
    live: str

    def tabs_of(self) -> list[tuple[str, int, str, bool]]:
        """The lists as the template draws them."""
        return [(tab.text, tab.cases, f"/cases?show={tab.show}", tab.show == self.show) for tab in self.tabs]


class CasesNewsView(CasePart):
    """How many cases came to a list since it began; of `mine` and `settled`, came or changed."""

    show: CaseList
    came: int


class GatewayCallView(CasePart):
    """A call to the gateway, and what it said."""

    at: datetime
    step: str
    code: str
    answer: str
    evidence: str


class DecisionChoice(CasePart):
    """A decision that fits the case, and what follows from it."""

    value: str
    says: str
    follows: str


class ProposalView(CasePart):
    """A proposal: what, by whom, and what they saw. `why_not` says why whoever looks may not agree; None: they may."""

    id: UUID
    resolution: str
    words: str
    says: str
    follows: str
    by: str
    at: datetime
    version: int
    evidence: str
    reason: str
    receipt_number: str | None
    is_own: bool
    why_not: str | None
    others: list[str]


class ContradictionView(CasePart):
    """What contradicts the last decision, and what was decided. `charged_at`: when the gateway was told to charge."""

    decided: str
    decided_by: str | None
    decided_version: int
    decided_at: datetime | None
    evidence: str | None
    found_at: datetime | None
    found_version: int
    found: str
    receipt_number: str | None
    charged_at: datetime | None
    refund_id: str | None
    given_back_at: datetime | None
    is_given_back: bool
    is_noted: bool


class DeedView(CasePart):
    """What somebody did about a payment."""

    entry: UUID
    at: datetime
    who: str
    action: str
    kind: str
    text: str
    words: str | None


class CaseRefundView(CasePart):
    """A refund of this payment, and what became of it."""

    refund_id: UUID
    amount_minor: int | None
    currency: str | None
    status: str
    told: str


class DecisionStep(CasePart):
    """A step of a decision on its way."""

    kind: Literal["done", "work", "look", "quiet"]
    text: str


class CaseStateView(CasePart):
    """What changes on a case while somebody looks at it."""

    payment_id: UUID
    invoice_id: str
    version: int
    state: CaseBadge
    steps: list[DecisionStep]
    refused: list[str]
    stamp: str
    """Another text whenever something else can be done with it."""
    changed: bool = False
    """It is not as its page shows it any more."""


class CaseCallsView(CasePart):
    """Every call to the gateway about a payment; what is alike in a row is one group. `came` were made since its page was opened."""

    payment_id: UUID
    calls: list[list[GatewayCallView]]
    came: int = 0


class StoryLine(CasePart):
    """A step of the invoice's story."""

    at: datetime
    kind: str
    who: str
    title: str


class CaseView(CaseStateView, CaseCallsView):
    """All that is known of a case, and what can be done."""

    title: str
    question: str
    known: str
    amount_minor: int | None
    currency: str | None
    charged_at: datetime | None
    since: datetime
    gateway_id: str | None
    gateway_url: str | None
    gateway_side: str | None
    settled_as: str | None
    decided_by: str | None
    is_open: bool
    needs_second: bool
    limit: str
    choices: list[DecisionChoice]
    can_reopen: bool
    can_give_back: bool
    refunds: list[CaseRefundView]
    claimed_by: str | None
    claimed_at: datetime | None
    proposal: ProposalView | None
    contradiction: ContradictionView | None
    story: list[StoryLine]
    customer: str | None
    customer_id: str | None
    did: list[DeedView]
    notes: list[DeedView]
    draft: dict[str, Any]
    draft_id: UUID | None


class CheckView(CasePart):
    """What somebody is about to send, before it is sent."""

    payment_id: UUID
    invoice_id: str
    amount_minor: int | None
    currency: str | None
    draft_id: UUID
    resolution: str
    says: str
    words: str
    version: int
    evidence: str
    reason: str
    receipt_number: str | None
    needs_second: bool
    others: list[str]
    steps: list[str]


# -- what forms send -------------------------------------------------------------------------------------------------------------------

Saw = Annotated[
    str,
    Field(
        min_length=1,
        max_length=EVIDENCE_LENGTH_MAX,
        title="What you saw",
        json_schema_extra={"missing": "Say what you saw, and where."},
    ),
]
Why = Annotated[
    str,
    Field(
        min_length=1, max_length=TEXT_LENGTH_MAX, title="Why", json_schema_extra={"missing": "Say why you decide so."}
    ),
]
Note = Annotated[
    str,
    Field(
        min_length=1, max_length=EVIDENCE_LENGTH_MAX, title="Note", json_schema_extra={"missing": "Write something."}
    ),
]
Choice = Literal["captured", "not_charged", "refunded", "not_refunded", "refund_again", "give_back"]


DraftId = Annotated[
    UUID,
    Field(
        json_schema_extra={
            "missing": "This page shows a decision before it is sent: open the case, say what happened, and check it."
        }
    ),
]


class DecideForm(Act):
    """A decision about a case, made on the version that its page showed."""

    resolution: Annotated[Choice, Field(json_schema_extra={"missing": "Choose what happened to the money."})]
    version: int = Field(ge=1, le=2**31 - 1)
    evidence: Saw
    reason: Why
    receipt_number: str | None = Field(None, max_length=TEXT_LENGTH_MAX, title="Receipt number")


class AskForm(Act):
    """The gateway is asked. `invoice_id` is needed for a payment that is no case: it becomes one."""

    invoice_id: str | None = Field(None, max_length=TEXT_LENGTH_MAX)


class GiveBackForm(Act):
    """A refund is asked for: `amount` as people write it or `amount_minor`, or else all that is left.

    Invoice and currency are those of the case, if there is one.
    """

    reason: Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH_MAX, json_schema_extra={"missing": "Say why."})]
    refund_id: UUID | None = None
    amount: str | None = Field(None, max_length=40, title="Amount")
    amount_minor: int | None = Field(None, ge=1, le=AMOUNT_MINOR_MAX)
    invoice_id: str | None = Field(None, max_length=TEXT_LENGTH_MAX)
    currency: str | None = Field(None, max_length=3)


class ReopenForm(Act):
    """A decision is taken back, on the version that its page showed."""

    version: int = Field(ge=1, le=2**31 - 1)
    reason: Annotated[str, Field(min_length=1, max_length=TEXT_LENGTH_MAX, json_schema_extra={"missing": "Say why."})]
    evidence: str | None = Field(None, max_length=EVIDENCE_LENGTH_MAX)


class SawForm(Act):
    """What the second person saw, and the proposal that the page showed."""

    proposal: UUID
    saw: Saw


class AnswerForm(SawForm):
    """The same from the page, whose two buttons stand in one form."""

    answer: Literal["agree", "refuse"]


class WithdrawForm(Act):
    """A proposal is taken back by who made it: this one, or the one that is open."""

    proposal: UUID | None = None


class CaseNoteForm(Act):
    """A note on a case."""

    note: Note


class TakeNoteForm(CaseNoteForm):
    """What was learned about a contradiction, and the version at which the gateway said what the page showed."""

    version: int = Field(ge=1, le=2**31 - 1)


class Checked(Done):
    """A decision that was checked, and not sent yet. It is kept a day, with the results of forms."""

    draft: dict[str, Any]


# -- pages -----------------------------------------------------------------------------------------------------------------------------


@room.count("cases")
async def open_cases(desk: Desk) -> Count | None:
    """How many cases are open. It is urgent if one of them waits for a person."""
    async with desk.read() as connection:
        number, waits = await case_store.count_open(connection)
    return Count(number, "act" if waits else "work", "open")


@room.page("/cases", "cases.html")
async def cases(desk: Desk, viewer: Actor, show: CaseList = "open", after: str = "") -> CasesView:
    """A list of cases, the longest wait first."""
    key = _key(after)
    async with desk.read() as connection:
        found = await case_store.cases_of(connection, show, after=key, who=viewer.name, at_most=LISTED + 1)
        counts = await case_store.counts_of_cases(connection, viewer.name)
        sums = await case_store.open_sums(connection)
        seen = await case_store.latest_change(connection) or desk.clock()
    page = found[:LISTED]
    return CasesView(
        show=show,
        rows=[_row(one, desk.clock()) for one in page],
        tabs=[CaseTab(show=name, text=text, cases=counts[name]) for name, text in SHOWN],
        sums=[
            CurrencySum(currency=one.currency, amount_minor=one.amount_minor, cases=one.cases, unknown=one.unknown)
            for one in sums
        ],
        next=_key_text(page[-1]) if len(found) > LISTED else None,
        live=urlencode({"show": show, "seen": seen.isoformat(), "who": viewer.name}),
    )


@room.region("cases", "_cases_news.html")
async def cases_news(key: str, desk: Desk, viewer: Actor) -> CasesNewsView | None:  # noqa: ARG001 - who looks is in the key
    """What came to a list since it began. The key says which list, of whom, and when it began."""
    sent = dict(parse_qsl(key))
    show = next((name for name, _ in SHOWN if name == sent.get("show")), None)
    try:
        seen = read_moment(sent.get("seen", ""))
    except ValueError:
        return None
    if show is None or NUL in sent.get("who", ""):
        return None
    async with desk.read() as connection:
        came = await case_store.came_to(connection, show, since=seen, who=sent.get("who", ""), at_most=NEWS_MAX)
    return CasesNewsView(show=show, came=came)


COLUMNS = (
    "payment_id",
    "invoice_id",
    "status",
    "version",
    "reason",
    "amount_minor",
    "currency",
    "gateway_id",
    "since",
    "claimed_by",
    "decided_by",
)


@room.page("/cases/download", "cases.html")
async def download(desk: Desk, viewer: Actor, show: CaseList = "open") -> Response:
    """A list of cases as CSV, the longest wait first."""
    headers = {"content-disposition": f'attachment; filename="remit-cases-{show}-{desk.clock():%Y-%m-%d}.csv"'}
    return StreamingResponse(_as_csv(desk, viewer, show), media_type="text/csv; charset=utf-8", headers=headers)


async def _as_csv(desk: Desk, viewer: Actor, show: CaseList) -> AsyncIterator[str]:
    yield csv_lines([COLUMNS])
    key: CaseKey | None = None
    while True:
        async with desk.read() as connection:
            found = await case_store.cases_of(connection, show, after=key, who=viewer.name, at_most=DOWNLOADED_AT_ONCE)
        if not found:
            return
        yield csv_lines([[cell(value) for value in _cells(one)] for one in found])
        key = CaseKey(found[-1].since, found[-1].kept.case.payment_id)


def _cells(listed: ListedCase) -> list[object]:
    case = listed.kept.case
    more = {
        "payment_id": str(case.payment_id),
        "since": listed.since.isoformat(),
        "claimed_by": listed.kept.claimed_by,
    }
    return [more[name] if name in more else getattr(case, name) for name in COLUMNS]


@room.page("/cases/{payment_id}", "case.html")
async def case(payment_id: UUID, desk: Desk, viewer: Actor, draft: UUID | None = None) -> CaseView:
    """All that is known of a case, every call to the gateway, what people did, and what can be done."""
    async with desk.read() as connection:
        looked = await _look(connection, payment_id)
        typed = await _draft(connection, draft, viewer) if draft is not None else {}
        told = await told_store.load_told(connection, looked.kept.case.invoice_id, desk.clock())
    fields = _case_fields(looked, told, viewer, desk)
    return CaseView(**fields, **_story_fields(told), draft=typed, draft_id=draft)


@room.page("/cases/{payment_id}/check", "check.html", api=False)
async def check_page(payment_id: UUID, desk: Desk, viewer: Actor, done: DraftId) -> CheckView:
    """What is about to be sent, and what happens then."""
    async with desk.read() as connection:
        looked = await _look(connection, payment_id)
        draft = await _draft(connection, done, viewer)
    if not draft:
        raise Refused("unknown", "What you wrote is not kept any more: open the case and write it again.", 404)
    kept, wanted = looked.kept, DecideForm.model_validate({"once": done, **draft})
    choice = case_words.choice_of(wanted.resolution, kept.case)
    needs = looked.limits.need_second(stakes_of(kept.case))
    others = _others(looked.resolvers, viewer.name)
    return CheckView(
        payment_id=payment_id,
        invoice_id=kept.case.invoice_id,
        amount_minor=kept.case.amount_minor,
        currency=kept.case.currency,
        draft_id=done,
        says=choice.says,
        words=choice.agrees,
        needs_second=needs,
        others=others,
        steps=_what_follows(choice, others, wanted.version, needs=needs),
        **wanted.model_dump(exclude={"once"}),
    )


@room.region("case", "_case_state.html")
async def case_state(key: str, desk: Desk, viewer: Actor) -> CaseStateView | None:  # noqa: ARG001 - everybody sees the same
    """How a case stands now, and how far its decision has come. None if there is no such case. The key has the stamp of the page."""
    id_, _, stamp = key.partition(".")
    async with desk.read() as connection:
        kept = await _kept(connection, id_)
        if kept is None:
            return None
        fields = _state_fields(kept, await _taken(connection, kept.case), desk.clock())
    return CaseStateView(**fields, changed=bool(stamp) and stamp != fields["stamp"])


@room.region("case-calls", "_case_call_rows.html")
async def case_calls(key: str, desk: Desk, viewer: Actor) -> CaseCallsView | None:  # noqa: ARG001 - everybody sees the same
    """Every call to the gateway by now. The key says how many the page shows."""
    id_, _, shown = key.partition(".")
    async with desk.read() as connection:
        kept = await _kept(connection, id_)
    if kept is None or not shown.isdecimal():
        return None
    came = max(len(kept.case.attempts) - int(shown[:9]), 0)
    return CaseCallsView(payment_id=kept.case.payment_id, calls=_calls(kept.case), came=came)


async def _kept(connection: Connection, id_: str) -> KeptCase | None:
    payment_id = read_uuid(id_)
    return None if payment_id is None else await store.find_case(connection, payment_id)


# -- acts ------------------------------------------------------------------------------------------------------------------------------


@room.act("/cases/{payment_id}/ask", needs=Role.RESOLVER)
async def ask(payment_id: UUID, form: AskForm, desk: Desk, actor: Actor) -> Done:
    """Have the gateway asked now."""
    result = await payments.ask(desk.database, payment_id, who=actor, invoice_id=form.invoice_id, clock=desk.clock)
    return acted.done(result, _at(payment_id, "calls"), text="The gateway is asked; what it answers shows here.")


@room.act("/cases/{payment_id}/check", needs=Role.RESOLVER, page="/cases/{payment_id}", api=False)
async def check(payment_id: UUID, form: DecideForm, desk: Desk) -> Checked:
    """Look over a decision before it is sent. Nothing is sent, and nothing is in the journal yet."""
    _refuse_unfit(evidence=form.evidence, reason=form.reason, receipt_number=form.receipt_number)
    async with desk.read() as connection:
        kept = await store.find_case(connection, payment_id)
    if kept is None:
        raise _no_case(payment_id)
    wanted = domain.Resolve(form.resolution, form.version, form.receipt_number)
    if (refused := payments.refusal_of(kept, wanted, desk.clock())) is not None:
        raise acted.refused(refused, is_noted=False)
    return Checked(
        text="Nothing is sent yet: check it.",
        location=f"/cases/{payment_id}/check",
        draft=form.model_dump(mode="json", exclude={"once"}),
    )


@room.act("/cases/{payment_id}/decide", needs=Role.RESOLVER, page="/cases/{payment_id}")
async def decide(payment_id: UUID, form: DecideForm, desk: Desk, actor: Actor) -> Done:
    """Decide about a case. Above the limit it becomes a proposal, and a second person must agree."""
    result = await payments.resolve(
        desk.database,
        payment_id,
        resolution=form.resolution,
        expected_version=form.version,
        evidence=form.evidence,
        reason=form.reason,
        who=actor,
        receipt_number=form.receipt_number,
        clock=desk.clock,
    )
    return acted.done(result, _at(payment_id))


@room.act("/cases/{payment_id}/reopen", needs=Role.RESOLVER)
async def reopen(payment_id: UUID, form: ReopenForm, desk: Desk, actor: Actor) -> Done:
    """Take a wrong decision back. Above the limit it becomes a proposal, and a second person must agree."""
    result = await payments.resolve(
        desk.database,
        payment_id,
        resolution="reopen",
        expected_version=form.version,
        evidence=form.evidence or form.reason,
        reason=form.reason,
        who=actor,
        clock=desk.clock,
    )
    return acted.done(result, _at(payment_id))


@room.act("/cases/{payment_id}/refund", needs=Role.RESOLVER)
async def refund(payment_id: UUID, form: GiveBackForm, desk: Desk, actor: Actor) -> Done:
    """Ask for a refund. Above the limit it becomes a proposal, and a second person must agree."""
    result = await payments.refund(
        desk.database,
        payment_id,
        refund_id=form.refund_id or form.once,
        reason=form.reason,
        who=actor,
        amount_minor=await _amount_minor(desk, payment_id, form),
        currency=form.currency,
        invoice_id=form.invoice_id,
        clock=desk.clock,
    )
    return acted.done(result, _at(payment_id))


async def _amount_minor(desk: Desk, payment_id: UUID, form: GiveBackForm) -> int | None:
    """The amount in the minor unit of its currency. None: all that is left. Raises `Mistaken`."""
    if form.amount is None:
        return form.amount_minor
    async with desk.read() as connection:
        kept = await store.find_case(connection, payment_id)
    currency = form.currency or (kept.case.currency if kept is not None else None)
    amount_minor = minor_units(form.amount, currency) if currency is not None else None
    if not amount_minor or form.amount_minor not in {None, amount_minor}:
        raise Mistaken(
            {"amount": "Amount: such as 310.00, with the decimals of its currency, or nothing for all that is left."}
        )
    return amount_minor


@room.act("/cases/{payment_id}/answer", needs=Role.RESOLVER, api=False)
async def answer(payment_id: UUID, form: AnswerForm, desk: Desk, actor: Actor) -> Done:
    """Agree with a proposal or not, as the button of the form says."""
    done: Done = await (agree if form.answer == "agree" else refuse)(payment_id, form, desk, actor)
    return done


@room.act("/cases/{payment_id}/agree", needs=Role.RESOLVER)
async def agree(payment_id: UUID, form: SawForm, desk: Desk, actor: Actor) -> Done:
    """Agree with a proposal as its second person: it goes out in both names."""
    _refuse_unfit(saw=form.saw)
    result = await proposals.agree(
        desk.database, payment_id, proposal_id=form.proposal, saw=form.saw, who=actor, clock=desk.clock
    )
    return acted.done(result, _at(payment_id))


@room.act("/cases/{payment_id}/refuse", needs=Role.RESOLVER)
async def refuse(payment_id: UUID, form: SawForm, desk: Desk, actor: Actor) -> Done:
    """Do not agree with a proposal. It ends, and nothing is sent."""
    _refuse_unfit(saw=form.saw)
    result = await proposals.disagree(
        desk.database, payment_id, proposal_id=form.proposal, saw=form.saw, who=actor, clock=desk.clock
    )
    return acted.done(result, _at(payment_id))


@room.act("/cases/{payment_id}/withdraw", needs=Role.RESOLVER)
async def withdraw(payment_id: UUID, form: WithdrawForm, desk: Desk, actor: Actor) -> Done:
    """Take one's own proposal back."""
    result = await proposals.withdraw(desk.database, payment_id, proposal_id=form.proposal, who=actor, clock=desk.clock)
    return acted.done(result, _at(payment_id))


@room.act("/cases/{payment_id}/claim", needs=Role.RESOLVER)
async def claim(payment_id: UUID, desk: Desk, actor: Actor) -> Done:
    """Say that you are on a case."""
    return acted.done(
        await case_actions.claim(desk.database, payment_id, who=actor, clock=desk.clock), _at(payment_id, "on")
    )


@room.act("/cases/{payment_id}/release", needs=Role.RESOLVER)
async def release(payment_id: UUID, desk: Desk, actor: Actor) -> Done:
    """Say that nobody is on a case any more."""
    return acted.done(
        await case_actions.unclaim(desk.database, payment_id, who=actor, clock=desk.clock), _at(payment_id, "on")
    )


@room.act("/cases/{payment_id}/notes", needs=Role.RESOLVER)
async def keep_note(payment_id: UUID, form: CaseNoteForm, desk: Desk, actor: Actor) -> Done:
    """Keep a note on a case."""
    _refuse_unfit(note=form.note)
    result = await case_actions.note(desk.database, payment_id, text=form.note, who=actor, clock=desk.clock)
    return acted.done(result, _at(payment_id, "notes"))


@room.act("/cases/{payment_id}/noted", needs=Role.RESOLVER)
async def noted(payment_id: UUID, form: TakeNoteForm, desk: Desk, actor: Actor) -> Done:
    """Take note of what contradicts a decision."""
    _refuse_unfit(note=form.note)
    result = await case_actions.take_note(
        desk.database, payment_id, text=form.note, seen=form.version, who=actor, clock=desk.clock
    )
    return acted.done(result, _at(payment_id))


def _at(payment_id: UUID, part: str = "") -> str:
    return f"/cases/{payment_id}#{part}" if part else f"/cases/{payment_id}"


def _refuse_unfit(**texts: str | None) -> None:
    """Raise `Mistaken` with a sentence at each text that must not be kept."""
    found = {name: unfit(**{name: text}) for name, text in texts.items()}
    unfit_ones = {name: one for name, one in found.items() if one is not None}
    if unfit_ones:
        codes = [str(one.refusal) for one in unfit_ones.values()]
        raise Mistaken({name: acted.sentence(one.text) for name, one in unfit_ones.items()}, codes[0])


# -- from the database to the page -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Looked:
    """What is read of a case, as of one moment."""

    kept: KeptCase
    journal: Sequence[JournalEntry]
    limits: SecondPersonLimits
    resolvers: Sequence[str]
    taken: str | None


def _no_case(payment_id: UUID) -> Refused:
    story = SeeAlso(text="Its story", address=f"/payments/{payment_id}")
    return Refused("unknown", "There is no case of this payment.", 404, see=story)


async def _look(connection: Connection, payment_id: UUID) -> _Looked:
    kept = await store.find_case(connection, payment_id)
    if kept is None:
        raise _no_case(payment_id)
    return _Looked(
        kept,
        await store.entries_about(connection, payment_id),
        SecondPersonLimits(await store.second_person_limits(connection)),
        await people_store.active_names(connection, Role.RESOLVER),
        await _taken(connection, kept.case),
    )


async def _draft(connection: Connection, draft_id: UUID, viewer: Actor) -> dict[str, Any]:
    """What `viewer` wrote and checked, if it is still kept."""
    known = await people_store.request_of(connection, draft_id)
    if known is None or known.who != viewer.name:
        return {}
    draft = known.result.get("draft")
    return dict(draft) if isinstance(draft, dict) else {}


def _row(listed: ListedCase, now: datetime) -> CaseRow:
    case = listed.kept.case
    return CaseRow(
        payment_id=case.payment_id,
        invoice_id=case.invoice_id,
        amount_minor=case.amount_minor,
        currency=case.currency,
        state=_state(listed.kept, now),
        since=listed.since,
        claimed_by=listed.kept.claimed_by,
    )


def _key(text: str) -> CaseKey | None:
    """The key in an address. One that cannot be read begins the list."""
    found = read_key(text)
    return None if found is None else CaseKey(*found)


def _key_text(listed: ListedCase) -> str:
    return key_text(listed.since, listed.kept.case.payment_id)


def _state(kept: KeptCase, now: datetime) -> CaseBadge:
    words = case_words.state_of(kept, now)
    return CaseBadge(status=kept.case.status.value, kind=words.kind, text=words.text, sub=words.sub)


_TAKEN: Mapping[str, str] = {
    "InvoicePaid": "is paid",
    "InvoicePaymentFailed": "is open again",
    "InvoiceRefunded": "has the refund in its books",
    "InvoiceRefundFailed": "has the refund as failed in its books",
}


async def _taken(connection: Connection, case: Case) -> str | None:
    """What its invoice made of the last decision that had an effect, in words."""
    if case.decision is None or case.decision_on_its_way is not None:
        return None
    took = await told_store.invoice_took(connection, case.invoice_id, case.payment_id, case.decision.at)
    return None if took is None else f"{case.invoice_id} {_TAKEN[took]}; its sender is told"


def _state_fields(kept: KeptCase, taken: str | None, now: datetime) -> dict[str, Any]:
    case, state = kept.case, _state(kept, now)
    refused = [
        f"{one.decided_by}: {case_words.RESOLUTION_WORDS.get(one.resolution, one.resolution)}. Refused: it stood at version {one.version}, "
        f"{one.state.replace('_', ' ')}"
        for one in case.refusals
    ]
    return {
        "payment_id": case.payment_id,
        "invoice_id": case.invoice_id,
        "version": case.version,
        "state": state,
        "steps": _steps(kept, state, taken, now),
        "refused": refused,
        "stamp": _stamp(kept, now),
    }


def _stamp(kept: KeptCase, now: datetime) -> str:
    case, proposal, coming = kept.case, kept.proposal, kept.case.decision_on_its_way
    decided = (coming and coming.id, domain.is_decided(case, now))
    seen = (case.version, proposal and proposal.id, decided, case.is_contradicted, kept.claimed_by)
    return blake2s(repr(seen).encode(), digest_size=6).hexdigest()


def _steps(kept: KeptCase, state: CaseBadge, taken: str | None, now: datetime) -> list[DecisionStep]:
    """How far the last decision has come. Nothing if nobody decided."""
    case, sent = kept.case, kept.case.decision
    if sent is None:
        return []
    decided = f"{sent.by} decided: {case_words.RESOLUTION_WORDS[sent.resolution]}"
    steps = [DecisionStep(kind="done", text=decided)]
    if any(one.decision_id == sent.id for one in case.refusals):
        return [*steps, DecisionStep(kind="look", text="Refused by the gateway's service: it came too late")]
    if case.decision_on_its_way is None:
        return [
            *steps,
            DecisionStep(kind="done", text="Taken by the gateway's service"),
            DecisionStep(kind="done", text=f"The payment stands at version {case.version}: {state.text.lower()}"),
            *([DecisionStep(kind="done", text=taken)] if taken is not None else []),
        ]
    now_at = (
        "It waits for the staff service, which sends it"
        if kept.decision_waits
        else "On its way to the gateway's service"
    )
    if domain.is_decided(case, now):
        return [*steps, DecisionStep(kind="work", text=now_at), DecisionStep(kind="quiet", text="The payment moves on")]
    waits = f"{now_at}, for more than {domain.DECIDE_ANEW_MINUTES} minutes"
    anew = "It is said again by itself, and may be decided anew: of two decisions one takes effect"
    return [*steps, DecisionStep(kind="look", text=waits), DecisionStep(kind="quiet", text=anew)]


def _story_fields(told: InvoiceTold) -> dict[str, Any]:
    """The end of the invoice's story, and what to tell the customer. Nothing if nothing was heard of the invoice."""
    if told.is_empty:
        return {"story": [], "customer": None, "customer_id": None}
    steps = steps_of(told)[-STORY_SHOWN:]
    return {
        "story": [StoryLine(at=step.at, kind=step.kind, who=step.who, title=step.title) for step in steps],
        "customer": standing_of(told).customer,
        "customer_id": told.invoice.customer_id if told.invoice is not None else None,
    }


def _case_fields(looked: _Looked, told: InvoiceTold, viewer: Actor, desk: Desk) -> dict[str, Any]:
    kept, case = looked.kept, looked.kept.case
    stakes = stakes_of(case)
    fitting = () if domain.is_decided(case, desk.clock()) else domain.decisions_for(case)
    did = [_did(entry) for entry in looked.journal]
    question = case_words.question_of(case)
    return _state_fields(kept, looked.taken, desk.clock()) | {
        "title": f"{case.invoice_id}: {question}",
        "question": question,
        "known": case_words.known_words(case),
        "charged_at": _charged_at(case),
        "amount_minor": case.amount_minor,
        "currency": case.currency,
        "since": kept.contradicted_at if case.is_contradicted and kept.contradicted_at else kept.opened_at,
        "gateway_id": case.gateway_id,
        "gateway_url": _gateway_url(desk.settings.gateway_dashboard_url, case.gateway_id),
        "gateway_side": _gateway_side(case),
        "settled_as": case.settled_as and acted.on_screen(case.settled_as.replace("_", " ")),
        "decided_by": case.decided_by,
        "is_open": case.is_open,
        "needs_second": looked.limits.need_second(stakes),
        "limit": _limit(looked.limits, stakes),
        "choices": [_choice(name, case) for name in case_words.ORDER if name in fitting],
        "can_reopen": "reopen" in fitting,
        "can_give_back": case.status is CaseStatus.CAPTURED and case.currency is not None,
        "calls": _calls(case),
        "refunds": [_refund(one) for one in case.refunds],
        "claimed_by": kept.claimed_by,
        "claimed_at": kept.claimed_at,
        "proposal": _proposal_view(kept.proposal, looked, viewer) if kept.proposal else None,
        "contradiction": _contradiction(looked, told),
        "did": did,
        "notes": [one for one in did if one.action in {"note", "take_note"}],
    }


def _limit(limits: SecondPersonLimits, stakes: Sequence[Stake]) -> str:
    return why_second(limits, stakes) if limits.need_second(stakes) else ""


def _choice(resolution: str, case: Case) -> DecisionChoice:
    words = case_words.choice_of(resolution, case)
    return DecisionChoice(value=words.value, says=words.says, follows=words.follows)


def _calls(case: Case) -> list[list[GatewayCallView]]:
    return [[_call(one) for one in group] for group in case_words.folded(case.attempts)]


def _call(attempt: domain.CaseAttempt) -> GatewayCallView:
    return GatewayCallView(
        at=attempt.at,
        step=case_words.STEP_WORDS.get(attempt.step, attempt.step),
        code=attempt.step,
        answer=ANSWER_WORDS.get(attempt.answer, attempt.answer.replace("_", " ")),
        evidence=attempt.evidence,
    )


def _refund(refund: Any) -> CaseRefundView:
    asked_by = f"asked by {refund.requested_by}" if refund.requested_by else None
    told = ", ".join(text for text in (refund.code, asked_by, refund.reason) if text)
    return CaseRefundView(
        refund_id=refund.refund_id,
        amount_minor=refund.amount_minor,
        currency=refund.currency,
        status=acted.on_screen(refund.status.replace("_", " ")),
        told=told,
    )


def _gateway_url(pattern: str, gateway_id: str | None) -> str | None:
    return pattern.replace("{id}", quote(gateway_id, safe="")) if pattern and gateway_id else None


def _gateway_side(case: Case) -> str | None:
    side = case.gateway
    if side is None:
        return None
    return f"{side.answer.replace('_', ' ')}{', disputed' if side.disputed else ''}"


def _others(resolvers: Sequence[str], name: str) -> list[str]:
    return [one for one in resolvers if one.casefold() != name.casefold()]


def _proposal_view(proposal: Proposal, looked: _Looked, viewer: Actor) -> ProposalView:
    case = looked.kept.case
    words = case_words.choice_of(proposal.resolution, case)
    refusal = refusal_of_answer(proposal, case.version, viewer)
    others = _others(looked.resolvers, proposal.by)
    receipt = proposal.asks.get("receipt_number")
    return ProposalView(
        id=proposal.id,
        resolution=proposal.resolution,
        words=words.agrees,
        says=words.says[:1].lower() + words.says[1:],
        follows=words.follows,
        by=proposal.by,
        at=proposal.at,
        version=proposal.version,
        evidence=proposal.evidence,
        reason=str(proposal.asks.get("reason") or ""),
        receipt_number=None if receipt is None else str(receipt),
        is_own=refusal is ProposalRefusal.SAME_PERSON,
        why_not=None if refusal is None else _WHY_NOT[refusal].format(others=_names(others)),
        others=others,
    )


_WHY_NOT = {
    ProposalRefusal.SAME_PERSON: "You proposed it. {others} can agree.",
    ProposalRefusal.NOT_ALLOWED: "A person with the role of a resolver agrees or not: {others}.",
    ProposalRefusal.PROPOSAL_OUTDATED: "The payment moved on meanwhile: the proposal no longer counts.",
}


def _names(names: Sequence[str]) -> str:
    return " or ".join(names) if names else "nobody else has the role of a resolver, so nobody"


def _what_follows(choice: case_words.ChoiceInWords, others: Sequence[str], version: int, *, needs: bool) -> list[str]:
    sent = "the decision goes to the gateway's service within a second."
    if not needs:
        return [sent[:1].upper() + sent[1:], choice.follows]
    return [
        f"Nothing yet: {_names(others)} must agree, on version {version}.",
        f"Once somebody agrees, {sent}",
        choice.follows,
    ]


def _did(entry: JournalEntry) -> DeedView:
    kind, text = case_words.did(entry)
    details = entry.details
    words = details.get("saw") or details.get("note") or details.get("evidence") or details.get("reason")
    return DeedView(
        entry=entry.id,
        at=entry.at,
        who=entry.who,
        action=entry.action,
        kind=kind,
        text=text,
        words=None if words is None else str(words),
    )


def _charged_at(case: Case) -> datetime | None:
    return next((one.at for one in case.attempts if one.step == "execute"), None)


def _contradiction(looked: _Looked, told: InvoiceTold) -> ContradictionView | None:
    kept, case = looked.kept, looked.kept.case
    version, decided = case.contradicted_version, case.decided
    if version is None or decided is None:
        return None
    entry = _entry_of(decided, case, looked.journal)
    is_charged = decided.status is CaseStatus.NOT_CHARGED
    receipts = [one.receipt_number for one in told.payments if one.payment_id == case.payment_id]
    refund = next((one for one in reversed(told.messages) if _is_given_back(one, case.payment_id)), None)
    return ContradictionView(
        decided=acted.on_screen(decided.status.replace("_", " ")),
        decided_by=decided.by,
        decided_version=decided.version,
        decided_at=entry.at if entry else None,
        evidence=entry.details.get("evidence") if entry else None,
        found_at=kept.contradicted_at,
        found_version=version,
        found="charged" if is_charged else "no such money",
        receipt_number=receipts[0] if receipts and is_charged else None,
        charged_at=_charged_at(case) if is_charged else None,
        refund_id=refund.facts.get("refund_id") if refund and is_charged else None,
        given_back_at=refund.at if refund and is_charged else None,
        is_given_back=case.status is CaseStatus.REFUNDED,
        is_noted=not case.is_contradicted,
    )


def _is_given_back(message: MessageHeard, payment_id: UUID) -> bool:
    return message.payment_id == payment_id and message.name == "PaymentRefunded"


_OUTCOMES: Mapping[str, CaseStatus] = {
    "captured": CaseStatus.CAPTURED,
    "not_charged": CaseStatus.NOT_CHARGED,
    "refunded": CaseStatus.REFUNDED,
    "refund_again": CaseStatus.REFUNDED,
    "give_back": CaseStatus.REFUNDED,
    "not_refunded": CaseStatus.NOT_REFUNDED,
}


def _entry_of(decided: LastDecision, case: Case, journal: Sequence[JournalEntry]) -> JournalEntry | None:
    """The entry of the decision that took effect. Who decided later did so in vain: it was refused, or says something else."""
    refused = {one.decision_id for one in case.refusals}
    fitting = (
        entry
        for entry in reversed(journal)
        if entry.action == "resolve"
        and entry.who == decided.by
        and _OUTCOMES.get(str(entry.details.get("resolution"))) is decided.status
        and derived_id(entry.id, 0) not in refused
    )
    return next(fitting, None)
