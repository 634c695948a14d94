"""`remit faults list`: the crash points of the services."""

import typer

from deploy.cli.output import Json, console, write_json

app = typer.Typer(no_args_is_help=True, help="Places where a test makes a service fail.")


@app.command("list")
def list_points(*, json: Json = False) -> None:
    """Every crash point. REMIT_FAULT=name:nth:action makes a service fail there (exit, stop, raise or cancel). For tests only."""
    from dataclasses import asdict  # noqa: PLC0415 - `--help` need not pay

    from shared.crash_points import POINTS  # noqa: PLC0415

    if json:
        write_json([asdict(point) for point in POINTS])
        return
    from deploy.cli.tables import table  # noqa: PLC0415 - rich

    points = table()
    points.add_column("point", no_wrap=True)
    points.add_column("boundary")
    points.add_column("passed by")
    for point in POINTS:
        points.add_row(point.name, point.boundary, ", ".join(point.passed_by))
    console().print(points)


@app.callback()
def faults() -> None:
    """Without this callback Typer would drop the word `list`, since it is the only command here."""
