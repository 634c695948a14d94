"""Crash points: every boundary in the code has one on either side, and their table matches the code."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from deploy.cli.crash_points import app
from shared import crash_points
from shared.crash_points import NAMES, POINTS
from shared.settings import ConfigurationError
from tests.support.environment import ROOT
from tests.unit.books.source import python_files, tree

SOURCES = [path for path in python_files("shared", "services") if "services/audit" not in str(path)]

EXEMPT = {
    ("shared/batch/retry.py", "_ask_database"): "reads only",
    ("shared/service.py", "_open_migrated"): "reads only",
    ("shared/persistence/store_sampler.py", "_read"): "reads only",
    ("shared/persistence/seals.py", "run_once"): "a seal that is not stored is made at the next look",
    ("shared/persistence/stalled_sessions.py", "run_once"): "ends sessions, which a repetition ends again",
    (
        "shared/messaging/outbox_keeper.py",
        "_renew",
    ): "reserves what this process has in hand: a repetition does the same",
    ("shared/messaging/outbox_sweeper.py", "_look"): "reads only",
    ("services/saga/deadlines.py", "_look"): "reads only",
    ("services/invoice/reminders.py", "_look"): "reads only",
    ("services/payment_gateway/__main__.py", "assemble_with"): "tells the adapter how to wait: no call",
    ("services/payment_gateway/gateway_watch.py", "_ask"): "changes nothing at the gateway",
    ("services/payment_gateway/reconcile/fetch.py", "_page"): "reads only",
    ("services/payment_gateway/reconcile/fetch.py", "fetch_one"): "reads only",
    ("services/payment_gateway/reconcile/fetch.py", "_disputes"): "reads only",
    ("services/payment_gateway/reconcile/run.py", "_asked"): "reads only",
    ("services/payment_gateway/webhooks.py", "_owner"): "reads only",
    (
        "services/payment_gateway/webhooks.py",
        "_look",
    ): "a look that comes again changes nothing; until it is stored, the gateway repeats",
    ("services/payment_gateway/charging.py", "_inquire"): "its caller has both crash points, and it changes nothing",
    ("services/payment_gateway/charging.py", "finish"): "closes the gateway's client: no call",
    (
        "services/staff/decisions.py",
        "repeat",
    ): "what it repeats has the id and bytes of the first time, and the outbox keeps it",
    ("services/staff/actions/dead_letters.py", "list_dead_letters"): "reads only",
    ("services/staff/journal.py", "run_once"): "reads only",
    ("services/staff/journal.py", "_copy"): "reads only; the file tells which seals it has",
    (
        "services/staff/journal.py",
        "_seal",
    ): "a seal that is not stored is made at the next look, and its event waits in the outbox",
    ("services/staff/journal_check.py", "run_once"): "a step that is not stored is taken again",
    ("services/staff/actions/dead_letters.py", "show_dead_letter"): "reads only",
    ("services/staff/actions/dead_letters.py", "ids_ending"): "reads only",
    ("services/staff/actions/dead_letters.py", "values_of"): "reads only",
    ("services/staff/actions/dead_letters.py", "_on_each"): "reads only",
    ("services/staff/actions/payments.py", "list_cases"): "reads only",
    ("services/staff/actions/payments.py", "show_case"): "reads only",
    ("services/staff/actions/results.py", "_told_as_done"): "reads only",
    ("services/staff/actions/results.py", "note_refusals"): "a note; what was refused changed nothing",
    ("services/staff/actions/log.py", "note_export"): "a note; a download that comes again is noted again",
    ("services/staff/actions/log.py", "ask_for_check"): "a check that is asked for again is made once more",
    ("services/staff/actions/dead_letters.py", "discard"): "reads only",
    (
        "services/staff/actions/results.py",
        "done_or_undone",
    ): "one commit: a refund has its points on either side, and a discard that is proposed sends nothing",
    (
        "services/staff/actions/proposals.py",
        "agree",
    ): "one commit of the same writes as in resolve, whose points stand for it",
    ("services/staff/actions/proposals.py", "disagree"): "one commit, and nothing is sent: done again, it is refused",
    ("services/staff/actions/proposals.py", "withdraw"): "one commit, and nothing is sent: done again, it is refused",
    (
        "services/staff/actions/cases.py",
        "_act",
    ): "one commit, and nothing is sent: done again, it is kept again or refused",
    ("services/staff/second_person.py", "run_once"): "a repetition writes the same",
    ("services/staff/actions/outboxes.py", "note_outbox_action"): "a note; done again, it is noted again",
    ("services/staff/actions/runs.py", "show_run"): "reads only",
    ("services/staff/run_sender.py", "run_once"): "reads only",
    (
        "services/staff/run_sender.py",
        "_try_turn",
    ): "stops a run whose turn failed: the next turn fails and stops it, too",
    ("services/staff/letter_reader.py", "run_once"): "what bodies say, which a repetition reads again",
    ("services/staff/actions/accounts.py", "_store"): "an account or a session: who tries again is told how it is",
    ("services/staff/desk/desk.py", "read"): "reads only",
    ("services/staff/desk/once.py", "perform"): "a note of what was done; without it, the act itself says so",
    ("services/staff/desk/routing.py", "_kept"): "forgets what was typed once it is shown",
    ("services/staff/desk/routing.py", "_sign_in_first"): "keeps what was typed: the form is still in the browser",
    ("services/staff/desk/sessions.py", "visitor_of"): "when somebody clicked last: a later click says it again",
    ("services/staff/desk/sessions.py", "_program"): "when a token was used last: a later request says it again",
    ("shared/heartbeat.py", "_overdue"): "reads only",
    ("shared/heartbeat.py", "run_once"): "a heartbeat that is lost is followed by the next",
    ("services/invoice/rebuild.py", "rebuild"): "reads only",
    ("services/invoice/door/tokens.py", "_read"): "reads only",
    ("services/invoice/door/reader.py", "find"): "reads only",
    ("services/invoice/door/reader.py", "settled"): "reads only",
    ("services/invoice/sender_tokens.py", "tokens"): "reads only",
    ("shared/web/pulse.py", "run_once"): "reads only",
    ("services/invoice/sender_tokens.py", "make"): "a token that nobody was shown is listed, and another one is made",
    ("services/invoice/sender_tokens.py", "revoke"): "a repetition has the same result",
    ("services/purge/run.py", "_rows"): "reads only",
    ("services/purge/run.py", "_forget_cached_states"): "ends sessions, which a repetition ends again",
    (
        "services/invoice/rebuild.py",
        "_compare",
    ): "a person's repair of states that events give anyway: a repetition has the same result",
}
"""Boundaries that need no crash point, by file and function, each with the reason."""


# -- reading the code ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A statement in its block, with the blocks around it, the innermost last: (statements, index)."""

    node: ast.stmt
    path: tuple[tuple[list[ast.stmt], int], ...]


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def places(block: list[ast.stmt], around: tuple[tuple[list[ast.stmt], int], ...] = ()) -> Iterator[Place]:
    """Every statement below, without those of inner functions."""
    for at, node in enumerate(block):
        path = (*around, (block, at))
        yield Place(node, path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for inner in blocks(node):
            yield from places(inner, path)


def blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        if isinstance(inner := getattr(node, name, None), list):
            yield inner
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def own_expressions(node: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of the statement itself, without those of the statements below it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from ast.walk(child)


def called(node: ast.AST) -> tuple[str, str] | None:
    """(`gateway`, `execute`) for `self.gateway.execute(...)` and `gateway.execute(...)`; a leading underscore does not count."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    owner = node.func.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name.lstrip("_"), node.func.attr


def point_of(node: ast.stmt) -> str | None:
    """The crash point's name if the statement is one."""
    if isinstance(node, ast.Expr) and called(node.value) == ("crash_points", "reach"):
        assert isinstance(node.value, ast.Call)
        (name,) = node.value.args
        assert isinstance(name, ast.Constant), "the name of a point is written where it is passed"
        return str(name.value)
    return None


# -- boundaries ------------------------------------------------------------------------------------------------------------------------


def is_call_boundary(node: ast.stmt) -> bool:
    """Whether the statement waits for a confirm, acknowledges deliveries, or calls the payment gateway."""
    calls = {call for expression in own_expressions(node) if (call := called(expression))}
    return any(call in {("publisher", "publish"), ("consumer", "ack")} or call[0] == "gateway" for call in calls)


def opens(node: ast.stmt, what: str) -> bool:
    return isinstance(node, ast.AsyncWith) and any(
        call == ("database", what) for item in node.items for call in [called(item.context_expr)]
    )


def follows(place: Place) -> bool:
    """Whether a crash point comes next: in the block, or after the `with` or `try` that the block ends. An early return does not count."""
    for block, at in reversed(place.path):
        for node in block[at + 1 :]:
            if point_of(node) is not None:
                return True
            if not is_early_return(node):
                return False
    return False


def precedes(place: Place) -> bool:
    for block, at in reversed(place.path):
        if at:
            return point_of(block[at - 1]) is not None
    return False


def is_early_return(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], ast.Return)


def lacks(place: Place) -> str | None:
    """What is missing around the statement; None if nothing is, or if it is no boundary."""
    node = place.node
    if is_call_boundary(node):
        return None if precedes(place) and follows(place) else "call"
    if opens(node, "transaction"):
        assert isinstance(node, ast.AsyncWith)
        return None if point_of(node.body[-1]) is not None and follows(place) else "commit"
    if opens(node, "connection"):
        inside = [point_of(inner.node) for inner in places([node])]
        return (
            None if sum(name is not None for name in inside) >= 2 or (any(inside) and follows(place)) else "statement"
        )
    return None


def boundaries() -> Iterator[tuple[str, str, Place]]:
    for path in SOURCES:
        for function in functions(tree(path)):
            for place in places(function.body):
                if is_call_boundary(place.node) or opens(place.node, "transaction") or opens(place.node, "connection"):
                    yield str(path.relative_to(ROOT)), function.name, place


def used() -> list[str]:
    return [
        name
        for path in SOURCES
        for function in functions(tree(path))
        for place in places(function.body)
        if (name := point_of(place.node)) is not None
    ]


# -- the table and the code ------------------------------------------------------------------------------------------------------------


def test_every_boundary_has_a_point_before_and_after_it() -> None:
    bare = [
        f"{path}:{place.node.lineno} in {function}: a {what} without a point on either side"
        for path, function, place in boundaries()
        if (path, function) not in EXEMPT and (what := lacks(place)) is not None
    ]
    assert bare == []


def test_every_exemption_exists_and_is_needed() -> None:
    bare = {(path, function) for path, function, place in boundaries() if lacks(place) is not None}
    assert bare == set(EXEMPT)


def test_the_search_finds_boundaries() -> None:
    found = {(path, function) for path, function, _ in boundaries()}
    assert {
        ("shared/batch/transaction.py", "_commit_at_once"),
        ("shared/batch/transaction.py", "_commit_in_transaction"),
        ("shared/batch/worker.py", "_store_dead_letters"),
        ("shared/messaging/relay.py", "_publish_messages"),
        ("shared/messaging/relay.py", "_postpone"),
        ("shared/messaging/outbox_keeper.py", "delete_confirmed"),
        ("shared/messaging/outbox_sweeper.py", "sweep"),
        ("services/payment_gateway/charging.py", "_call"),
        ("services/payment_gateway/lease_claimer.py", "_lease"),
        ("services/payment_gateway/group_commit.py", "_commit_at_once"),
        ("services/payment_gateway/group_commit.py", "_commit_in_transaction"),
        ("services/saga/deadlines.py", "fire"),
        ("services/staff/intake.py", "run"),
        ("services/staff/actions/payments.py", "resolve"),
        ("services/invoice/reminders.py", "remind"),
    } <= found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "async def f(self):\n async with self._database.transaction() as tx:\n  await g(tx)\n crash_points.reach('a')",
            "commit",
        ),
        (
            "async def f(self):\n async with database.transaction() as tx:\n  crash_points.reach('a')\n g()\n crash_points.reach('b')",
            "commit",
        ),
        (
            "async def f(self):\n async with database.transaction() as tx:\n  crash_points.reach('a')\n crash_points.reach('b')",
            None,
        ),
        ("async def f(self):\n crash_points.reach('a')\n await self._consumer.ack(x)\n return 1", "call"),
        ("async def f(self):\n a = await self.gateway.execute(x)\n crash_points.reach('a')", "call"),
        (
            "async def f(self):\n crash_points.reach('a')\n a = await self.gateway.execute(x)\n crash_points.reach('b')",
            None,
        ),
        (
            "async def f(self):\n async with database.connection() as c:\n  await store.claim(c)\n crash_points.reach('b')",
            "statement",
        ),
        (
            "async def f(self):\n async with database.connection() as c:\n  crash_points.reach('a')\n  r = await store.claim(c)\n"
            " if not r:\n  return 0\n crash_points.reach('b')",
            None,
        ),
    ],
)
def test_the_search_accepts_good_code_and_reports_bad_code(source: str, what: str | None) -> None:
    (function,) = functions(ast.parse(source))
    assert {found for place in places(function.body) if (found := lacks(place)) is not None} == (
        {what} if what else set()
    )


