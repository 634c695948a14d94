"""The specification of the invoice, collected from the test modules of its commands."""

from importlib import import_module
from pathlib import Path

from services.invoice.domain import Command
from tests.unit.invoice.invoices import EventSpecification

_FILES = sorted(Path(__file__).parent.glob("test_*.py"))
_MODULES = [import_module(f"tests.unit.invoice.{path.stem}") for path in _FILES if "SCENARIOS:" in path.read_text()]

EVENTS: tuple[EventSpecification, ...] = tuple(event for module in _MODULES for event in getattr(module, "EVENTS", ()))
"""Every event, from the module of the command that causes it."""

COMMANDS: tuple[Command, ...] = tuple(dict.fromkeys(s.when for module in _MODULES for s in module.SCENARIOS.values()))
"""Every command, in every form that a scenario has."""
