"""The entry point of `remit`.

Typer's own import takes most of the time of `remit --help`. Everything else is imported by the command that needs it. The pages for staff
need the staff service for their options. Until one of these pages is called, an empty application with its name and help stands in for it.
"""

import errno
import io
import logging
import os
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
    doctor,
    find,
    invoice,
    journal,
    operate,
    permissions,
    purge,
    reconcile,
    version,
)
from deploy.cli.output import INTERRUPTED, MISUSED, NOBODY_READS, OK, REFUSED, CliError, say
from deploy.cli.version import is_completing, word_to_complete

_CONFIGURATION_ERRORS = {"ConfigurationError", "AuditError", "StackError"}
"""Names of exception classes, not the classes: importing them would import the modules that raise them."""
_REFUSALS = {"TopologyError", "StoreAwayError"}
_CLIENTS = {"asyncpg", "aiormq", "aio_pika", "pamqp", "sqlite3"}
"""Libraries whose errors tell of a server or a file, not of a bug."""


def _dead_letters() -> typer.Typer:
    from deploy.cli.dead_letters import app  # noqa: PLC0415 - the staff service and the database's client

    return app


def _desk() -> typer.Typer:
    from deploy.cli.desk import app  # noqa: PLC0415 - as above

    return app


def _outbox() -> typer.Typer:
    from deploy.cli.outbox import app  # noqa: PLC0415 - as above

    return app


def _payments() -> typer.Typer:
    from deploy.cli.payments import app  # noqa: PLC0415 - as above

    return app


def _senders() -> typer.Typer:
    from deploy.cli.senders import app  # noqa: PLC0415 - as above

    return app


_FOR_STAFF: dict[str, tuple[Callable[[], typer.Typer], str]] = {
    "dead-letters": (_dead_letters, "Messages that could not be handled: look, replay, discard."),
    "desk": (_desk, "Accounts of people who sign in at the staff desk."),
    "outbox": (_outbox, "Messages that end the broker's connection at each try: look, release, drop."),
    "payments": (_payments, "Payments whose outcome is unknown: look, ask, settle."),
    "senders": (_senders, "Tokens by which senders ask at the door."),
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
    doctor.register(app)
    version.register(app)
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
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run_and_explain(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _stop_writing()
    except SystemExit as ended:
        if not _is_broken_pipe(ended.__context__):
            raise
        code = _stop_writing()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _run_and_explain(arguments: list[str]) -> int:
    """Run one command, and return its exit code. An error that an operator can cause is explained in one sentence; a bug is raised."""
    try:
        return run(arguments)
    except typer.Abort:
        say("Aborted.", style="red")
        return REFUSED
    except BrokenPipeError:
        raise
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage, as Typer found it
            return _show_misuse(error)
        if (explained := _explained(error)) is None:
            raise
        sentence, code = explained
        say(f"remit: {sentence}", style="red")
        return code


def _is_broken_pipe(error: BaseException | None) -> bool:
    """Whether this is why Typer ends the process: it handles a broken pipe itself."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _stop_writing() -> int:
    """Nobody reads what we write: what is still in the buffer goes nowhere, or the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return NOBODY_READS


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    from shared.observability.redaction import show_uncaught  # noqa: PLC0415 - most commands need it never

    show_uncaught(kind, error, trace)


def run(arguments: list[str]) -> int:
    """Run one command, and return its exit code. The caller handles its errors."""
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    if is_completing():
        from typer._completion_classes import completion_init  # noqa: PLC0415 - only where a shell asks

        completion_init()
        called = word_to_complete()
    code = build(called)(args=arguments, prog_name="remit", standalone_mode=False)
    return code if isinstance(code, int) else OK


def _show_misuse(error: Any) -> int:
    """Show what Typer says of a wrong usage, as Typer shows it: it quotes the arguments. Returns the exit code."""
    from typer import rich_utils  # noqa: PLC0415 - rich

    from deploy.cli.terminal import SafeConsole  # noqa: PLC0415

    rich_utils.Console = SafeConsole  # type: ignore[attr-defined] # the name by which Typer makes its console
    rich_utils.rich_format_error(error)
    return int(error.exit_code)


def _explained(error: Exception) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that is no bug; None if it is one."""
    if isinstance(error, CliError):
        return str(error), error.code
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & _REFUSALS:
        return str(error), REFUSED
    if kinds & _CONFIGURATION_ERRORS:
        return str(error), MISUSED
    if isinstance(error, OSError | TimeoutError) or type(error).__module__.partition(".")[0] in _CLIENTS:
        return _of_the_surroundings(error), REFUSED
    return None


def _of_the_surroundings(error: Exception) -> str:
    """What is wrong with a file, a server or a right, in one sentence."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    from shared.observability.redaction import describe_error  # noqa: PLC0415 - most commands need it never

    return f"{describe_error(error)}: are the servers up, and are their URLs right? `remit doctor` looks at each."


if __name__ == "__main__":
    main()
