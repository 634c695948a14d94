"""Logs: JSON lines on stderr. Everything is redacted before it is rendered.

Importing this module is enough to be safe. Every structlog line is redacted before it reaches the standard library, so the handlers of
libraries also see redacted records only. `configure_logs` then decides where lines go. It also routes through here what libraries log,
warnings, and exceptions that nobody caught.

A log line never stops a service. A line that cannot be rendered is written with the name of its event, and without its values.
"""

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.observability.log_pipe import LogPipe
from shared.observability.redaction import describe_error, error_text, redact, redact_member, traceback_text
from shared.observability.visible import visible, visible_json
from shared.settings import ConfigurationError

__all__ = ["configure_logs", "describe_error", "error_text", "get_logger", "redact"]

Logger = structlog.stdlib.BoundLogger

FACTS_LOGGER: Final = "facts"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS: Final = ("auto", "json", "console")  # auto: console on a terminal, else JSON

# Below these levels, lines of a library tell an operator nothing that ours do not. Stripe's would also quote requests.
_LIBRARY_LEVELS: Final = {
    "aio_pika": logging.WARNING,
    "aiormq": logging.WARNING,
    "aiormq.connection": logging.CRITICAL,  # each try to connect, and a traceback for each loss: our own lines tell both, once
    "aiohttp.access": logging.WARNING,
    "alembic": logging.INFO,
    "asyncio": logging.WARNING,
    "asyncpg": logging.WARNING,
    "opentelemetry": logging.CRITICAL,  # each try to send, and each span that was dropped: `spans` tells once
    "sqlalchemy": logging.WARNING,
    "stripe": logging.WARNING,
    "urllib3": logging.WARNING,
}
_FIRST_FIELDS: Final = ("time", "level", "service", "logger", "event")
_STRUCTLOG_OWN: Final = frozenset({"_record", "_from_structlog"})


def get_logger(name: str) -> Logger:
    """The logger of a module (`get_logger(__name__)`). It may be made before `configure_logs` is called."""
    logger: Logger = structlog.stdlib.get_logger(name)
    return logger


def configure_logs(
    service: str,
    *,
    level: str | None = None,
    format: str | None = None,  # noqa: A002 - the operator's word: LOG_FORMAT
    with_facts: bool = True,
    stream: TextIO | None = None,
) -> None:
    """Send all logs of this process to `stream`, by default stderr, with the name of the service. Can be called again.

    `level` and `format` default to LOG_LEVEL (INFO) and LOG_FORMAT (auto). `with_facts` says whether business facts are logged. Raises
    ConfigurationError for an unknown value. Raises it also if STRIPE_LOG is set, because the Stripe SDK would then print request bodies
    without redaction.
    """
    if os.environ.get("STRIPE_LOG"):
        raise ConfigurationError("STRIPE_LOG must not be set: it makes the Stripe SDK print what it sends, unredacted")
    lowest = _one_of("LOG_LEVEL", (level or os.environ.get("LOG_LEVEL") or "INFO").upper(), LEVELS)
    chosen = _one_of("LOG_FORMAT", (format or os.environ.get("LOG_FORMAT") or "auto").lower(), FORMATS)
    terminal = (stream or sys.stderr).isatty()
    pretty = chosen == "console" or (chosen == "auto" and terminal)
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(service, _console(colors=terminal) if pretty else _render_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(lowest)
    logging.getLogger(FACTS_LOGGER).setLevel(logging.NOTSET if with_facts else logging.CRITICAL)
    _route_libraries(root.level)
    _route_uncaught()


def _one_of(variable: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ConfigurationError(f"{variable} is {value!r}: it must be one of {', '.join(known)}")
    return value


def _route_libraries(lowest: int) -> None:
    for name, level in _LIBRARY_LEVELS.items():
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(level, lowest))
    logging.captureWarnings(capture=True)


def _route_uncaught() -> None:
    """Log exceptions that nobody caught. Otherwise the interpreter prints them, with everything their texts say.

    Hooks that somebody else has set (a test runner, a debugger) stay.
    """
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _log_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_uncaught_in_thread
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        get_logger("uncaught").critical("uncaught exception", exc_info=error)


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        get_logger("uncaught").critical("uncaught exception in a thread", exc_info=args.exc_value)


def _log_unraisable(args: Any) -> None:  # `sys.UnraisableHookArgs`, the type of `args`, exists for type checkers only
    get_logger("uncaught").error("exception that could not be raised", exc_info=args.exc_value)


# -- business facts --------------------------------------------------------------------------------------------------------------------


class _Facts(tuple[Mapping[str, Any], ...]):
    """The facts of one commit. They need no redaction, and are written together."""

    __slots__ = ()


def are_facts_logged() -> bool:
    """Whether `log_facts` writes anything."""
    return logging.getLogger(FACTS_LOGGER).isEnabledFor(logging.INFO)


def log_facts(facts: Sequence[Mapping[str, Any]]) -> None:
    """Log business facts, one line each. They are written as they are: the caller gives nothing that would have to be redacted."""
    logger = logging.getLogger(FACTS_LOGGER)
    logger.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, _Facts(facts), (), None))


