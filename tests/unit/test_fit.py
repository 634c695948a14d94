"""What `make up` and `make demo` print fits into a terminal, can be copied, and is whole in a pipe."""

import re
from io import StringIO

import pytest
from rich.text import Text

from deploy.cli.output import console
from deploy.cli.terminal import SafeConsole
from deploy.demo.fit import broken, fit, show

PROSE = "A gateway goes silent: nobody knows whether the card was charged. After some seconds a person has to decide (version 4):"
COMMAND = '  remit payments resolve 8f0c8f5e not_charged --version 4 --evidence "no charge in the dashboard" --reason "try it out"'
ADDRESS = f"  rabbitmqctl              /{'long/' * 30}sbin/rabbitmqctl"


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        (
            PROSE,
            [
                "A gateway goes silent: nobody knows whether the card was charged. After some",
                "seconds a person has to decide (version 4):",
            ],
        ),
        (
            COMMAND,
            [
                "  remit payments resolve 8f0c8f5e not_charged --version 4 --evidence \\",
                '      "no charge in the dashboard" --reason "try it out"',
            ],
        ),
        (
            "$ remit payments resolve 8f0c8f5e not_charged --evidence 'the gateway'\"'\"'s books show no charge'",
            [
                "$ remit payments resolve 8f0c8f5e not_charged --evidence \\",
                "    'the gateway'\"'\"'s books show no charge'",
            ],
        ),
        (
            "The audit reads the raw stores, the gateway's ledger, and the sender's own history of it.",
            [
                "The audit reads the raw stores, the gateway's ledger, and the sender's own",
                "history of it.",
            ],
        ),
        (ADDRESS, [ADDRESS]),
        (
            "  logs                     /one and another word that are too long for what is left of the line",
            [
                "  logs                     /one and another word that are too long for what is",
                "                           left of the line",
            ],
        ),
    ],
    ids=["prose", "command", "quoted by a shell", "apostrophes", "an address", "behind a name"],
)
def test_a_line_is_broken_between_words(line: str, pieces: list[str]) -> None:
    assert broken(line, 80) == pieces


@pytest.mark.parametrize("width", range(20, 130))
def test_a_command_that_is_broken_is_the_same_to_a_shell(width: int) -> None:
    pieces = broken(COMMAND, width)
    assert re.sub(r" \\\n +", " ", "\n".join(pieces)) == COMMAND
    assert all(len(piece) <= width or len(piece.split('"')[0].split()) <= 1 for piece in pieces), pieces


def test_short_lines_and_styles_stay() -> None:
    text = Text("\nshort\n\n").append(f"{PROSE}\n", style="cyan")
    fitted = fit(text, 80)
    assert fitted.plain == "\nshort\n\n" + "\n".join(broken(PROSE, 80)) + "\n"
    assert {span.style for span in fitted.spans} == {"cyan"}


@pytest.mark.parametrize(("columns", "longest"), [("80", 80), ("", len(PROSE))], ids=["terminal", "pipe"])
def test_in_a_pipe_it_is_whole(
    columns: str, longest: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """COLUMNS says how wide the reader is, as for `remit`."""
    monkeypatch.setenv("COLUMNS", columns)
    show(console(), PROSE)
    assert max(map(len, capsys.readouterr().out.splitlines())) in range(longest - 8, longest + 1)


def test_a_terminal_is_not_asked_to_break_what_is_broken_already() -> None:
    shown = StringIO()
    SafeConsole(file=shown, width=80).print(fit(Text(ADDRESS), 80), soft_wrap=True)
    assert shown.getvalue() == f"{ADDRESS}\n"
