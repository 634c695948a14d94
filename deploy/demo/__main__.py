"""`make demo`: real invoices, through real services, RabbitMQ and PostgreSQL, with a card gateway that misbehaves on purpose.

It ends with what a person would do (replay a dead letter, settle a payment whose outcome is unknown) and with the audit. The exit status is
0 only if every check of the audit holds and every scene ended as expected.
"""

import argparse
import asyncio
import json
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any
from uuid import UUID

from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.cli.output import console as make_console
from deploy.demo import waiting
from deploy.demo.fit import show
from deploy.demo.scenes import PART_MINOR, SCENES, Played, Scene, Stage, UnexpectedError, programme
from deploy.demo.upstream import Upstream
from deploy.local.desk import LocalDesk, start_desk
from deploy.local.errors import StackError
from deploy.local.stack import SERVICES, UPSTREAM
from deploy.local.system import System, audit, open_system, remit, wait_until_drained
from shared.contracts.currencies import in_major_units
from shared.contracts.invoice import IssueInvoice

AT_ONCE = 40
"""The number of scenes that play at the same time."""
SETTLED_WITHIN_S = 60.0
POLL_S = 0.25
INVOICES_MAX = 20_000

console = make_console()


@dataclass(slots=True)
class Show:
    """The state of the demonstration so far, for the table on the terminal and the summary."""

    results: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    surprises: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    playing: int = 0

    def note(self, scene: Scene, played: Played, upstream: Upstream) -> None:
        self.results[scene.name][played.result] += 1
        if played.result not in scene.results:
            self.surprises.append(f"{scene.name}: expected {' or '.join(scene.results)}, got {played.result}")
        for payment in played.payments if played.timed else ():
            news = upstream.payments[payment]
            if news.outcome_at is not None:
                self.latencies_ms.append((news.outcome_at - news.sent_at) * 1_000)

    def progress(self, total: int, upstream: Upstream) -> Table:
        done = sum(sum(results.values()) for results in self.results.values())
        table = Table(
            title=f"{done} of {total} invoices played, {time.monotonic() - self.started:.0f} s",
            title_justify="left",
            box=None,
        )
        for name, count in sorted(upstream.events.items()):
            table.add_row(str(count), name)
        table.add_row(str(self.playing), "scenes playing now", style="dim")
        return table


