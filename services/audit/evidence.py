"""Evidence beside the raw stores: a fault run's report, the records of an independent listener, a baseline taken earlier.

Large files are never held in memory: the listener's records go into a private table on disk.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.audit.align import pages
from services.audit.errors import AuditError
from shared.contracts.mistakes import words

ROWS_A_WRITE = 5_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PlannedFault(_Part):
    """A fault of the run's plan, and how often it fired."""

    name: str
    fired: int


class PlantedFault(_Part):
    """A build with a planted fault: the check that it must break, and the checks that it broke."""

    name: str
    expected: str
    red: tuple[str, ...]


class FaultRunReport(_Part):
    """A fault run's report about itself."""

    planned: tuple[PlannedFault, ...]
    seen: dict[str, int]
    planted: tuple[PlantedFault, ...] | None = None


class Baseline(_Part):
    """The state of a drained system at an earlier time. `digest`: of every table's content."""

    connections: dict[str, int] | None = None
    memory_mib: dict[str, float] | None = None
    digest: dict[str, str] | None = None


class _QueueCounts(_Part):
    """The counts of a queue. `messages` and `messages_ready` are newer columns, which may be missing."""

    name: str
    messages_unacknowledged: int
    messages: int | None = None
    messages_ready: int | None = None

    @property
    def stuck(self) -> int | None:
        """Messages that are neither ready nor with a consumer: they wait for the broker to dead-letter them."""
        if self.messages is None or self.messages_ready is None:
            return None
        return max(0, self.messages - self.messages_ready - self.messages_unacknowledged)


class _Entry(_Part):
    queue: str
    message_id: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")


@dataclass(frozen=True, slots=True)
class TappedMessage:
    """A message that a queue received. `bodies`: how many different bodies had its id there."""

    queue: str
    message_id: str
    sha256: str
    bodies: int


class TapRecording:
    """What an independent listener received on queues of its own, which are bound as ours are."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def messages(self) -> Iterator[TappedMessage]:
        """Each message of each queue once, in the order of queues and ids."""
        sql = "SELECT queue, message_id, max(sha256), count(*) FROM tapped GROUP BY queue, message_id ORDER BY 1, 2"
        for row in self._connection.execute(sql):
            yield TappedMessage(*row)

    def bodies(self, queue: str, message_ids: Sequence[str]) -> dict[str, set[str]]:
        """SHA-256 of the bodies under these ids that the queue received."""
        places = ", ".join("?" * len(message_ids))
        sql = f"SELECT message_id, sha256 FROM tapped WHERE queue = ? AND message_id IN ({places})"  # noqa: S608 - places
        found: dict[str, set[str]] = {}
        for message_id, digest in self._connection.execute(sql, (queue, *message_ids)):
            found.setdefault(message_id, set()).add(digest)
        return found


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence that was given. Of several baselines the last one counts.

    `lost`: queues that were deleted with their messages, or lost with their broker. `unacked`: the number of deliveries not acknowledged,
    by queue. `stuck`: the number of messages that only wait to be dead-lettered, by queue; None if it was not told.
    """

    tap: TapRecording | None = None
    run: FaultRunReport | None = None
    baselines: tuple[Baseline, ...] = ()
    logs: Path | None = None
    seals: Path | None = None
    lost: frozenset[str] = frozenset()
    unacked: Mapping[str, int] | None = None
    stuck: Mapping[str, int] | None = None


def read_run(path: Path) -> FaultRunReport:
    """The report of a fault run. Raises AuditError."""
    return _read(path, FaultRunReport, "the report of a fault run")


def read_baseline(path: Path) -> Baseline:
    """A baseline. Raises AuditError."""
    return _read(path, Baseline, "a baseline, as `remit audit baseline` writes it")


def read_queue_counts(path: Path) -> tuple[dict[str, int], dict[str, int] | None]:
    """What `rabbitmqctl list_queues` printed as JSON: `unacked` and `stuck` of `Evidence`. Raises AuditError."""
    queues = _read(path, tuple[_QueueCounts, ...], "what rabbitmqctl prints of queues as JSON")
    stuck = {queue.name: count for queue in queues if (count := queue.stuck) is not None}
    return {queue.name: queue.messages_unacknowledged for queue in queues}, stuck or None


T = TypeVar("T")


def _read(path: Path, form: type[T], what: str) -> T:
    try:
        return TypeAdapter(form).validate_json(path.read_bytes())
    except OSError as error:
        raise AuditError(f"{path} cannot be read ({error.strerror}).") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "all of it"
        raise AuditError(f"{path.name} is not {what}: {place}: {words(first)}.") from None


@contextmanager
def open_tap(path: Path) -> Iterator[TapRecording]:
    """Sort the listener's file into a private table on disk. Raises AuditError."""
    with closing(sqlite3.connect("")) as connection:
        connection.execute(
            "CREATE TABLE tapped (queue, message_id, sha256, PRIMARY KEY (queue, message_id, sha256)) WITHOUT ROWID"
        )
        try:
            with path.open(encoding="utf-8") as lines:
                rows = (_entry(path, number, line) for number, line in enumerate(lines, 1) if line.strip())
                for entries in pages(rows, ROWS_A_WRITE):
                    connection.executemany("INSERT OR IGNORE INTO tapped VALUES (?, ?, ?)", entries)
        except OSError as error:
            raise AuditError(f"{path} cannot be read ({error.strerror}).") from None
        connection.commit()
        yield TapRecording(connection)


Row = tuple[str, str, str]


def _entry(path: Path, number: int, line: str) -> Row:
    try:
        entry = _Entry.model_validate(json.loads(line))
    except ValueError:  # also a ValidationError, which is a ValueError
        raise AuditError(
            f'{path.name}, line {number}, is not of the form {{"queue": ..., "message_id": ..., "sha256": ...}}.'
        ) from None
    name = (entry.message_id or "").replace("\0", "").encode("utf-8", "replace").decode()  # as PostgreSQL can store it
    return entry.queue, name.lower(), entry.sha256.lower()
