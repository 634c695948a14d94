"""Gauges of what a store holds. A value is shown only by a service that knows it, and only as long as it knows it.

An ordinary gauge is 0 in every process that has it, and keeps its last value when its source is away. Both would lie about money.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

Values = Mapping[tuple[str, ...], float]
"""Values by the values of the labels, in the order of the gauge's labels."""


class SampledGauge(Collector):
    """A gauge without values until `show` or `follow` gives it some, and again after `hide`."""

    kind = "gauge"

    def __init__(
        self, name: str, documentation: str, labels: Iterable[str] = (), *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self._documentation = documentation
        self._read: Callable[[], Values] = dict
        registry.register(self)

    def show(self, values: Values) -> None:
        """Show these values instead of those before. What was shown and is not among them is 0 now, so that a curve ends at 0."""
        shown = dict.fromkeys(self._read(), 0.0) | dict(values)
        self._read = lambda: shown

    def follow(self, read: Callable[[], float]) -> None:
        """Ask `read` for the one value whenever somebody looks. The gauge has no labels."""
        self._read = lambda: {(): read()}

    def hide(self) -> None:
        """Show nothing: nobody knows the values now."""
        self._read = dict

    def values(self) -> Values:
        """What is shown at present."""
        return dict(self._read())

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The values at present, for the registry."""
        family = GaugeMetricFamily(self.name, self._documentation, labels=self.labels)
        for labels, value in self._read().items():
            family.add_metric(labels, value)
        yield family
