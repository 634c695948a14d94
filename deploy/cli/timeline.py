"""An invoice's story on a terminal: one line a step, with the number of the step that caused it."""

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.cli.queries import InvoiceStory, TimelineStep
from deploy.cli.tables import ID_LENGTH, WIDE, plain, table
from deploy.cli.words import money
from shared.observability.visible import visible

_STYLES = {"invoice": "cyan", "gateway": "magenta", "saga": "blue", "staff": "yellow"}


def page(story: InvoiceStory, width: int) -> RenderableType:
    """The invoice, its timeline, and notes on what is not shown."""
    notes = [plain(f"Not shown: {what}.", style="yellow") for what in story.unseen]
    return Group(_heading(story), Text(), _table(story, wide=width >= WIDE), *notes)


def _heading(story: InvoiceStory) -> Text:
    invoice = story.invoice
    if invoice is None:
        return plain(f"{story.invoice_id} does not exist; commands about it were answered.")
    amount = money(invoice["amount_minor"], invoice["currency"])
    heading = plain(f"{story.invoice_id}: {invoice['status']}", style="bold")
    heading.append(visible(f", {amount}, customer {invoice['customer_id']}"), style="not bold")
    for name in ("payment_id", "receipt_number"):
        if invoice[name] is not None:
            heading.append("\n" + visible(f"{name.replace('_', ' ')} {invoice[name]}"), style="not bold dim")
    for refund in invoice["refunds"] or ():
        given_back = money(refund["refunded_minor"] or refund["asked_minor"], invoice["currency"]) or "what is left"
        said = f"refund {refund['refund_id']}: {refund['status']}, {given_back}"
        heading.append("\n" + visible(said), style="not bold dim")
    return heading


def _table(story: InvoiceStory, *, wide: bool) -> Table:
    steps = table()
    steps.add_column("#", justify="right", no_wrap=True, style="dim")
    steps.add_column(f"{story.steps[0].at:%F} UTC" if story.steps else "", no_wrap=True)
    steps.add_column("", no_wrap=True)
    steps.add_column("what happened", overflow="fold", ratio=1)
    steps.add_column("by #", justify="right", no_wrap=True, style="dim")
    if wide:
        steps.add_column("message", no_wrap=True, style="dim")
    times = _times(story.steps)
    for number, (step, cause, time) in enumerate(zip(story.steps, story.causes(), times, strict=True), start=1):
        what = plain(step.what)
        if step.detail:
            what.append("\n" + visible(step.detail, lines=True), style="dim")
        cells: list[RenderableType] = [
            str(number),
            time,
            Text(step.where, style=_STYLES[step.where]),
            what,
            str(cause or ""),
        ]
        steps.add_row(*cells, *([_message(step)] if wide else []))
    return steps


def _times(steps: tuple[TimelineStep, ...]) -> Iterator[str]:
    """The time of each step in milliseconds, with the date where a new day begins."""
    day: datetime | None = steps[0].at if steps else None
    for step in steps:
        new_day = day is not None and step.at.date() != day.date()
        day = step.at
        clock = f"{step.at:%T}.{step.at.microsecond // 1000:03d}"
        yield f"{step.at:%F}\n{clock}" if new_day else clock


def _message(step: TimelineStep) -> str:
    """The step's id, if the step is a message."""
    return step.id if len(step.id) == ID_LENGTH else ""
