"""One meaning a name: a class name in two places means the same thing in both."""

import ast
from collections import defaultdict

from tests.support.environment import ROOT
from tests.unit.books.source import nodes, python_files, tree

HOUSES = ("shared", "services", "deploy", "tests")
LAYERS = {
    "shared/contracts/invoice.py",  # on the wire
    "shared/contracts/payment_gateway.py",
    "services/invoice/domain.py",  # decided on
    "services/invoice/refunds.py",
    "services/payment_gateway/commands.py",
    "services/payment_gateway/domain.py",
    "services/payment_gateway/gateways/port.py",  # answers of the gateway
    "services/saga/domain.py",  # received as facts, and sent
    "services/saga/refunds.py",
    "services/staff/domain.py",
    "tests/bench/peers/contracts.py",  # the same messages, for the systems that we compare with
}
"""Modules in which one command, event or outcome has a class of its own in each layer that it passes."""
KIT = ROOT / "shared/kit"
"""A package for other programs, in which a command is a command and not one of ours: it has names of its own."""


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for path in python_files(*HOUSES):
        for node in () if KIT in path.parents else nodes(path):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(path.relative_to(ROOT).as_posix())
    twice = {name: sorted(where) for name, where in places.items() if len(where) > 1 and not where <= LAYERS}
    assert not twice, f"give each a name that says whose it is: {twice}"


def test_a_limit_is_named_with_its_limit_last() -> None:
    """A limit is `X_MAX`, never `MAX_X`."""
    wrong = [
        f"{path.relative_to(ROOT)}: {target.id}"
        for path in python_files(*HOUSES)
        for node in tree(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id.lstrip("_").startswith(("MAX_", "MIN_"))
    ]
    assert not wrong, wrong
