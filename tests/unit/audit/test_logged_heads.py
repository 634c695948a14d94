"""A head of the journal counts if the staff service logged it itself, and not because some text looks like one."""

import logging
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from services.audit.logged_heads import logged_heads
from shared.observability.logs import configure_logs, get_logger

HEAD = f"7:{'ab' * 32}"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ABOUT = {"service": "staff", "logger": "services.staff.journal", "event": "journal_head"}
LINE = {
    "time": "2026-11-22T11:59:59.5Z",
    "level": "info",
    **ABOUT,
    "head": HEAD,
}


def heads(folder: Path, *lines: str, before: datetime = NOW) -> dict[str, str]:
    (folder / "staff.log").write_text("".join(f"{line}\n" for line in lines))
    return logged_heads(folder, ABOUT, before=before)


def as_json(**changes: Any) -> str:
    return orjson.dumps({name: value for name, value in {**LINE, **changes}.items() if value is not None}).decode()


def test_the_line_of_the_staff_service_counts(tmp_path: Path) -> None:
    assert heads(tmp_path, "no JSON", as_json(), as_json(head="8:no")) == {HEAD: "staff.log"}


def test_what_the_logger_writes_is_such_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    for hooks in (sys, threading):
        monkeypatch.setattr(hooks, "excepthook", hooks.__excepthook__)
    with (tmp_path / "1.log").open("w") as stream:
        configure_logs("staff", format="json", level="INFO", stream=stream)
        get_logger("services.staff.journal").info("journal_head", head=HEAD)
    assert logged_heads(tmp_path, ABOUT, before=datetime.now(UTC) + timedelta(minutes=1)) == {HEAD: "1.log"}


@pytest.mark.parametrize(
    "line",
    [
        f"{NOW.isoformat()} journal_head head={HEAD}",
        as_json(event="dead_letter", text=f"journal_head {HEAD}"),
        as_json(event="dead_letter", text=as_json()),
        as_json(service="invoice"),
        as_json(logger="services.staff.intake"),
        as_json(event="journal_head_seen"),
        as_json(event=["journal_head"]),
        as_json(head=None),
        as_json(head=f"a text with {HEAD}"),
        as_json(head=[HEAD]),
        as_json(time=None),
        as_json(time=17),
        as_json(time="2026-11-22T11:59:59.5"),
        as_json(time="2026-11-22T12:00:01Z"),
        f"[{as_json()}]",
        f"2026-11-22 11:59:59 [error] <0.1.0> user said {as_json()}",
        f"{' ' * (1 << 20)}{as_json()}",
    ],
)
def test_no_other_line_counts(line: str, tmp_path: Path) -> None:
    assert heads(tmp_path, line) == {}
