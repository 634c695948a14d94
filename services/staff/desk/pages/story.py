"""The story of an invoice: how it stands, what happens next, what to tell the customer, what happened, and what caused what."""

from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from services.staff import told_store
from services.staff.desk.desk import Desk
from services.staff.desk.frame import zone_of
from services.staff.desk.once import NUL
from services.staff.desk.problems import Refused
from services.staff.desk.routing import Room
from services.staff.desk.said import SaidPart, said
from services.staff.desk.sessions import Visitor
from services.staff.heard import PaymentHeard
from services.staff.people import Actor
from services.staff.picture import Picture, picture_of, span
from services.staff.standing import standing_of
from services.staff.story import PARTIES, InvoiceTold, StoryStep, steps_of
from services.staff.story_store import MESSAGES_KEPT_DAYS
from shared.contracts.catalogue import short_name

room = Room(__name__)

Kind = Literal["", "act", "look", "work", "hand", "done", "quiet"]
STATUSES: dict[str, tuple[Kind, str]] = {
    "pending": ("work", "Under way"),
    "in_doubt": ("look", "In doubt"),
    "needs_decision": ("act", "Needs a decision"),
    "captured": ("done", "Charged"),
    "declined": ("quiet", "Declined by the bank"),
    "not_charged": ("quiet", "Not charged"),
    "refunded": ("done", "Given back"),
    "not_refunded": ("quiet", "Kept"),
    "refund_in_doubt": ("look", "Refund unclear"),
    "refund_failed": ("act", "Refund refused"),
}
"""How a payment stands, as a badge."""


class StepView(BaseModel):
    """A step of the story. `cause` and `against` are numbers of other steps; `delay_s` is the time since them, in seconds."""

    number: int
    at: datetime
    party: str
    who: str
    title: str
    text: list[SaidPart]
    kind: Kind
    cause: int | None
    against: int | None
    delay_s: float | None
    delay: str
    waited: str | None
    """The wait before it, and how often the gateway was asked in it."""


class PaymentView(BaseModel):
    """A payment of the invoice, with the case that it is, if it is one."""

    payment_id: UUID
    kind: Kind
    badge: str
    status: str
    amount_minor: int | None
    currency: str | None
    receipt_number: str | None
    reference_code: str | None
    gateway_id: str | None
    requested_at: datetime
    settled_at: datetime | None
    case: str | None


class CommandView(BaseModel):
    """A command of upstream about the invoice, and its answer."""

    command_id: UUID
    type: str
    answer: str
    reason: str | None
    at: datetime


class NodeView(BaseModel):
    """A box of the picture."""

    x: float
    y: float
    left: float
    top: float
    lines: list[str]
    delay: str
    kind: Kind
    at: datetime


class PictureView(BaseModel):
    """The picture of causes, in units of the drawing."""

    width: int
    height: int
    lanes: list[tuple[int, str]]
    nodes: list[NodeView]
    edges: list[tuple[str, bool]]
    days: list[tuple[int, datetime]]
    pauses: list[tuple[int, str]]
    left_out: int


class StoryView(BaseModel):
    """The story of an invoice. `kept_since`: messages before it are not kept; absent if all of the story is."""

    invoice_id: str
    state: str
    kind: Kind
    badge: str
    title: str
    next: list[SaidPart]
    customer: str
    customer_id: str | None
    amount_minor: int | None
    currency: str | None
    issued_at: datetime | None
    open_case: UUID | None
    payments: list[PaymentView]
    commands: list[CommandView]
    steps: list[StepView]
    picture: PictureView
    parties: list[str]
    kept_days: int
    kept_since: datetime | None
    hears_messages: bool
    live: str
    found_by: str | None = None


@room.page("/invoices/{invoice_id:path}", "story.html")
async def story(invoice_id: str, desk: Desk, visitor: Visitor, request: Request, by: str | None = None) -> StoryView:
    """How an invoice stands, and everything that happened. `by`: what it was found by."""
    async with desk.read() as connection:
        stamp = await told_store.stamp_of(connection, invoice_id)
        told = await told_store.load_told(connection, invoice_id, desk.clock())
    if told.is_empty:
        raise Refused("unknown", "Nothing was heard of such an invoice.", HTTPStatus.NOT_FOUND)
    zone, _ = zone_of(request, visitor.preferences.zone)
    return view_of(
        told,
        picture_of(steps := steps_of(told), lambda at: at.astimezone(zone).date()),
        steps,
        kept_since=desk.clock() - timedelta(days=MESSAGES_KEPT_DAYS),
        hears_messages=desk.settings.staff_journal == "on",
        live=urlencode({"invoice": invoice_id, "stamp": stamp}),
        found_by=by,
    )


class StoryNewsView(BaseModel):
    """Whether more is known of an invoice than its page shows."""

    invoice_id: str
    changed: bool


@room.region("story", "_story_news.html")
async def story_news(key: str, desk: Desk, viewer: Actor) -> StoryNewsView | None:  # noqa: ARG001 - the same for everybody
    """That a story has gone on since its page was opened. The key says which one, and what was known then."""
    sent = dict(parse_qsl(key))
    invoice_id = sent.get("invoice", "")
    if NUL in invoice_id:
        return None
    async with desk.read() as connection:
        stamp = await told_store.stamp_of(connection, invoice_id)
    return StoryNewsView(invoice_id=invoice_id, changed=stamp != sent.get("stamp"))


