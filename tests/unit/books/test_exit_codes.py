"""The table of exit codes equals the code, and nothing else ends a process with a number of its own."""

import ast

from deploy.cli import output
from shared import service
from tests.unit.books.documents import DEPLOY, ROOT, table

OF_REMIT = {output.OK, output.REFUSED, output.MISUSED, output.INTERRUPTED, output.NOBODY_READS}
OF_A_SERVICE = {0, service.EXIT_FAILED, service.EXIT_MISCONFIGURED, service.EXIT_FORCED}


def test_the_table_has_every_exit_code() -> None:
    rows = table(DEPLOY, "exit code", "of a service", "of `remit`").rows
    assert {int(code) for code, _, of_remit in rows if of_remit} == OF_REMIT
    assert {int(code) for code, of_a_service, _ in rows if of_a_service} == OF_A_SERVICE
    assert len(rows) == len(OF_REMIT | OF_A_SERVICE)


def test_no_command_ends_with_a_number_of_its_own() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "deploy" / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"typer.Exit", "sys.exit", "fail", "CliError"}
        and any(
            isinstance(one, ast.Constant) and isinstance(one.value, int)
            for one in [*node.args, *(k.value for k in node.keywords)]
        )
    ]
    assert found == []
