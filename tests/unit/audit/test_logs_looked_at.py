"""The check `no_secrets_leaked` over a folder of logs, and over queues."""

from pathlib import Path

import pytest

from services.audit import leaks
from services.audit.checks import CHECKS
from services.audit.evidence import Evidence
from services.audit.finding import Breach, Finding, Source
from services.audit.queues import QueueState
from services.audit.stores import Stores

CARD = "4242-4242-4242-4242"
NO_SECRETS_LEAKED = next(check for check in CHECKS if check.name == "no_secrets_leaked")


async def looked_at(folder: Path) -> Finding:
    return await NO_SECRETS_LEAKED.run(Stores({}, None, None, {}, None, Evidence(logs=folder)))


async def test_a_secret_is_found_wherever_a_long_line_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "LINE_MAX", 64)
    monkeypatch.setattr(leaks, "OVERLAP", 32)
    for before in range(40, 70):
        (tmp_path / "service.log").write_text(f"healthy\n{'x' * before} {CARD} {'y' * 100}\nhealthy\n")
        found = await looked_at(tmp_path)
        assert found.breaches[0] == Breach("service.log", "a card number, in line 2")


async def test_rotated_and_nested_logs_are_read_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name in ("a.log", "a.log.1", "old/b.log-20261122", "c.err", "keys.json", "ledger.sqlite"):
        (tmp_path / name).write_text(CARD)
    found = await looked_at(tmp_path)
    assert {breach.about for breach in found.breaches} == {"a.log", "a.log.1", "old/b.log-20261122", "c.err"}


async def test_an_unreadable_log_is_not_called_clean(tmp_path: Path) -> None:
    (tmp_path / "a.log.1.gz").write_bytes(b"\x1f\x8b")
    found = await looked_at(tmp_path)
    assert {f"no log file in {tmp_path}", "a.log.1.gz is compressed"} <= set(found.missing)
    assert Source.LOGS in found.unseen


async def test_an_unread_message_is_not_called_clean() -> None:
    """If the queue has a consumer, the messages are under way instead."""
    for queue, missing, in_flight in ((QueueState(2, 0), ["2 messages that wait in q"], 0), (QueueState(2, 1), [], 2)):
        found = await NO_SECRETS_LEAKED.run(Stores({}, None, None, {"q": queue}, None))
        assert [what for what in found.missing if "wait in q" in what] == missing
        assert found.in_flight == in_flight
