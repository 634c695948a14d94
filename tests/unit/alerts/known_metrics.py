"""The metrics that a rule or a panel may name: ours, as the code has them, and those of others that we rely on."""

import re
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

from shared.observability import metrics
from shared.observability.sampled import SampledGauge

OF_OTHERS: Final = frozenset(
    {
        "up",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "rabbitmq_alarms_free_disk_space_watermark",
        "rabbitmq_alarms_memory_used_watermark",
        "rabbitmq_detailed_queue_consumers",
        "rabbitmq_detailed_queue_messages",
        "rabbitmq_detailed_queue_messages_ready",
        "rabbitmq_detailed_queue_messages_unacked",
    }
)
"""Of RabbitMQ's plugin `rabbitmq_prometheus` (3.10 to 4.x, at `/metrics` and `/metrics/detailed`), Prometheus and its client."""
RECORDED: Final = frozenset({"remit:money_in_doubt:limit", "remit:money_in_doubt:sum"})
"""What rules.yml records."""
_NAME: Final = re.compile(
    r"(?<![\w:#/.-])(?:remit|rabbitmq|process)_[a-z_]+(?![\w-])|(?<![\w:/])remit:[a-z_:]+|\bup(?=\{)"
)
_JOBS: Final = {"rabbitmq_queues", "rabbitmq_prometheus"}


def exposed() -> frozenset[str]:
    """The names that a scrape of our services can have."""
    names: set[str] = set()
    for metric in vars(metrics).values():
        if isinstance(metric, SampledGauge):
            names.add(metric.name)
        elif isinstance(metric, Histogram):
            names |= {f"{metric._name}{suffix}" for suffix in ("_bucket", "_sum", "_count")}
        elif isinstance(metric, Counter):
            names.add(f"{metric._name}_total")
        elif isinstance(metric, MetricWrapperBase):
            names.add(metric._name)
    return frozenset(names)


def metrics_in(text: str) -> set[str]:
    """The metrics that this text names."""
    return set(_NAME.findall(text)) - _JOBS


def unknown_metrics(text: str) -> set[str]:
    """Those of them that do not exist."""
    return metrics_in(text) - exposed() - OF_OTHERS - RECORDED