# -- from an event to a redacted record --------------------------------------------------------------------------------


def _fill_in(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put positional arguments into the event's text. If they do not fit, they become a field of their own."""
    arguments = event.pop("positional_args", None)
    if arguments:
        try:
            event["event"] = str(event["event"]) % arguments
        except (TypeError, ValueError):
            event["arguments"] = arguments
    return event


def _describe_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    error = _exception_of(event.pop("exc_info", None))
    if error is not None:
        event["error_type"] = type(error).__qualname__
        event["exception"] = _Traceback(traceback_text(error))
    return event


def _exception_of(exc_info: object) -> BaseException | None:
    """The exception of an `exc_info`: itself an exception, or the triple of `sys.exc_info`, or true for the current exception."""
    match exc_info:
        case BaseException():
            return exc_info
        case (_, BaseException() as error, _):
            return error
        case _:
            return sys.exc_info()[1] if exc_info else None


class _Traceback(str):
    """A traceback. It is redacted already, and may be longer than other values."""

    __slots__ = ()


_redact_name = lru_cache(maxsize=1024)(redact)  # there are few names of fields


def _redact_event(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        _redact_name(name): value
        if name in _STRUCTLOG_OWN or isinstance(value, _Traceback)
        else redact_member(name, value)
        for name, value in event.items()
    }  # fmt: skip


_TO_REDACTED: Final[tuple[Processor, ...]] = (
    _fill_in,
    _describe_exception,
    _redact_event,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
)

structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        *_TO_REDACTED,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    wrapper_class=Logger,
    logger_factory=structlog.stdlib.LoggerFactory(),
    cache_logger_on_first_use=True,
)


# -- from a redacted record to a line ----------------------------------------------------------------------------------


def _render_json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return visible_json(orjson.dumps(event).decode())


def _console(*, colors: bool) -> Processor:
    render = structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )

    def render_visibly(logger: WrappedLogger, name: str, event: EventDict) -> str:
        return render(logger, name, {visible(key): _visible_value(value) for key, value in event.items()})

    return render_visibly


def _visible_value(value: object) -> object:
    """The value as the console shows it. Only a traceback has lines of its own; a structure is shown by its `repr`."""
    match value:
        case _Traceback():
            return _Traceback(visible(value, lines=True))
        case str():
            return visible(value)
        case None | bool() | int() | float():
            return value
        case _:
            return visible(repr(value))


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Formats lines of structlog and of libraries in the same way, common fields first."""

    def __init__(self, service: str, render: Processor) -> None:
        super().__init__(
            processors=[self.remove_processors_meta, _in_order(service), render],
            foreign_pre_chain=_TO_REDACTED,
        )
        self._service, self._render = service, render

    def format(self, record: logging.LogRecord) -> str:
        try:
            if isinstance(record.msg, _Facts):
                return self._format_facts(record, record.msg)
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - arguments may not fit, and JSON may not know a field's type
            event = record.msg.get("event") if isinstance(record.msg, dict) else record.msg
            fields = {"level": record.levelname.lower(), "logger": record.name, "event": redact(str(event))}
            return visible_json(orjson.dumps({**fields, "log_error": describe_error(error)}).decode())

    def _format_facts(self, record: logging.LogRecord, facts: _Facts) -> str:
        """One line a fact, without the processors of other lines: they would cost more than the commit."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        common = {"time": time, "level": "info", "service": self._service, "logger": FACTS_LOGGER}
        return "\n".join(str(self._render(None, "info", {**common, **fact})) for fact in facts)


def _in_order(service: str) -> Processor:
    def put_in_order(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        named = {"service": service, **event}
        return {name: named[name] for name in _FIRST_FIELDS if name in named} | named

    return put_in_order


class _Handler(logging.Handler):
    """Writes to the given stream. Without one, it writes to what `sys.stderr` is at the time."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self._known: TextIO | None = None
        self._pipe: LogPipe | None = None

    def emit(self, record: logging.LogRecord) -> None:
        target = self._stream or sys.stderr
        # If nobody reads the pipe any more, the line is lost. By default, logging would print its arguments without redaction.
        with suppress(OSError, ValueError):
            lines = self.format(record) + "\n"
            pipe = self._pipe_of(target)
            if pipe is None:
                target.write(lines)
                target.flush()
                return
            pipe.write(lines)
            if lost := pipe.lost():
                get_logger(__name__).warning(
                    "log_lines_dropped", lines=lost, advice="whoever reads the log stood still"
                )

    def flush(self) -> None:
        """Called when the process ends."""
        with self.lock or nullcontext(), suppress(OSError, ValueError):
            if self._pipe is not None:
                self._pipe.flush()

    def _pipe_of(self, target: TextIO) -> LogPipe | None:
        if target is not self._known:
            self._known = target
            try:
                self._pipe = LogPipe.before(target.fileno())
            except (AttributeError, OSError, ValueError):  # a stream in memory
                self._pipe = None
        return self._pipe
