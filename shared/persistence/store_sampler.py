"""Reads gauges from the database of a service, for the operator: one statement for each group of gauges.

Every instance reads the whole database, so every instance shows the same. Of several instances one takes the maximum, never the sum.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from typing import Any

from shared.observability.sampled import SampledGauge
from shared.persistence.database import Connection, Database, Record
from shared.records import dataclass, field

OTHER = "other"
"""The label of whatever is in none of the lists: a row that a newer build or a stranger wrote."""
SAMPLE_INTERVAL_S = 15.0
"""As often as Prometheus looks, by our `deploy/prometheus/prometheus.yml`. More often nobody would see."""
SHARE = 20
"""Reading takes at most this part of one session. It is dear while a long snapshot holds many dead rows, which an index still names."""
LONGEST_INTERVAL_S = 240.0
"""Whoever watches hears of the money in doubt at least so often: the alert that nobody knows of it waits for five minutes."""
ZEROS_MAX = 128
"""Gauges with so few possible labels show 0 for each of them. With more, only what was seen is shown."""


@dataclass(frozen=True, slots=True)
class Gauged:
    """A column of a reading, and the gauge that shows it. `merge` makes one value of those whose labels are all `other`."""

    gauge: SampledGauge
    column: str
    merge: Callable[[Sequence[float]], float] = sum


@dataclass(frozen=True, slots=True)
class Reading:
    """One statement, and the gauges that show its columns.

    `labels` has the closed list of the values of each label, by the column that holds them: a label is never free text. The statement
    has to be cheap, however large its tables are: an index finds its rows, or it counts up to a limit.
    """

    statement: str
    gauges: Sequence[Gauged]
    labels: Mapping[str, Collection[str]] = field(default_factory=dict)
    arguments: Sequence[Any] = ()
    since: Callable[[], Any] | None = None
    """Gives the last argument anew for each reading, instead of that in `arguments`: the times from which on there are rows to read."""

    async def read(self, connection: Connection) -> None:
        """Run the statement, and show what it gives."""
        arguments = self.arguments if self.since is None else [*self.arguments[:-1], self.since()]
        rows = await connection.fetch(self.statement, *arguments)
        for gauged in self.gauges:
            gauged.gauge.show(self._zeros() | self._values(gauged, rows))

    def hide(self) -> None:
        """Have the gauges show nothing."""
        for gauged in self.gauges:
            gauged.gauge.hide()

    def _values(self, gauged: Gauged, rows: Sequence[Record]) -> dict[tuple[str, ...], float]:
        values: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for row in rows:
            labels = tuple(row[label] if row[label] in known else OTHER for label, known in self.labels.items())
            values[labels].append(float(row[gauged.column]))
        return {labels: gauged.merge(some) for labels, some in values.items()}

    def _zeros(self) -> dict[tuple[str, ...], float]:
        combinations = list(product(*self.labels.values()))
        return dict.fromkeys(combinations, 0.0) if len(combinations) <= ZEROS_MAX else {}


class StoreSampler:
    """Reads all gauges of a service. While the database is away they show nothing, since what they showed may not be true any more."""

    name = "store_sampler"
    interval_s = SAMPLE_INTERVAL_S
    retry_on: tuple[type[Exception], ...] = (Exception,)
    """Not even a bug may end the service: it pays, and this only tells."""

    def __init__(
        self, database: Database, readings: Sequence[Reading], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._readings = readings
        self._clock = clock
        self._shortest_s = self.interval_s

    async def run_once(self) -> float:
        """Read once. Raises what a statement raised; the gauges of the others are read all the same."""
        began_at = self._clock()
        try:
            await self._read()
        finally:
            took_s = self._clock() - began_at
            self.interval_s = min(max(self._shortest_s, SHARE * took_s), LONGEST_INTERVAL_S)
        return self.interval_s

    async def _read(self) -> None:
        failure: Exception | None = None
        for reading in self._readings:
            try:
                async with self._database.connection() as connection:
                    await reading.read(connection)
            except Exception as error:  # noqa: BLE001 - it is raised once the others are read
                reading.hide()
                failure = error
        if failure is not None:
            raise failure