@room.page("/payments/{payment_id}", "story.html", api=False)
async def payment(payment_id: UUID, desk: Desk) -> Response:
    """The story of the invoice of a payment."""
    async with desk.read() as connection:
        invoice_id = await told_store.invoice_of_payment(connection, payment_id)
    if invoice_id is None:
        raise Refused("unknown", "Nothing was heard of such a payment.", HTTPStatus.NOT_FOUND)
    return _to_story(invoice_id, f"payment {payment_id}")


@room.page("/commands/{command_id}", "story.html", api=False)
async def command(command_id: UUID, desk: Desk) -> Response:
    """The story of the invoice of a command."""
    async with desk.read() as connection:
        found = await told_store.command_named(connection, command_id)
        invoice_id = found.invoice_id if found is not None else None
        if invoice_id is None:
            invoice_id = await told_store.invoice_of_correlation(connection, str(command_id))
    if invoice_id is None:
        raise Refused("unknown", "Nothing was heard of such a command.", HTTPStatus.NOT_FOUND)
    return _to_story(invoice_id, f"command {command_id}")


def _to_story(invoice_id: str, by: str) -> Response:
    return RedirectResponse(f"/invoices/{quote(invoice_id, safe='')}?{urlencode({'by': by})}", HTTPStatus.SEE_OTHER)


def view_of(
    told: InvoiceTold,
    picture: Picture,
    steps: tuple[StoryStep, ...],
    *,
    kept_since: datetime,
    hears_messages: bool,
    live: str,
    found_by: str | None,
) -> StoryView:
    """The view of a story."""
    standing = standing_of(told)
    invoice = told.invoice
    amount = _amount(told)
    begins = min((payment.requested_at for payment in told.payments), default=None)
    if invoice is not None and invoice.issued_at is not None:
        begins = invoice.issued_at
    is_cut = begins is not None and begins < kept_since
    return StoryView(
        invoice_id=told.invoice_id,
        state=standing.state,
        kind=standing.kind,
        badge=standing.badge,
        title=standing.title,
        next=said(standing.next),
        customer=standing.customer,
        customer_id=invoice.customer_id if invoice is not None else None,
        amount_minor=amount[0],
        currency=amount[1],
        issued_at=invoice.issued_at if invoice is not None else None,
        open_case=next((case.payment_id for case in told.cases if case.is_open), None),
        payments=[_payment(payment, told) for payment in told.payments],
        commands=[
            CommandView(
                command_id=one.command_id,
                type=short_name(one.type),
                answer=one.answer,
                reason=one.reason,
                at=one.at,
            )
            for one in told.commands
        ],
        steps=[_step(step) for step in steps],
        picture=_picture(picture),
        parties=[party for party in PARTIES if any(step.party == party for step in steps)],
        kept_days=MESSAGES_KEPT_DAYS,
        kept_since=kept_since if is_cut else None,
        hears_messages=hears_messages,
        live=live,
        found_by=found_by[:100] if found_by else None,
    )


def _amount(told: InvoiceTold) -> tuple[int | None, str | None]:
    if told.invoice is not None and told.invoice.amount_minor is not None:
        return told.invoice.amount_minor, told.invoice.currency
    known = [payment for payment in told.payments if payment.amount_minor is not None]
    return (known[0].amount_minor, known[0].currency) if known else (None, None)


def _payment(payment: PaymentHeard, told: InvoiceTold) -> PaymentView:
    kind, badge = STATUSES.get(payment.status, ("look", payment.status))
    case = next((one for one in told.cases if one.payment_id == payment.payment_id), None)
    return PaymentView(
        payment_id=payment.payment_id,
        kind=kind,
        badge=badge,
        status=payment.status,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        receipt_number=payment.receipt_number,
        reference_code=payment.reference_code,
        gateway_id=payment.gateway_id,
        requested_at=payment.requested_at,
        settled_at=payment.settled_at,
        case=STATUSES.get(case.status, ("look", case.status))[1] if case is not None else None,
    )


def _step(step: StoryStep) -> StepView:
    return StepView(
        number=step.number,
        at=step.at,
        party=step.party,
        who=step.who,
        title=step.title,
        text=said(step.text),
        kind=step.kind,
        cause=step.cause,
        against=step.against,
        delay_s=None if step.delay is None else step.delay.total_seconds(),
        delay=span(step.delay),
        waited=None if step.pause is None else _waited(step.pause),
    )


def _waited(pause: tuple[timedelta, int]) -> str:
    wait, asked = pause
    return f"{span(wait).removeprefix('+')}: the gateway was asked {asked} time{'s' if asked > 1 else ''}"


def _picture(picture: Picture) -> PictureView:
    return PictureView(
        width=picture.width,
        height=picture.height,
        lanes=list(picture.lanes),
        nodes=[
            NodeView(
                x=node.x,
                y=node.y,
                left=node.left,
                top=node.top,
                lines=list(node.lines),
                delay=node.delay,
                kind=node.kind,
                at=node.at,
            )
            for node in picture.nodes
        ],
        edges=[(edge.path, edge.against) for edge in picture.edges],
        days=list(picture.days),
        pauses=[(y, _waited(pause)) for y, pause in picture.pauses],
        left_out=picture.left_out,
    )
