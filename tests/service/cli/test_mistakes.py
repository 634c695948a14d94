"""What an operator can cause never ends in a traceback: servers away, a wrong password, a broken pipe, Ctrl-C, files that are folders."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import main as cli
from deploy.cli import output
from deploy.local.stack import SERVICES, database_variable
from tests.service.cli.remit import addresses
from tests.service.cli.test_hostile_pages import COMMANDS, invocations
from tests.support.databases import execute
from tests.support.environment import ROOT, Environment

CODES = {output.OK, output.REFUSED, output.MISUSED}
NOT_HERE = {("run",), ("rebuild",)}
"""They become services, whose mistakes tests/service/permissions/test_refusals.py makes."""
NO_JSON = {
    ("permissions", "rabbitmq"): "it prints a script, or the JSON that RabbitMQ reads",
    ("permissions", "postgresql"): "it prints SQL",
    ("completion",): "it prints a script",
    ("config", "reference"): "it prints a page",
    ("card", "public"): "it prints JSON, the keys themselves",
}
ASKS_NO_SERVER = {
    *(
        ("card", "encrypt"),
        ("card", "keys"),
        ("card", "public"),
        ("faults", "list"),
        ("version",),
        ("completion",),
        ("topology", "limits"),
    ),
    ("config", "check"),
    ("config", "reference"),
    *(("permissions",), ("permissions", "rabbitmq"), ("permissions", "postgresql")),
}


def test_every_command_speaks_json() -> None:
    lacking = {
        path for path, one in COMMANDS.items() if not any("--json" in parameter.opts for parameter in one.params)
    }
    assert lacking == NO_JSON.keys()


def test_every_command_has_short_help(capsys: pytest.CaptureFixture[str]) -> None:
    for path in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([*path, "-h"])
        assert ended.value.code == 0
        assert "Usage: remit" in capsys.readouterr().out


READ_ONLY = {
    ("audit",),
    ("find",),
    ("invoice", "list"),
    ("invoice", "show"),
    ("command", "show"),
    ("journal", "verify"),
}


def typed(path: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and all output of a command that is called as somebody would."""
    called = invocations("0197b1c4-0000-7000-8000-000000000001", folder, "words")[path]
    assert not isinstance(called, str)
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [*path, *(called[0] if path != ("audit",) else ())]
        )  # which looks at files of evidence before it asks a server
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out + shown.err


@pytest.mark.parametrize("trouble", ["away", "refused"])
def test_servers_that_are_away_or_refuse_us_are_told_in_a_sentence(
    trouble: str,
    environment_urls: Environment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = {database_variable(one): environment_urls.databases[one] for one in SERVICES}
    urls["RABBITMQ_URL"] = environment_urls.rabbitmq_url
    for name, url in urls.items():
        address = re.sub(r":\d+/", ":1/", url) if trouble == "away" else url
        monkeypatch.setenv(name, re.sub(r"//[^@]*@", "//somebody:a-secret@", address))
    monkeypatch.setenv("GATEWAY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GATEWAY_API_KEY", "sk_test_a-secret")
    for path in sorted(COMMANDS.keys() - NOT_HERE - ASKS_NO_SERVER):
        code, err = typed(path, tmp_path, capsys)
        assert code in CODES - {output.OK}, (path, err)
        assert "Traceback" not in err, (path, err)
        assert "a-secret" not in err, path
        assert re.search("_URL|broker|database|server", err), (path, err)
        if path in READ_ONLY:  # a job that is run by the clock tells an outage from what somebody has to mend
            assert code == (output.REFUSED if trouble == "away" else output.MISUSED), (path, err)


def test_ctrl_c_is_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.cli.queries.invoices", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main(["invoice", "list"])
    assert (ended.value.code, capsys.readouterr().err) == (output.INTERRUPTED, "")


def in_a_process(*arguments: str, **more: str) -> "subprocess.Popen[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")} | more
    command = (sys.executable, "-m", "deploy.cli.main", *arguments)
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    "arguments", [("faults", "list", "--json"), ("permissions", "rabbitmq"), ("--help",)], ids=" ".join
)
def test_a_reader_that_has_gone_is_no_error(arguments: tuple[str, ...]) -> None:
    process = in_a_process(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), err) == (output.NOBODY_READS, b"")


async def test_a_terminal_that_cannot_show_a_letter_shows_its_number(environment_urls: Environment) -> None:
    await execute(
        environment_urls.databases["invoice"],
        """INSERT INTO invoices (invoice_id, status, version, customer_id, amount_minor, currency, updated_at)
           VALUES ('INV-Zoë-😀', 'open', 1, 'C-1', 1, 'EUR', now() + interval '1 day')""",
    )
    ascii_only = addresses(environment_urls, "invoice") | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    try:
        for options, shown in (((), rb"INV-Zo\xeb-\U0001f600"), (("--json",), rb"INV-Zo\u00eb-\ud83d\ude00")):
            listing = in_a_process("invoice", "list", "--limit", "1", *options, **ascii_only)
            out, err = await asyncio.to_thread(listing.communicate, timeout=60)
            assert shown in out, err
            assert err == b""
    finally:
        await execute(environment_urls.databases["invoice"], "DELETE FROM invoices WHERE invoice_id = 'INV-Zoë-😀'")


def test_a_file_in_the_place_of_a_folder_is_named(
    environment_urls: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in SERVICES:
        monkeypatch.setenv(database_variable(one), environment_urls.databases[one])
    monkeypatch.setenv("GATEWAY_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("GATEWAY_API_KEY", "sk_test_x")
    file = tmp_path / "file"
    file.write_text("")
    inside = str(file / "new")
    for arguments in (
        ("audit", "--logs", str(file)),
        ("audit", "--ledger", str(tmp_path)),
        ("audit", "--history", str(tmp_path)),
        ("audit", "--tap", str(tmp_path)),
        ("audit", "--run", str(tmp_path)),
        ("audit", "--baseline", str(tmp_path)),
        ("audit", "--unacked", str(tmp_path)),
        ("audit", "baseline", inside),
        ("card", "keys", "--private", inside, "--public", inside),
        ("card", "encrypt", "--payment-id", "0197b1c4-0000-7000-8000-000000000001", "--key-file", str(tmp_path)),
        ("permissions", "rabbitmq", "--definitions", "--passwords", inside),
        ("permissions", "apply", "saga", "--passwords", str(tmp_path)),
        ("reconcile", "--ledger", inside),
        ("topology", "prune", "--connections", str(tmp_path)),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments])
        err = capsys.readouterr().err
        assert ended.value.code in {output.REFUSED, output.MISUSED}, arguments
        assert str(tmp_path) in err, (arguments, err)
        assert "Traceback" not in err, (arguments, err)
