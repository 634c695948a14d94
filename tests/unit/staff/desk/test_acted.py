"""The texts of actions as the sentences of the desk: in its words, and with names as they are written."""

import pytest

from services.staff.desk.acted import sentence


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (
            "decided: captured; the staff service sends it now",
            None,
            "Decided: charged; the staff service sends it now.",
        ),
        ("proposed: not refunded", None, "Proposed: kept."),
        (
            "its state is refund failed: it can be decided as refunded or not refunded",
            None,
            "Its state is refund refused: it can be decided as given back or kept.",
        ),
        ("there is no dead letter of this id", None, "There is no failed message of this id."),
        ("captured.bot decided captured", "captured.bot", "captured.bot decided charged."),
        ("recaptured, refunded_at_gateway", None, "Recaptured, refunded_at_gateway."),
        ("what is that?", None, "What is that?"),
    ],
)
def test_a_text_of_an_action_is_told_in_the_words_of_the_screen(text: str, name: str | None, told: str) -> None:
    assert sentence(text, name) == told