def main() -> int:
    """Run the demonstration; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--invoices", type=int, default=200, help="how many invoices (N=)")
    options = parser.parse_args()
    if not len(SCENES) <= options.invoices <= INVOICES_MAX:
        console.print(f"N must be from {len(SCENES)} (each scene once) to {INVOICES_MAX}.")
        return 2
    try:
        with open_system(say=lambda line: show(console, Text(line, "dim"))) as system, _logs_on_failure(system):
            return _demonstrate(system, options.invoices)
    except (StackError, UnexpectedError) as error:
        show(console, Text(str(error), "red"))
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started is stopped")
        return 130


@contextmanager
def _logs_on_failure(system: System) -> Iterator[None]:
    try:
        yield
    except Exception:
        for name in [*SERVICES, "sandbox"]:
            path = system.folder / f"{name}.log"
            tail = path.read_text(errors="replace").splitlines()[-15:] if path.exists() else []
            console.print(Text(f"last lines of {name}'s log", "bold"), *map(Text, tail), sep="\n")
        raise


def _demonstrate(system: System, invoices: int) -> int:
    spoiled = asyncio.run(_spoil(system))
    for service in SERVICES:
        pid = system.fleet.start(service)
        console.print(f"[dim]{service} runs as process {pid}[/]")
    system.fleet.keep_running()
    desk = start_desk(system)
    show(console, f"the staff desk, as long as this runs: {desk.sentence}")
    played = asyncio.run(_play_all(system, invoices))
    asyncio.run(waiting.send(system, WAITING, "demo-desk"))
    _print_results(played, system)
    _act_as_staff(system, spoiled)
    console.print("\n[bold]The audit reads the raw stores, the gateway's ledger and the sender's own history[/]")
    wait_until_drained(system)
    system.fleet.stop_keeping()
    audited = audit(system, columns=console.width)
    _tell(audited)
    console.print(
        f"{time.monotonic() - played.started:.0f} s in all; services that had to be started again: {system.fleet.restarts}"
    )
    for surprise in played.surprises:
        show(console, Text(str(surprise), "red"))
    _let_somebody_try(desk)
    return 1 if played.surprises else audited.returncode


def _let_somebody_try(desk: LocalDesk) -> None:
    """Whoever started it in a terminal may try the desk, until they press Ctrl-C."""
    if not (console.is_terminal and sys.stdin.isatty()):
        console.print("`make up` keeps everything running, with the staff desk and something to try there")
        return
    console.print("\nPayments in doubt and groups of failed messages are left on the staff desk, for you to try:")
    show(console, f"  {desk.sentence}\nCtrl-C stops everything.")
    with suppress(KeyboardInterrupt):
        signal.pause()


SPOILED = IssueInvoice(invoice_id="DEMO-SPOILED", customer_id="C-100", amount_minor=9_900, currency="EUR")
WAITING = waiting.invoices_of([f"DEMO-DESK-{number}" for number in range(1, waiting.INVOICES + 1)])


async def _spoil(system: System) -> UUID:
    """Dead-letter a good command before the services start, as a faulty old build of a consumer would. Returns its id."""
    spoiled = await waiting.spoil(system, SPOILED, "/demo")
    line = {"command_id": str(spoiled), "type": SPOILED.wire_name, "confirmed": True}
    system.history.write_text(json.dumps(line) + "\n")
    return spoiled


async def _play_all(system: System, invoices: int) -> Show:
    shown = Show()
    turns = asyncio.Semaphore(AT_ONCE)
    async with Upstream.open(system.stack.rabbitmq_url_of(UPSTREAM), name="demo", history=system.history) as upstream:
        keys: Any = system.public_keys["keys"]
        stage = Stage(upstream, keys[0])

        async def play(scene: Scene, number: int) -> None:
            async with turns:
                shown.playing += 1
                try:
                    shown.note(scene, await scene.play(stage, f"DEMO-{number:05d}"), upstream)
                except (UnexpectedError, TimeoutError) as error:
                    shown.surprises.append(f"{scene.name}: {error!r}")
                finally:
                    shown.playing -= 1

        plays = [asyncio.create_task(play(scene, number)) for number, scene in enumerate(programme(invoices), 1)]
        with Live(console=console, refresh_per_second=4, transient=not console.is_terminal) as live:
            while any(not task.done() for task in plays):
                await asyncio.wait(plays, timeout=POLL_S)
                live.update(shown.progress(len(plays), upstream))
        await asyncio.gather(*plays)
    return shown


def _print_results(shown: Show, system: System) -> None:
    table = Table(title="What was sent, and what became of it", title_justify="left")
    for column in ("scene", "invoices", "result"):
        table.add_column(column, justify="right" if column == "invoices" else "left")
    for name, results in shown.results.items():
        table.add_row(
            name, str(sum(results.values())), ", ".join(f"{count} {result}" for result, count in results.most_common())
        )
    console.print(table)
    if len(shown.latencies_ms) > 1:
        cuts = quantiles(shown.latencies_ms, n=100)
        console.print(
            f"From sending PayInvoice to receiving InvoicePaid, {AT_ONCE} scenes at once, {len(shown.latencies_ms)} healthy cards: "
            f"p50 {cuts[49]:.0f} ms, p95 {cuts[94]:.0f} ms"
        )
    history = [json.loads(line) for line in system.history.read_text().splitlines()]
    console.print(f"{len({line['command_id'] for line in history})} commands, sent {len(history)} times in all")


# -- what a person does ----------------------------------------------------------------------------------------------------------------


def _remit(system: System, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return remit(system, *arguments, columns=console.width)


def _tell(done: "subprocess.CompletedProcess[str]") -> None:
    """Show what the command wrote."""
    show(console, (done.stdout + done.stderr).removesuffix("\n"))


def _remit_json(system: System, *arguments: str) -> Any:
    done = _remit(system, *arguments, "--json")
    if done.returncode != 0:
        raise UnexpectedError(f"remit {' '.join(arguments)} failed: {done.stderr or done.stdout}")
    return json.loads(done.stdout)


def _act_as_staff(system: System, spoiled: UUID) -> None:
    console.print("\n[bold]What waits for a person[/]")
    _tell(_remit(system, "payments", "in-doubt"))
    _tell(_remit(system, "dead-letters", "list"))
    _replay_the_spoiled(system, spoiled)
    _settle_one(system)
    _refund_one(system)


def _replay_the_spoiled(system: System, spoiled: UUID) -> None:
    """Replay the command that the old build rejected. This time it is handled."""
    letters = _remit_json(system, "dead-letters", "list")
    letter = next(one for one in letters if one["message_id"] == str(spoiled))
    show(console, f"\n$ remit dead-letters replay {letter['id']} --yes")
    _tell(_remit(system, "dead-letters", "replay", letter["id"], "--yes", "--who", "demo"))
    _until(
        lambda: _remit(system, "command", "show", str(spoiled), "--json").stdout.find("accepted") >= 0,
        "the replayed command",
    )
    _tell(_remit(system, "command", "show", str(spoiled)))


def _settle_one(system: System) -> None:
    """Look at the gateway's own books, as a person would, and decide by them."""
    cases = [case for case in _remit_json(system, "payments", "in-doubt") if case["status"] == "needs_decision"]
    if not cases:
        raise UnexpectedError("no payment waits for a decision")
    case = cases[0]
    charges = system.sandbox.show(case["payment_id"])["charges"]
    resolution = ["captured", "--receipt", charges[0]["id"]] if charges else ["not_charged"]
    amount = in_major_units(case["amount_minor"], case["currency"])
    found = f"charge {charges[0]['id']}" if charges else "no charge"
    console.print(f"\nThe gateway's books show {found} for payment {case['payment_id']} ({amount}); a person decides:")
    arguments = ["payments", "resolve", case["payment_id"], *resolution, "--version", str(case["version"])]
    arguments += ["--evidence", f"the gateway's books show {found}", "--reason", "seen in its books", "--who", "demo"]
    show(console, f"$ remit {shlex.join(arguments)}")
    _tell(_remit(system, *arguments))
    _until(lambda: UUID(case["payment_id"]) not in _waiting(system), "the decision")


