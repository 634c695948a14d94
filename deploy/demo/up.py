"""`make up`: runs everything until Ctrl-C, and prints what to type next."""

import asyncio
import fcntl
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from rich.text import Text

from deploy.cli.history import HISTORY
from deploy.cli.output import console as make_console
from deploy.demo import waiting
from deploy.demo.fit import show
from deploy.local.desk import DESK, LocalDesk, start_desk
from deploy.local.door import DOOR, LocalDoor, start_door
from deploy.local.errors import StackError
from deploy.local.fleet import ROOT
from deploy.local.rabbitmq import PrivateRabbit
from deploy.local.stack import SENDERS_VARIABLE, SERVICES, UPSTREAM
from deploy.local.system import SANDBOX_KEY, System, open_system
from shared.contracts.invoice import IssueInvoice
from shared.ids import new_id
from shared.private_files import write_private

HOME: Final = ROOT / ".remit"
ENVIRONMENT_FILE: Final = HOME / "env"
LOCK_FILE: Final = HOME / "up.lock"

SENDER_URL: Final = "REMIT_URL"
"""The variable by which the examples for senders (shared/kit/examples) find the broker, as a system upstream does."""
STEPS: Final = 3
"""Invoices of the steps. The last one is issued by a good command that waits as a dead letter when everything has started."""
INVOICES: Final = STEPS + waiting.INVOICES
"""The others wait for a person at the desk."""
SOURCE: Final = "/remit/up"

ASK: Final = 'curl -sH "Authorization: Bearer $REMIT_OPERATOR_DOOR_TOKEN" "$REMIT_DOOR_URL/invoices/{invoice}?wait=30"'

console = make_console()


def main() -> int:
    """Run until interrupted; returns the exit status."""
    # Not the handler of SIGINT: a shell lets its background processes ignore SIGINT, and then Python sets no handler for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            only_one_here(LOCK_FILE),
            open_system(say=lambda line: show(console, Text(line, "dim")), keep=kept_as(), **senders()) as system,
        ):
            try:
                number = next_number(system)
                ports = start(system, number)
                desk = start_desk(system, health_port=ports[DESK])
                door = start_door(system, health_port=ports[DOOR])
                asyncio.run(leave_work(system, number))
                write_environment(system, ENVIRONMENT_FILE, door)
                show(console, page(system, ports, desk, ENVIRONMENT_FILE, number))
                while True:
                    signal.pause()
            finally:
                ENVIRONMENT_FILE.unlink(missing_ok=True)
    except StackError as error:
        show(console, Text(str(error), "red"))
        return 1
    except KeyboardInterrupt:
        console.print("stopped; nothing was left running" + ("; the data are kept" if kept_as() else ""))
        return 0


def kept_as() -> str | None:
    """The name under which this folder's data are kept; None: they are not (KEEP=1 keeps them)."""
    return sha256(str(ROOT).encode()).hexdigest()[:8] if os.environ.get("KEEP") == "1" else None


def senders() -> dict[str, str]:
    """Whether senders have names (SENDERS=trusted: they need none). By default they do, since each has a user of its own here."""
    return {SENDERS_VARIABLE: given} if (given := os.environ.get(SENDERS_VARIABLE)) else {}


def next_number(system: System) -> int:
    """The number of the first invoice of the steps: invoices of earlier runs are kept."""
    counter = system.folder / "next-invoice"
    number = int(counter.read_text()) if counter.exists() else 1
    counter.write_text(str(number + INVOICES))
    return number


@contextmanager
def only_one_here(lock_file: Path) -> Iterator[None]:
    """Hold this folder's lock: a second one would overwrite the variables of the first. Raises StackError if it is taken."""
    lock_file.parent.mkdir(exist_ok=True)
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(
                f"Remit runs already in this folder: `. {shown(ENVIRONMENT_FILE)}` in another terminal reaches it. Stop that one first, or "
                "run the second one in a clone of its own."
            ) from None
        yield


def start(system: System, number: int = 1) -> dict[str, int]:
    """Start the services, and keep them running. Returns the port of each on which it tells its health and metrics."""
    asyncio.run(_spoil(system, number))
    ports: dict[str, int] = {service: system.fleet.claim_port() for service in SERVICES}
    for service, port in ports.items():
        system.fleet.start(service, HEALTH_PORT=str(port))
    system.fleet.keep_running()
    return {**ports, DESK: system.fleet.claim_port(), DOOR: system.fleet.claim_port()}


async def leave_work(system: System, number: int) -> None:
    """Leave payments in doubt, and what failed messages are about, for whoever tries the desk. The services run."""
    await waiting.send(system, _waiting(number), "up")


def _waiting(number: int) -> tuple[IssueInvoice, ...]:
    return waiting.invoices_of([f"INV-{number + one}" for one in range(STEPS, INVOICES)])


async def _spoil(system: System, number: int) -> None:
    last = IssueInvoice(invoice_id=f"INV-{number + STEPS - 1}", customer_id="C-1", amount_minor=9_900, currency="EUR")
    await waiting.spoil(system, last, SOURCE)
    await waiting.spoil_payments(system, _waiting(number), SOURCE)


