"""Evidence beside the stores: what is accepted, and what is refused with a sentence that names the place."""

import json
from pathlib import Path

import pytest

from services.audit.errors import AuditError
from services.audit.evidence import TappedMessage, open_tap, read_baseline, read_queue_counts, read_run

DIGESTS = ["0" * 64, "A" * 64]


def test_a_listener_s_duplicates_are_counted_by_their_bodies(tmp_path: Path) -> None:
    tap = tmp_path / "tap.jsonl"
    entries = [("b", "X", 0), ("a", "X", 0), ("a", "X", 0), ("a", "x", 1), ("a", None, 0), ("c", "\0\ud800", 0)]
    tap.write_text(
        "\n".join(json.dumps({"queue": q, "message_id": m, "type": "t", "sha256": DIGESTS[d]}) for q, m, d in entries)
    )
    with open_tap(tap) as opened:
        received = list(opened.messages())
        assert received == [
            TappedMessage("a", "", "0" * 64, 1),
            TappedMessage("a", "x", "a" * 64, 2),
            TappedMessage("b", "x", "0" * 64, 1),
            TappedMessage("c", "?", "0" * 64, 1),
        ]
        assert opened.bodies("a", ["x", "y"]) == {"x": {"0" * 64, "a" * 64}}


@pytest.mark.parametrize("line", ["not json", "[]", '{"queue": "a"}', '{"queue": "a", "sha256": "short"}'])
def test_an_unreadable_tap_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    tap = tmp_path / "tap.jsonl"
    tap.write_text(f'{{"queue": "a", "message_id": "1", "sha256": "{"0" * 64}"}}\n{line}\n')
    with pytest.raises(AuditError, match=r"tap\.jsonl, line 2, is not of the form"), open_tap(tap):
        pass


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    report.write_text('{"planned": [{"name": "exit"}], "seen": {}}')
    with pytest.raises(AuditError, match=r"run\.json is not the report of a fault run: planned\.0\.fired: is missing"):
        read_run(report)
    with pytest.raises(AuditError, match="cannot be read"):
        read_run(tmp_path / "nowhere")
    report.write_text("[]")
    with pytest.raises(AuditError, match=r"run\.json is not a baseline"):
        read_baseline(report)


def test_the_output_of_rabbitmqctl_is_read(tmp_path: Path) -> None:
    printed = tmp_path / "unacked.json"
    printed.write_text(
        '[\n{"name":"saga.events","messages_unacknowledged":2}\n,{"name":"other","messages_unacknowledged":0}]\n'
    )
    assert read_queue_counts(printed) == ({"saga.events": 2, "other": 0}, None)
    printed.write_text(
        '[{"name":"saga.events","messages":9,"messages_ready":3,"messages_unacknowledged":2},'
        '{"name":"other","messages":1,"messages_ready":2,"messages_unacknowledged":0}]'
    )
    assert read_queue_counts(printed) == ({"saga.events": 2, "other": 0}, {"saga.events": 4, "other": 0})
