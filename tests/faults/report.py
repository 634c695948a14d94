"""The run in a table, as JSON, and as one HTML page with a picture per family. Every number is the run's own."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from tests.faults.run import Run
from tests.faults.trial import Result

SHOWN_MAX: Final = 40
"""Failures shown in the terminal; the files have all."""

Families = dict[str, list[Result]]


def by_family(results: Iterable[Result]) -> Families:
    families: Families = defaultdict(list)
    for result in results:
        families[result.family].append(result)
    return dict(families)


def save(run: Run) -> list[Path]:
    """run.json, which the audit reads (lines 17 and 18), and index.html."""
    data, page = run.folder / "run.json", run.folder / "index.html"
    data.write_bytes(orjson.dumps(run.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    page.write_text(html(run), encoding="utf-8")
    return [data, page]


# -- for the terminal ------------------------------------------------------------------------------------------------------------------


def show(run: Run, console: Console) -> None:
    """What was injected, how often it fired, how long recovery took, what held."""
    table = Table(title="Faults", title_justify="left")
    for column in ("family", "trials", "fired", "failed", "handled again s", "drained s", "audit lines held"):
        table.add_column(column, justify="left" if column == "family" else "right")
    for family, results in by_family(run.results).items():
        table.add_row(
            family,
            str(len(results)),
            str(sum(result.fired > 0 for result in results)),
            str(sum(not result.ok for result in results)),
            _spread([result.again_s for result in results]),
            _spread([result.drained_s for result in results]),
            _held(results),
        )
    console.print(table)
    seen = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(run.seen.items()))
    console.print(f"seen: {seen or 'nothing'}; {run.took_s:.0f} s in all")
    for line, verdict in sorted(run.verdicts.items()):
        console.print(f"line {line}: {verdict['verdict']} {'; '.join(verdict['why'])}", markup=False)
    failed = [result for result in run.results if not result.ok]
    for result in failed[:SHOWN_MAX]:
        console.print(f"FAILED {result.name}: {why(result)}", style="red", markup=False, soft_wrap=True)
    missing = len(run.trials) - len(run.results)
    if missing > 0:
        console.print(f"{missing} trials were not run", style="red")


def why(result: Result) -> str:
    """What is wrong with a result, in words."""
    words = [] if result.fired else ["it never fired"]
    words += [f"line {line} is broken" for line in result.broken if line != result.line]
    if result.line is not None and result.line not in result.broken:
        words.append(f"line {result.line} should have turned red")
    if not result.lines:
        words.append("the audit was not reached")
    return "; ".join([*words, *result.surprises])


def _spread(values: Sequence[float | None]) -> str:
    """Median and worst."""
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}, worst {max(known):.1f}" if known else "-"


def _held(results: Sequence[Result]) -> str:
    """A line holds only if it did wherever it was checked; one that was checked nowhere says nothing."""
    judged = [result for result in results if result.line is None]
    if not judged:
        return f"{sum(result.ok for result in results)} turned red"
    found = {line: {result.lines.get(line) for result in judged} for line in range(1, LINES + 1)}
    broken = [str(line) for line, verdicts in found.items() if "broken" in verdicts]
    held = sum("holds" in verdicts and "broken" not in verdicts for verdicts in found.values())
    return f"{held}" + (f", broken: {', '.join(broken)}" if broken else "")


# -- for the browser -------------------------------------------------------------------------------------------------------------------

_STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } .dim { color: #667 } .bad { color: #b3261e }
table { border-collapse: collapse } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
svg { display: block; max-width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #1c2430 }
svg .dim { fill: #667 } svg .held { fill: #2c7a4b } svg .broken { fill: #b3261e } svg .silent { fill: #b58900 }
svg .again { fill: none; stroke: #2c7a4b; stroke-width: 1.5 } svg .grid { stroke: #dde1e7 } svg .unchecked { fill: #c3c9d2 }
"""
LABEL_W: Final = 330
PLOT_W: Final = 480
COUNT_W: Final = 130
ROW_H: Final = 17
TOP_H: Final = 26
LINES: Final = 18
CELL: Final = 30