def write_environment(system: System, file: Path, door: LocalDoor | None = None) -> None:
    """Write the variables for other terminals, readable by this user only: they hold passwords, and with a door a token."""
    upstream = {SENDER_URL: system.stack.rabbitmq_url_of(UPSTREAM)}
    gateway = {"GATEWAY_URL": system.sandbox.url, "GATEWAY_API_KEY": SANDBOX_KEY}
    evidence = {"REMIT_AUDIT_LEDGER": system.ledger, "REMIT_AUDIT_LOGS": system.folder, HISTORY: system.history}
    system.history.touch()
    variables: Mapping[str, object] = {
        **system.environment,
        **upstream,
        **gateway,
        **evidence,
        **(door.variables if door is not None else {}),
    }
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    write_private(file, "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in variables.items()))


@dataclass(frozen=True, slots=True)
class PrintedStep:
    """What to type, and why."""

    why: str
    commands: tuple[str, ...]


def steps(payment_id: UUID, number: int) -> tuple[PrintedStep, ...]:
    """The way from nothing to the point of it: paid; in doubt, found, asked, settled; a dead letter replayed. tests/system types it."""
    amount = "--amount-minor 12500 --currency EUR"
    end = str(payment_id)[-8:]
    paid, doubtful, spoiled = (f"INV-{number + one}" for one in range(STEPS))
    return (
        PrintedStep(
            "An invoice is paid",
            (
                f"remit invoice issue {paid} --customer C-1 {amount}",
                f"remit invoice pay {paid} {amount} --token pm_card_visa",
                f"remit invoice show {paid}",
            ),
        ),
        PrintedStep(
            "A gateway goes silent: nobody knows whether the card was charged. After some seconds a person has to decide (version 4)",
            (
                f"remit invoice issue {doubtful} --customer C-1 {amount}",
                f"remit invoice pay {doubtful} {amount} --token pm_remit_broken_for_good --payment-id {payment_id}",
                "remit payments in-doubt",
                f"remit payments ask {end}",
                f"remit payments show {end}",
                f'remit payments resolve {end} not_charged --version 4 --evidence "no charge in the dashboard" --reason "try it out"',
                f"remit invoice show {doubtful}",
            ),
        ),
        PrintedStep(
            "Messages that could not be handled wait for staff: they are replayed, and an invoice is issued",
            (
                "remit dead-letters list",
                "remit dead-letters replay --all --yes",
                f"remit invoice show {spoiled}",
            ),
        ),
        PrintedStep(
            "Whether all promises hold, and all is well",
            ("remit audit", "remit doctor", f"remit find {doubtful}"),
        ),
    )


def page(system: System, ports: Mapping[str, int], desk: LocalDesk, environment_file: Path, number: int = 1) -> Text:
    """What to type next, and where everything is."""
    text = Text("\nRemit runs.", style="bold")
    text.append(" In another terminal, in this folder:\n\n", style="not bold")
    text.append(f"  . {shown(environment_file)}; PATH=$PWD/.venv/bin:$PATH\n", style="not bold cyan")
    for step in steps(new_id(), number):
        text.append(f"\n{step.why}:\n\n", style="not bold")
        for command in step.commands:
            text.append(f"  {command}\n", style="not bold cyan")
    text.append(
        "\nTwo payments are in doubt, and failed messages wait in groups, as after a bad night. One payment is above the\n"
        "limit: the one of the two people below decides, the other one agrees.\n",
        style="not bold",
    )
    text.append("An alert would call you to the staff desk. Open it, and begin with the first line of its list:\n\n")
    text.append(f"  {desk.sentence}\n", style="not bold cyan")
    text.append(
        "\nAsk at the door, as a sender does that hears no messages, here the one who types remit:\n\n",
        style="not bold",
    )
    text.append(f"  {ASK.format(invoice=f'INV-{number}')}\n", style="not bold cyan")
    text.append(
        "\nFrom programs of yours, in Python, Node, Java, Go and the shell: shared/contracts/SENDERS.md\n",
        style="not bold",
    )
    urls = [
        ("broker", system.stack.rabbitmq_url),
        ("databases", system.stack.postgres_url),
        ("gateway", system.sandbox.url),
    ]
    text.append("\nWhere it is (passwords stand in the file above):\n\n", style="not bold")
    for name, url in urls:
        parts = urlsplit(url)
        address = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        virtual_host = f", virtual host {system.stack.vhost}" if name == "broker" else ""
        text.append(f"  {name:<24} {address}{virtual_host}\n", style="not bold")
    for service, port in ports.items():
        text.append(f"  {service:<24} http://127.0.0.1:{port}/metrics and /readyz\n", style="not bold")
    if isinstance(system.stack.broker, PrivateRabbit):
        text.append(f"  {'rabbitmqctl':<24} {system.stack.broker.control_program}\n", style="not bold")
    text.append(f"  {'logs':<24} {system.folder}\n", style="not bold")
    text.append("\nOther tokens: deploy/sandbox/README.md. Ctrl-C stops everything.\n", style="not bold")
    return text


def shown(path: Path) -> str:
    """The path as one types it in this folder, or else whole."""
    return os.path.relpath(path, ROOT) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
