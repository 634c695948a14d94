"""All trials of all families."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from typing import Final

from tests.faults.trial import Trial

FAMILIES: Final = (
    "crash",
    "again",
    "sender",
    "network",
    "stores",
    "servers",
    "gateway",
    "afterwards",
    "order",
    "people",
    "desk",
    "poison",
    "hostile",
    "fleet",
    "cluster",
    "versions",
    "alerts",
    "planted",
)


def all_trials() -> list[Trial]:
    """All trials in the order of the families. Raises ValueError if two have the same name."""
    modules = [f"tests.faults.{family}" for family in FAMILIES]
    trials = [trial for name in modules if find_spec(name) is not None for trial in import_module(name).trials()]
    names = [trial.name for trial in trials]
    if len(set(names)) < len(names):
        raise ValueError(f"two trials of one name: {sorted({name for name in names if names.count(name) > 1})}")
    return trials


def select(
    trials: Sequence[Trial], *, only: str | None = None, short: bool = False, part: tuple[int, int] | None = None
) -> list[Trial]:
    """The trials whose names match one of the patterns, separated by commas. `short`: only those of the short selection. `part`: `(3, 12)`
    is the third, fifteenth, ... of these, so twelve parts are all of them, and each has some of every large family."""
    patterns = [pattern.strip() for pattern in only.split(",")] if only else ["*"]
    chosen = [trial for trial in trials if any(fnmatchcase(trial.name, pattern) for pattern in patterns)]
    if short:
        chosen = [trial for trial in chosen if trial.short]
    if part is not None:
        number, parts = part
        chosen = chosen[number - 1 :: parts]
    return chosen