def html(run: Run) -> str:
    """One page that needs nothing else."""
    families = by_family(run.results)
    failed = [result for result in run.results if not result.ok]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Remit: fault run</title>",
        f"<style>{_STYLE}</style><h1>Fault run of {escape(run.began.strftime('%Y-%m-%d %H:%M UTC'))}</h1>",
        f"<p>{len(run.results)} of {len(run.trials)} trials in {run.took_s / 60:.1f} minutes; "
        f"{sum(result.fired > 0 for result in run.results)} fired, "
        f"<span class={'bad' if failed else 'dim'}>{len(failed)} failed</span>"
        + (f"; seed {run.seed}" if run.seed is not None else "")
        + f".</p><p class=dim>Seen on the way: {escape(_seen(run.seen))}.</p>",
    ]
    for family, results in families.items():
        parts += [
            f"<h2>{escape(family)}: {len(results)} trials</h2>",
            "<p class=dim>Seconds from the end of the fault until everything had drained (dot) and until the service handled a message "
            "again (ring). Green: every line of the audit held; red: something broke; amber: it never fired.</p>",
            picture(results),
            "<p class=dim>Lines of the audit, and in how many trials each held.</p>",
            matrix(results),
        ]
    parts.append(_failures(failed))
    return "\n".join(parts)


def picture(results: Sequence[Result]) -> str:
    """A row for each thing that was injected, a dot for each way it was done."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        rows[result.name.partition("/")[2].rpartition(":")[0] or result.name.partition("/")[2]].append(result)
    times = [value for result in results for value in (result.drained_s, result.again_s) if value is not None]
    longest = max([*times, 1.0])
    width, height = LABEL_W + PLOT_W + COUNT_W, TOP_H + ROW_H * len(rows) + 6
    drawn = [f'<svg viewBox="0 0 {width} {height}" width={width} role=img>']
    for tick in _ticks(longest):
        x = LABEL_W + PLOT_W * tick / longest
        drawn.append(
            f"<line class=grid x1={x:.1f} x2={x:.1f} y1={TOP_H - 6} y2={height} />"
            f"<text class=dim x={x:.1f} y=14>{tick:g} s</text>"
        )
    for number, (label, group) in enumerate(rows.items()):
        y = TOP_H + ROW_H * number + ROW_H / 2
        drawn.append(f"<text x=0 y={y + 4:.1f}>{escape(label)}</text>")
        drawn += [_dot(result, y, longest) for result in group]
        fired = sum(result.fired for result in group)
        held = sum(result.ok for result in group)
        drawn.append(
            f"<text class=dim x={LABEL_W + PLOT_W + 14} y={y + 4:.1f}>fired {fired}, good {held}/{len(group)}</text>"
        )
    return "".join([*drawn, "</svg>"])


def _dot(result: Result, y: float, longest: float) -> str:
    kind = "silent" if not result.fired else "held" if result.ok else "broken"
    x = LABEL_W + PLOT_W * (result.drained_s or 0.0) / longest
    title = f"<title>{escape(result.name)}: {escape(result.injects)} {escape(why(result))}</title>"
    dots = f"<circle class={kind} cx={x:.1f} cy={y:.1f} r=4.5>{title}</circle>"
    if result.again_s is not None:
        dots += f"<circle class=again cx={LABEL_W + PLOT_W * result.again_s / longest:.1f} cy={y:.1f} r=3.5>{title}</circle>"
    return dots


def _ticks(longest: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if longest / step <= 8 or step == 500)
    return [step * number for number in range(int(longest / step) + 1)]


def matrix(results: Sequence[Result]) -> str:
    """The lines of the audit: how often each held."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for result in results:
        for line, verdict in result.lines.items():
            counts[line][verdict] += 1
    drawn = [f'<svg viewBox="0 0 {LINES * (CELL + 6)} 52" width={LINES * (CELL + 6)} role=img>']
    for line in range(1, LINES + 1):
        x, count = (line - 1) * (CELL + 6), counts[line]
        kind = "broken" if count["broken"] else "held" if count["holds"] else "unchecked"
        drawn.append(
            f"<rect class={kind} x={x} y=0 width={CELL} height=22 rx=3><title>line {line}: {escape(_seen(count))}</title></rect>"
            f"<text x={x + CELL / 2} y=36 text-anchor=middle>{line}</text>"
            f"<text class=dim x={x + CELL / 2} y=49 text-anchor=middle>{count['holds']}</text>"
        )
    return "".join([*drawn, "</svg>"])


def _failures(failed: Sequence[Result]) -> str:
    if not failed:
        return "<h2>What broke</h2><p>Nothing.</p>"
    rows = "".join(
        f"<tr><td>{escape(result.name)}<td>{escape(why(result))}<br><span class=dim>{escape(' | '.join(result.breaches[:5]))}</span>"
        for result in failed
    )
    return f"<h2>What broke</h2><table>{rows}</table>"


def _seen(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items())) or "nothing"
