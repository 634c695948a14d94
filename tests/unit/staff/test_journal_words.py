"""Entries of staff's journal, as people read them on a terminal."""

from typing import Any

import pytest

from services.staff.journal_words import in_lines


@pytest.mark.parametrize(
    ("action", "details", "said", "lines"),
    [
        (
            "resolve",
            {
                "via": "terminal",
                "resolution": "not_charged",
                "reason": "a dispute",
                "evidence": "no charge in the dashboard",
                "before": {"status": "needs_decision", "version": 4},
                "after": {"status": "needs_decision", "decided": "not_charged", "version": 4},
            },
            "decided: not charged",
            [
                "at a terminal",
                "a dispute",
                "before: status: needs_decision; version: 4",
                "after: status: needs_decision; decided: not_charged; version: 4",
                "Resolution: not_charged",
                "Evidence: no charge in the dashboard",
            ],
        ),
        ("replay", {"via": "api", "replays": 1}, "replayed a failed message", ["by a program", "Replays: 1"]),
        ("propose", {"via": "desk"}, "proposed", ["at the desk, waits for a second person"]),
        (
            "refused",
            {"via": "terminal", "action": "refund", "code": "above_the_limit"},
            "tried to give money back",
            ["at a terminal, refused: above the limit", "Action: refund", "Code: above_the_limit"],
        ),
        ("unheard_of", {"via": 7, "reason": ["no text"]}, "unheard of", []),
    ],
)
def test_an_entry_is_told_in_words_and_lines(action: str, details: dict[str, Any], said: str, lines: list[str]) -> None:
    assert in_lines(action, details) == (said, "\n".join(lines))
