"""The shape of a specification: given what happened, when this arrives, then exactly that follows.

A table `SCENARIOS` names each behaviour of one command, fact or step. `tests/unit/test_specification.py` reads these tables and reports
what they lack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest

Given = TypeVar("Given")
When = TypeVar("When")
Then = TypeVar("Then")


@dataclass(frozen=True, slots=True)
class Scenario(Generic[Given, When, Then]):
    """One behaviour. `then` is everything that follows, as a whole value."""

    given: Given
    when: When
    then: Then


def each(scenarios: Mapping[str, Scenario[Given, When, Then]]) -> pytest.MarkDecorator:
    """Run a test once for each scenario, under the scenario's name."""
    return pytest.mark.parametrize("scenario", scenarios.values(), ids=list(scenarios))