def test_points_are_declared_and_declared_ones_are_used() -> None:
    assert set(used()) == NAMES
    assert len(NAMES) == len(POINTS), "no name is declared twice"
    assert len(used()) == len(POINTS), "a name is used in two places: one of them would never be seen to fire"


# -- arming ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    crash_points.arm("")


@pytest.mark.parametrize(
    "setting", ["shell.before_ack", "shell.before_ack:0:exit", "shell.before_ack:1:explode", "a:b:c"]
)
def test_a_setting_that_cannot_be_read_is_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="name:nth:action"):
        crash_points.arm(setting)


def test_an_unknown_point_is_refused_with_where_to_look() -> None:
    with pytest.raises(ConfigurationError, match="remit faults list"):
        crash_points.arm("shell.somewhere:1:exit")


def test_only_the_nth_pass_fails() -> None:
    crash_points.arm("shell.before_ack:2:raise")
    crash_points.reach("shell.before_ack")
    crash_points.reach("shell.after_ack")
    with pytest.raises(crash_points.InjectedFault, match=r"shell\.before_ack"):
        crash_points.reach("shell.before_ack")
    crash_points.reach("shell.before_ack")


def test_remit_lists_them_all() -> None:
    shown = CliRunner().invoke(app, ["list"])
    assert shown.exit_code == 0
    listed = CliRunner().invoke(app, ["list", "--json"])
    for point in POINTS:
        assert point.name in shown.stdout
        assert f'"{point.name}"' in listed.stdout
