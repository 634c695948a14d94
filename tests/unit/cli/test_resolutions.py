"""Whatever a person can decide can be said on the command line."""

from typing import get_args

from deploy.cli import payments
from services.staff import domain


def test_every_resolution_can_be_typed() -> None:
    assert {*get_args(payments.Resolution), "reopen"} == set(get_args(domain.Resolution)), "`reopen` is its own command"
