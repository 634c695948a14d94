"""The entry point of `remit`.

Typer's own import takes most of the time of `remit --help`. Everything else is imported by the command that needs it. The pages for staff
need the staff service for their options. Until one of these pages is called, an empty application with its name and help stands in for it.
"""

import logging
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

import typer

from deploy.cli import (
    audit,
    card,
    commands,
    config,
    crash_points,
    find,
    invoice,
    journal,
    operate,
    permissions,
    purge,
    reconcile,
)
from deploy.cli.output import MISUSED, OK, REFUSED, CliError, say

_CONFIGURATION_ERRORS = {"ConfigurationError", "AuditError", "StackError"}
"""Names of exception classes, not the classes: importing them would import the modules that raise them."""
_REFUSALS = {"TopologyError"}


def _dead_letters() -> typer.Typer:
    from deploy.cli.dead_letters import app  # noqa: PLC0415 - the staff service and the database's client

    return app


def _outbox() -> typer.Typer:
    from deploy.cli.outbox import app  # noqa: PLC0415 - as above

    return app


def _payments() -> typer.Typer:
    from deploy.cli.payments import app  # noqa: PLC0415 - as above

    return app


_FOR_STAFF: dict[str, tuple[Callable[[], typer.Typer], str]] = {
    "dead-letters": (_dead_letters, "Messages that could not be handled: look, replay, discard."),
    "outbox": (_outbox, "Messages that end the broker's connection at each try: look, release, drop."),
    "payments": (_payments, "Payments whose outcome is unknown: look, ask, settle."),
}


def build(called: str | None = None) -> typer.Typer:
    """The application. `called` is the command that will run, if it is known; only that page for staff is loaded."""
    app = typer.Typer(
        name="remit",
        help="Invoice payments over RabbitMQ: at most one charge, exactly one answer, never a guess.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    operate.register(app)
    audit.register(app)
    purge.register(app)
    reconcile.register(app)
    find.register(app)
    app.add_typer(invoice.app, name="invoice")
    app.add_typer(commands.app, name="command")
    app.add_typer(card.app, name="card")
    app.add_typer(config.app, name="config")
    app.add_typer(journal.app, name="journal")
    app.add_typer(permissions.app, name="permissions")
    app.add_typer(crash_points.app, name="faults")
    for name, (load, words) in _FOR_STAFF.items():
        app.add_typer(load() if name == called else _stand_in(words), name=name, help=words)
    return app


def _stand_in(words: str) -> typer.Typer:
    app = typer.Typer(help=words, no_args_is_help=True)

    @app.callback()
    def nothing() -> None:
        """Without a callback Typer would refuse an application that has no command."""

    return app


def main(arguments: list[str] | None = None) -> None:
    """Run one command; ends the process with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Log lines of libraries would only repeat the one sentence that is printed below.
    logging.getLogger().addHandler(logging.NullHandler())
    sys.excepthook = _show_bug
    try:
        code = run(arguments)
    except typer.Abort:
        say("Aborted.", style="red")
        code = REFUSED
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, as Typer found it
            code = _show_misuse(error)
        elif (known := _code_of(error)) is None:
            raise
        else:
            say(f"remit: {error}", style="red")
            code = known
    sys.exit(code)


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from shared.observability.redaction import show_uncaught  # noqa: PLC0415 - most commands need it never

    show_uncaught(kind, error, trace)


def run(arguments: list[str]) -> int:
    """Run one command, and return its exit code. The caller handles its errors."""
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    code = build(called)(args=arguments, prog_name="remit", standalone_mode=False)
    return code if isinstance(code, int) else OK


def _show_misuse(error: Any) -> int:
    """Show what Typer says of a wrong usage, as Typer shows it: it quotes the arguments. Returns the exit code."""
    from typer import rich_utils  # noqa: PLC0415 - rich

    from deploy.cli.terminal import SafeConsole  # noqa: PLC0415

    rich_utils.Console = SafeConsole  # type: ignore[attr-defined] # the name by which Typer makes its console
    rich_utils.rich_format_error(error)
    return int(error.exit_code)


def _code_of(error: Exception) -> int | None:
    """The exit code of an error that is explained in one sentence; None if the error is a bug."""
    if isinstance(error, CliError):
        return error.code
    name = type(error).__name__
    return MISUSED if name in _CONFIGURATION_ERRORS else REFUSED if name in _REFUSALS else None


if __name__ == "__main__":
    main()