def _refund_one(system: System) -> None:
    """Give a part of a paid invoice back, as a person does whom a customer has called."""
    paid = next(one for one in _remit_json(system, "invoice", "list", "--status", "paid") if not one["refunds"])
    amount = in_major_units(PART_MINOR, paid["currency"])
    console.print(f"\nA customer has called about {paid['invoice_id']}; a person gives {amount} back:")
    arguments = [
        "payments",
        "refund",
        paid["payment_id"],
        "--invoice",
        paid["invoice_id"],
        "--currency",
        paid["currency"],
    ]
    arguments += ["--amount-minor", str(PART_MINOR), "--reason", "agreed on the telephone", "--who", "demo"]
    show(console, f"$ remit {shlex.join(arguments)}")
    _tell(_remit(system, *arguments))

    def is_made() -> bool:
        refunds = _remit_json(system, "invoice", "show", paid["invoice_id"])["invoice"]["refunds"] or []
        return any(refund["status"] == "refunded" for refund in refunds)

    _until(is_made, "the refund")
    show(console, f"\n$ remit payments show {paid['payment_id']}")
    _tell(_remit(system, "payments", "show", paid["payment_id"]))


def _waiting(system: System) -> set[UUID]:
    return {UUID(case["payment_id"]) for case in _remit_json(system, "payments", "in-doubt")}


def _until(condition: Any, what: str) -> None:
    give_up_at = time.monotonic() + SETTLED_WITHIN_S
    while not condition():
        if time.monotonic() > give_up_at:
            raise UnexpectedError(f"{what} had no effect within {SETTLED_WITHIN_S:.0f} s")
        time.sleep(POLL_S)


if __name__ == "__main__":
    sys.exit(main())
