"""What it costs to be seen: metrics that are served and scraped, traces that are sent, a line for each business fact.

*Seen* is what we deploy, with one trace in twenty (`deploy/compose.yaml`). *Unseen* has none of it. Both are played in turns. Other
programs of the machine change throughput far more than this does, so the CPU of a payment tells more.
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from shared.observability.traces import TRACES_PATH
from tests.bench.measure import OUTSIDE, POSTGRESQL, RABBITMQ
from tests.bench.report import Goal, Row, Table
from tests.bench.scenarios import BenchScenario, ScenarioOutcome

SEEN: Final = "seen"
UNSEEN: Final = "unseen"
ROUNDS: Final = 5
TRACED: Final = 0.05
AT_LEAST: Final = 0.93
TOGETHER: Final = "together"
PER_S: Final = "payments/s"


def scenarios(gateway: Mapping[str, str], collector_url: str, payments: int) -> list[BenchScenario]:
    """The same burst, unseen and seen."""
    unseen = {**gateway, "LOG_FACTS": "off", "LOG_LEVEL": "ERROR", "OTEL_SDK_DISABLED": "true"}
    seen = {
        **gateway,
        "LOG_FACTS": "on",
        "LOG_LEVEL": "INFO",
        "OTEL_SDK_DISABLED": "false",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector_url}{TRACES_PATH}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(TRACED),
    }
    return [
        BenchScenario(UNSEEN, unseen, payments, rounds=ROUNDS),
        BenchScenario(SEEN, seen, payments, rounds=ROUNDS, is_scraped=True),
    ]


# -- what it costs -----------------------------------------------------------------------------------------------------------------------


def table(outcomes: Mapping[str, ScenarioOutcome]) -> Table:
    """CPU of a payment and payments per second, unseen and seen. Of each cell the middle one of all rounds."""
    if not {SEEN, UNSEEN} <= outcomes.keys():
        return Table("Seen and unseen", {})
    seen, unseen = _middle(outcomes[SEEN]), _middle(outcomes[UNSEEN])
    rows: dict[str, Row] = {
        name: {UNSEEN: unseen[name], SEEN: seen[name], "seen / unseen": seen[name] / unseen[name]} for name in unseen
    }
    return Table(
        "Seen and unseen", rows, "ms of CPU per payment, and payments/s; of each cell the middle of all rounds"
    )


def goals(outcomes: Mapping[str, ScenarioOutcome]) -> Iterator[Goal]:
    """Throughput seen is nearly that unseen: by the CPU that a payment takes, and by the clock."""
    rows = table(outcomes).rows
    if rows:
        cpu, per_s = rows[TOGETHER], rows[PER_S]
        yield Goal("seen, of unseen, by CPU", float(cpu[UNSEEN]) / float(cpu[SEEN]), at_least=AT_LEAST)
        yield Goal("seen, of unseen, by payments/s", float(per_s["seen / unseen"]), at_least=AT_LEAST)


def _middle(outcome: ScenarioOutcome) -> dict[str, float]:
    services = sorted(outcome.spent.cpu_s.keys() - OUTSIDE - {RABBITMQ, POSTGRESQL})
    payments = outcome.scenario.payments
    middle = {
        name: median(one.spent.cpu_s[name] / payments * 1e3 for one in outcome.rounds)
        for name in (*services, RABBITMQ, POSTGRESQL)
    }
    middle[TOGETHER] = median(one.spent.system_s / payments * 1e3 for one in outcome.rounds)
    middle[PER_S] = median(outcome.rounds_per_s)
    return middle
