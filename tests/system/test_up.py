"""`make up`: what it prints is typed literally, and leads to a paid invoice, a settled doubt and a replayed dead letter."""

import asyncio
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.text import Text

from deploy.demo import up, waiting
from deploy.demo.fit import fit
from deploy.local.desk import DESK, start_desk
from deploy.local.door import DOOR, start_door
from deploy.local.errors import StackError
from deploy.local.stack import Service, Stack
from deploy.local.system import System
from tests.support.databases import rows
from tests.support.desk_browser import seen
from tests.support.environment import ROOT
from tests.support.waiting import until
from tests.system.at_desk import settle_in_browser
from tests.system.conftest import a_system

DEADLINE_S = 120.0
COLUMNS = 80
SENDERS = (ROOT / "shared/contracts/SENDERS.md").read_text()


@pytest.fixture(scope="module")
def whole_system(stack: Stack) -> Iterator[System]:
    yield from a_system(stack)


def type_in(command: str, environment_file: Path) -> "subprocess.CompletedProcess[str]":
    """Type a command in a new terminal, in the folder of the repository."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return subprocess.run(
        ("bash", "-ec", f". {environment_file}; PATH=$PWD/.venv/bin:$PATH\n{command}"),
        cwd=ROOT,
        env=inherited | {"USER": "ann"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


async def sign_in_as_printed(printed: str) -> None:
    """Sign in at the desk with the words that the page has, as each of the people that it names."""
    (address, names, password) = re.findall(r"^  (http\S+), as (.*) with the password (\S+)$", printed, re.MULTILINE)[0]
    for name in names.split(" or "):
        async with httpx.AsyncClient(base_url=address, follow_redirects=True) as browser:

            async def answers(browser: httpx.AsyncClient = browser) -> bool:
                try:
                    return (await browser.get("/sign-in")).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(answers, what="the desk", within_s=DEADLINE_S)
            form = seen(await browser.get("/sign-in?page=/words")).form("/sign-in").fields
            page = seen(await browser.post("/sign-in", data={**form, "username": name, "password": password}))
            assert (page.address, name in page.text) == ("/words", True)


async def ask_as_written(text: str, file: Path) -> Any:
    """Ask at the door with the one line that the text has for it, and return what it tells."""
    (line,) = re.findall(r'^ +(curl .*"\$REMIT_DOOR_URL/\S+")$', text, re.MULTILINE)
    told: list[Any] = []

    async def answers() -> bool:
        done = await asyncio.to_thread(type_in, line, file)
        told[:] = [json.loads(done.stdout)] if done.returncode == 0 else []
        return bool(told)

    await until(answers, what="the door", within_s=DEADLINE_S)
    return told[0]


async def started(system: System, file: Path) -> str:
    """Start all that `make up` does, and return the page that it prints. The variables are in the file."""
    for name in system.fleet.names:
        system.fleet.stop(name)
    ports = await asyncio.to_thread(up.start, system)
    door = await asyncio.to_thread(start_door, system, health_port=ports[DOOR])
    await up.leave_work(system, 1)
    up.write_environment(system, file, door)
    desk = await asyncio.to_thread(start_desk, system, health_port=ports[DESK])
    printed = up.page(system, ports, desk, file).plain
    assert not [token for token in (door.token, door.operator_token) if token in printed]
    return printed


def fits_a_terminal(printed: str) -> None:
    """It is as wide as a terminal but for what must be copied whole, and what is typed stays what it is."""
    fitted = fit(Text(printed), COLUMNS).plain
    too_long = [line for line in fitted.splitlines() if len(line) > COLUMNS]
    assert not [line for line in too_long if not re.fullmatch(r"\s*(\S+ {2,})?\S+", line)], "but for one whole address"
    assert re.sub(r" \\\n +", " ", fitted).split() == printed.split(), "a shell reads the same"


@dataclass(frozen=True, slots=True)
class NextTerminal:
    """Where people type what the page says, and see what became of it. A program takes as much CPU as a hundred queries: it is typed once,
    when the rows that it shows are there."""

    system: System
    environment_file: Path

    async def typed(self, command: str) -> str:
        done = await asyncio.to_thread(type_in, command, self.environment_file)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    async def _stored(self, service: Service, query: str, *about: str) -> None:
        """Wait until the query finds a row."""
        url = self.system.stack.administrator_database_url(service)

        async def there() -> bool:
            return bool(await rows(url, query, *about))

        await until(there, what=f"{query} {about}", within_s=DEADLINE_S)

    async def needs_decision(self, about: str) -> None:
        query = "SELECT 1 FROM cases WHERE $1 IN (payment_id::text, invoice_id) AND status = 'needs_decision'"
        await self._stored("staff", query, about)
        cases = json.loads(await self.typed("remit payments in-doubt --json"))
        waiting_ones = [case for case in cases if case["status"] == "needs_decision"]
        assert any(about in (case["payment_id"], case["invoice_id"]) for case in waiting_ones)

    async def shows(self, invoice: str, status: str) -> None:
        await self._stored("invoice", "SELECT 1 FROM invoices WHERE (invoice_id, status) = ($1, $2)", invoice, status)
        assert f"{invoice}: {status}," in await self.typed(f"remit invoice show {invoice}")

    async def has_work(self) -> None:
        """Payments in doubt, and a group of failed messages."""
        failed = len(waiting.FAILED_MINOR)
        await self._stored("staff", "SELECT 1 FROM cases WHERE invoice_id IN ('INV-7', 'INV-8') HAVING count(*) = 2")
        await self._stored("staff", f"SELECT 1 FROM dead_letters GROUP BY type, reason HAVING count(*) >= {failed}")
        cases = json.loads(await self.typed("remit payments in-doubt --json"))
        letters = json.loads(await self.typed("remit dead-letters list --json"))
        groups = Counter((letter["type"], letter["reason"]) for letter in letters)
        assert {"INV-7", "INV-8"} <= {case["invoice_id"] for case in cases}
        assert max(groups.values()) >= failed


@pytest.mark.timeout(300)  # fifteen programs, one after the other, on a busy machine
async def test_what_is_printed_can_be_typed(whole_system: System, tmp_path: Path) -> None:
    file = tmp_path / "env"
    printed = await started(whole_system, file)
    await sign_in_as_printed(printed)
    assert file.stat().st_mode & 0o777 == 0o600
    assert whole_system.stack.rabbitmq_url not in printed, "it holds a password"
    fits_a_terminal(printed)
    commands = re.findall(r"^  (remit .*)$", printed, re.MULTILINE)
    (payment,) = re.findall(r"--payment-id (\S+)", printed)

    terminal = NextTerminal(whole_system, file)
    await terminal.has_work()
    try:
        for command in commands:
            match command.split()[1:3]:
                case ["payments", "in-doubt"]:
                    await terminal.needs_decision(payment)
                case ["payments", "resolve"]:
                    assert "decided: not charged" in await terminal.typed(command)
                    await terminal.shows("INV-2", "open")
                case ["dead-letters", "replay"]:
                    assert "replayed to invoice.commands" in await terminal.typed(command)
                    await terminal.shows("INV-3", "open")
                case ["invoice", "show"] if command.endswith("INV-1"):
                    await terminal.shows("INV-1", "paid")
                    assert (await ask_as_written(printed, file))["state"] == "paid"
                case ["audit"]:
                    told = await terminal.typed(
                        f"{command} --require captured_once,books_balance,answered_once,no_secrets_leaked || true"
                    )
                    assert not re.search(r"Required of these: .*(captured_once|books_balance|answered_once)", told), (
                        told
                    )
                    await terminal.typed(command)
                case _:
                    await terminal.typed(command)
        await the_first_example_pays(terminal.typed)
        await a_gateway_id_is_found(terminal.typed)
        assert (await ask_as_written(SENDERS, file))["state"] == "paid"
        await terminal.needs_decision("INV-7")
        ((address, name, password),) = re.findall(
            r"^  (http\S+), as (\S+) or .* with the password (\S+)$", printed, re.MULTILINE
        )
        await settle_in_browser(address, name, password, "INV-7")
        await terminal.shows("INV-7", "open")
    finally:
        whole_system.fleet.stop_keeping()


async def the_first_example_pays(typed: Callable[[str], Awaitable[str]]) -> None:
    (first,) = re.findall(r"`(\S+ python shared/kit/examples/first\.py \S+)`", SENDERS)
    assert "paid, receipt" in await typed(first)


async def a_gateway_id_is_found(typed: Callable[[str], Awaitable[str]]) -> None:
    """The gateway is asked for what payment it made this."""
    (at_gateway,) = set(re.findall(r"\bpi_\w+", await typed("remit invoice show INV-1")))
    assert "made for payment" in await typed(f"remit find {at_gateway}")


def test_a_second_one_in_the_folder_is_refused_with_a_sentence(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "up.lock"
    with (
        up.only_one_here(lock),
        pytest.raises(StackError, match="Remit runs already in this folder"),
        up.only_one_here(lock),
    ):
        pass
    with up.only_one_here(lock):  # the first has ended
        pass
