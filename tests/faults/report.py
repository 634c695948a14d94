"""Reports a run as a table, as JSON, and as one HTML page with a picture for each family. Every number was measured in the run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from services.audit.checks import CHECKS
from tests.faults.catalogue import ROWS, Elsewhere, matching
from tests.faults.run import AUDITS_MAX, MOVING, OF_THE_RUN, FaultRun
from tests.faults.trial import TrialResult

SHOWN_MAX: Final = 40
"""Failures shown in the terminal; the files have all of them."""

Families = dict[str, list[TrialResult]]


def by_family(results: Iterable[TrialResult]) -> Families:
    families: Families = defaultdict(list)
    for result in results:
        families[result.family].append(result)
    return dict(families)


def save(run: FaultRun) -> list[Path]:
    """Write run.json, which the audit reads, and index.html; returns their paths."""
    data, page = run.folder / "run.json", run.folder / "index.html"
    data.write_bytes(orjson.dumps(run.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    page.write_text(html(run), encoding="utf-8")
    return [data, page]


# -- for the terminal ------------------------------------------------------------------------------------------------------------------


def show(run: FaultRun, console: Console) -> None:
    """Print what was injected, how often it fired, how long recovery took, and what held."""
    table = Table(title="Faults", title_justify="left")
    for column in ("family", "trials", "fired", "failed", "skipped", "recovered s", "drained s", "checks held"):
        table.add_column(column, justify="left" if column == "family" else "right")
    for family, results in by_family(run.results).items():
        table.add_row(
            family,
            str(len(results)),
            str(sum(result.fired > 0 for result in results)),
            str(sum(failed(result) for result in results)),
            str(sum(result.skipped is not None for result in results)),
            _recovered(results),
            _spread([result.drained_s for result in results]),
            _held(results),
        )
    console.print(table)
    seen = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(run.seen.items()))
    console.print(f"seen: {seen or 'nothing'}; {run.took_s:.0f} s in all")
    console.print(read_again(run.results))
    for check, found in run.run_checks.items():
        console.print(f"{check}: {found['verdict']} {'; '.join(found['why'])}", markup=False)
    for result in [result for result in run.results if failed(result)][:SHOWN_MAX]:
        console.print(f"FAILED {result.name}: {why(result)}", style="red", markup=False, soft_wrap=True)
    for result in run.results:
        if result.skipped:
            console.print(f"skipped {result.name}: {result.skipped}", style="yellow", markup=False, soft_wrap=True)
    missing = len(run.trials) - len(run.results)
    if missing > 0:
        console.print(f"{missing} trials were not run", style="red")


def failed(result: TrialResult) -> bool:
    """Whether the trial was run and is not good."""
    return not result.ok and result.skipped is None


def why(result: TrialResult) -> str:
    """What is wrong with a result, in words."""
    if result.skipped:
        return f"not possible here: {result.skipped}"
    words = [] if result.fired else ["it never fired"]
    if not result.in_time:
        words.append(f"recovered after {result.recovered_s:.1f} s, and {result.limit_s:g} s are allowed")
    words += [f"{check} is broken" for check in result.broken if check != result.check]
    if result.check is not None and result.check not in result.broken:
        words.append(f"{result.check} should have broken")
    if not result.checks:
        words.append("the audit did not run")
    words += [
        surprise if count == 1 else f"{surprise} ({count} times)"
        for surprise, count in Counter(result.surprises).items()
    ]
    return "; ".join(words)


def read_again(results: Sequence[TrialResult]) -> str:
    """Which checks the run read more than once, and how often: without this a reader could not tell what `held` means."""
    twice, thrice = (sum(result.readings >= number for result in results) for number in (2, 3))
    return (
        f"A message on its way breaks {', '.join(MOVING)} for a moment (a reminder, for example). If nothing else was "
        f"broken, these checks were read again, up to {AUDITS_MAX} times. It was so after {twice} of {len(results)} trials; "
        f"{thrice} needed a third reading."
    )


def _recovered(results: Sequence[TrialResult]) -> str:
    """For each limit the worst recovery, beside the limit."""
    worst: dict[float, float] = {}
    for result in results:
        if result.recovered_s is not None and result.limit_s is not None:
            worst[result.limit_s] = max(result.recovered_s, worst.get(result.limit_s, 0.0))
    return "; ".join(f"{took_s:.1f} of {limit_s:g}" for limit_s, took_s in sorted(worst.items())) or "-"


def _spread(values: Sequence[float | None]) -> str:
    """The median and the worst value."""
    known = [value for value in values if value is not None]
    return f"{median(known):.1f}, worst {max(known):.1f}" if known else "-"


def _held(results: Sequence[TrialResult]) -> str:
    """How many checks held. A check holds only if it did wherever it was made; a check that was made nowhere is not counted."""
    judged = [result for result in results if result.check is None]
    if not judged:
        return f"{sum(result.ok for result in results)} found"
    found = {check.name: {result.checks.get(check.name) for result in judged} for check in CHECKS}
    broken = [name for name, results_ in found.items() if "broken" in results_]
    held = sum("holds" in results_ and "broken" not in results_ for results_ in found.values())
    return f"{held}" + (f", broken: {', '.join(broken)}" if broken else "")


# -- for the browser -------------------------------------------------------------------------------------------------------------------

_STYLE: Final = """
:root { --ink: #1c2430; --dim: #667085; --line: #dde1e7; --good: #2c7a4b; --bad: #b3261e; --silent: #b58900; --grey: #c3c9d2 }
body { font: 14px/1.45 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink); background: #fff }
h1 { font-size: 1.5rem; margin-bottom: .3rem } h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem } .dim { color: var(--dim) }
.verdict { font-size: 1.1rem; font-weight: 600; padding: .6rem .9rem; border-radius: 6px; color: #fff; background: var(--good) }
.verdict.bad { background: var(--bad) } .bad { color: var(--bad) } .verdict.bad { color: #fff }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .25rem 1.1rem .25rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid var(--line) } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
details { margin: .6rem 0 } summary { cursor: pointer; color: var(--dim) } details td { font-size: 12.5px }
svg { display: block; max-width: 100%; height: auto; margin: .4rem 0 } svg text { font: 11.5px system-ui, sans-serif; fill: var(--ink) }
svg .dim { fill: var(--dim) } svg .n { text-anchor: end } svg .mid { text-anchor: middle } svg .head { font-weight: 600 }
svg .held { fill: var(--good) } svg .broken { fill: var(--bad) } svg .silent { fill: var(--silent) } svg .unchecked { fill: var(--grey) }
svg .back { fill: #fff; stroke: var(--good); stroke-width: 2 } svg .back.late { stroke: var(--bad) }
svg .grid { stroke: var(--line) } svg .limit { stroke: var(--bad); stroke-dasharray: 3 3 }
.checks span { display: inline-block; margin: 0 .15rem .3rem 0; padding: .05rem .5rem; border-radius: 3px; color: #fff; font-size: 11.5px }
.checks .held { background: var(--good) } .checks .broken { background: var(--bad) } .checks .unchecked { background: var(--grey) }
.key span { white-space: nowrap; margin-right: .9rem } .key svg { display: inline; vertical-align: -1px; margin: 0 .25rem 0 0 }
"""
LABEL_W: Final = 300
PLOT_W: Final = 470
FIRED_W: Final = 70
BACK_W: Final = 110
HELD_W: Final = 80
ROW_H: Final = 19
TOP_H: Final = 30
LABEL_MAX: Final = 48

ABOUT: Final = {
    "crash": "At every named point the process ends, stops for longer than its lease and goes on, raises an error, or is cancelled.",
    "again": "Work is done a second time: every message, every start, every fold of events. Nothing may change.",
    "network": "Between a service and its broker, database or gateway: cut, silent one way, late, dripping, or just one reply lost.",
    "servers": "Servers and services are killed, run out of memory or disk, lose a queue, or have a clock that is an hour off.",
    "fleet": "Two and four instances of each service at once, and rolling restarts under load.",
    "cluster": "The leader of three brokers is killed, again and again.",
    "versions": "The build before and this one work together, across a migration.",
    "planted": "Builds without one guarantee must break their check of the audit; our own build must not.",
    "random": "Faults of all families under continuous load; at the end the audit checks all of it.",
    "sender": "What can go wrong between a sender and its exchange.",
    "stores": "Other sessions hold locks that a service needs in its database.",
    "people": "Two people decide at once, or one does the same thing twice.",
    "order": "The waiting messages of a queue are delivered in reverse.",
    "poison": "Unreadable messages of every kind, among healthy ones.",
    "gateway": "The card gateway misbehaves in every way, at once.",
    "afterwards": "The gateway, its dashboard or a bank changes what was settled.",
}
KEY: Final = (
    (
        "back",
        4,
        "recovered: from its return until all waiting work was done; it must be left of the dashed line, its limit",
    ),
    ("held", 4.5, "drained, deadlines and ladders included, and every check held"),
    ("broken", 4.5, "something broke, or came too late"),
    ("silent", 4.5, "never fired"),
    ("unchecked", 4.5, "not possible here; of a check: not made"),
)


def html(run: FaultRun) -> str:
    """The report as one HTML page that needs no other file."""
    families = by_family(run.results)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Remit: fault run</title>",
        f"<style>{_STYLE}</style><h1>Fault run of {escape(run.began.strftime('%Y-%m-%d %H:%M UTC'))}</h1>",
        _summary(run),
        _families_table(families),
        _key(run.seed),
        f"<p class=dim>Seen during the run: {escape(_seen(run.seen))}. {escape(read_again(run.results))}</p>",
        _of_the_run(run),
        _failures([result for result in run.results if failed(result)]),
        _catalogue(run.results),
        _skipped([result for result in run.results if result.skipped]),
    ]
    for family, results in families.items():
        parts += [
            f"<h2 id={escape(family)}>{escape(family)}: {_many(len(results), 'trial')}</h2>",
            f"<p class=dim>{ABOUT.get(family, '')}</p>",
            picture(results),
            "<p class=dim>Checks of the audit, and after how many trials each held:</p>",
            matrix(results),
            _details(results),
        ]
    return "\n".join(parts)


def _key(seed: int | None) -> str:
    """The meaning of the dots in all pictures."""
    dots = "".join(
        f"<span><svg width=12 height=12><circle class={kind} cx=6 cy=6 r={radius} /></svg>{words}</span> "
        for kind, radius, words in KEY
    )
    overlap = (
        ""
        if seed is None
        else " Faults of random mode overlap: none has a time of its own, all drain together at the end."
    )
    return f"<p class='dim key'>In the pictures, by seconds: {dots}{overlap}</p>"


def _many(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _summary(run: FaultRun) -> str:
    bad = [result for result in run.results if failed(result)]
    fired = sum(result.fired for result in run.results)
    skipped = sum(result.skipped is not None for result in run.results)
    missing = len(run.trials) - sum(not result.name.startswith("random/seed") for result in run.results)
    words = "Everything held" if run.ok else f"{_many(len(bad), 'trial')} failed"
    rest = [f"{len(run.results)} trials in {run.took_s / 60:.1f} minutes", f"faults fired {fired} times"]
    rest += [f"{skipped} not possible on this machine"] if skipped else []
    rest += [f"{missing} not run"] if missing > 0 else []
    rest += [f"seed {run.seed}"] if run.seed is not None else []
    return f"<p class='verdict{'' if run.ok else ' bad'}'>{words}</p><p>{'; '.join(rest)}.</p>"


def _families_table(families: Families) -> str:
    rows = "".join(
        f"<tr><td><a href='#{escape(family)}'>{escape(family)}</a><td class=n>{len(results)}"
        f"<td class=n>{sum(result.fired for result in results)}"
        f"<td class='n{' bad' if any(map(failed, results)) else ''}'>{sum(map(failed, results))}"
        f"<td class=n>{sum(result.skipped is not None for result in results)}<td class=n>{_recovered(results)}"
        f"<td class=n>{_spread([result.drained_s for result in results])}<td class=n>{_held(results)}"
        for family, results in families.items()
    )
    return (
        "<table><tr><th>family<th class=n>trials<th class=n>fired<th class=n>failed<th class=n>skipped"
        f"<th class=n>recovered, of allowed s<th class=n>drained s<th class=n>checks held</tr>{rows}</table>"
    )


def _of_the_run(run: FaultRun) -> str:
    """The results of the checks about the run as a whole."""
    titles = {check.name: check.title for check in CHECKS}
    return "".join(
        f"<p class={'bad' if found['verdict'] == 'broken' else 'dim'}>{check}: {escape(titles[check])}: {escape(found['verdict'])}"
        f"{escape('. ' + '; '.join(found['why']) if found['why'] else '')}</p>"
        for check, found in run.run_checks.items()
    )


def picture(results: Sequence[TrialResult]) -> str:
    """A row for each thing that was injected, and a dot for each way in which it was."""
    rows: dict[str, list[TrialResult]] = defaultdict(list)
    for result in results:
        rows[result.name.partition("/")[2].rpartition(":")[0] or result.name.partition("/")[2]].append(result)
    known = [
        value
        for result in results
        for value in (result.drained_s, result.recovered_s, result.limit_s)
        if value is not None
    ]
    longest = max([*known, 1.0])
    width, height = LABEL_W + PLOT_W + FIRED_W + BACK_W + HELD_W, TOP_H + ROW_H * len(rows) + 6
    drawn = [f'<svg viewBox="0 0 {width} {height}" width={width} role=img>']
    for tick in _ticks(longest):
        x = LABEL_W + PLOT_W * tick / longest
        drawn.append(
            f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_H - 8}" y2="{height}"/>'
            f'<text class="dim mid" x="{x:.1f}" y=15>{tick:g} s</text>'
        )
    for limit_s in sorted({result.limit_s for result in results if result.limit_s is not None}):
        x = LABEL_W + PLOT_W * limit_s / longest
        drawn.append(f'<line class=limit x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_H - 8}" y2="{height}"/>')
    timed = "recovered s" if any(result.recovered_s is not None for result in results) else ""
    columns = (("fired", FIRED_W), (timed, FIRED_W + BACK_W), ("good", FIRED_W + BACK_W + HELD_W))
    drawn += [f'<text class="n head" x="{LABEL_W + PLOT_W + x}" y=15>{word}</text>' for word, x in columns]
    for number, (label, group) in enumerate(rows.items()):
        drawn.append(_row(label, group, TOP_H + ROW_H * number + ROW_H / 2, longest))
    return "".join([*drawn, "</svg>"])


def _row(label: str, group: Sequence[TrialResult], y: float, longest: float) -> str:
    worst = max((result.recovered_s for result in group if result.recovered_s is not None), default=None)
    good = sum(result.ok for result in group)
    columns = (
        (str(sum(result.fired for result in group)), FIRED_W),
        ("" if worst is None else f"{worst:.1f}", FIRED_W + BACK_W),
        (f"{good} of {len(group)}", FIRED_W + BACK_W + HELD_W),
    )
    short = label if len(label) <= LABEL_MAX else f"{label[: LABEL_MAX - 1]}…"
    return "".join(
        [
            f'<text x=0 y="{y + 4:.1f}">{escape(short)}<title>{escape(label)}</title></text>',
            *(_dot(result, y, longest) for result in group),
            *(f'<text class=n x="{LABEL_W + PLOT_W + x}" y="{y + 4:.1f}">{word}</text>' for word, x in columns),
        ]
    )


def _dot(result: TrialResult, y: float, longest: float) -> str:
    kind = "unchecked" if result.skipped else "silent" if not result.fired else "held" if result.ok else "broken"
    x = LABEL_W + PLOT_W * (result.drained_s or 0.0) / longest
    title = f"<title>{escape(result.name)}: {escape(result.injects)} {escape(why(result))}</title>"
    dots = f'<circle class={kind} cx="{x:.1f}" cy="{y:.1f}" r=4.5>{title}</circle>'
    if result.recovered_s is not None:
        late = "" if result.in_time else " late"
        x = LABEL_W + PLOT_W * result.recovered_s / longest
        dots += f'<circle class="back{late}" cx="{x:.1f}" cy="{y:.1f}" r=4>{title}</circle>'
    return dots


def _ticks(longest: float) -> list[float]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if longest / step <= 8 or step == 500)
    return [step * number for number in range(int(longest / step) + 1)]


def matrix(results: Sequence[TrialResult]) -> str:
    """The checks of the audit, and how often each held."""
    shown = []
    for check in (check for check in CHECKS if check.name not in OF_THE_RUN):
        count = Counter(result.checks[check.name] for result in results if check.name in result.checks)
        kind = "broken" if count["broken"] else "held" if count["holds"] else "unchecked"
        title = escape(f"{check.title}: {_seen(count)}", quote=True)
        shown.append(f'<span class={kind} title="{title}">{check.name} {count["holds"]}</span>')
    return f"<p class=checks>{' '.join(shown)}</p>"


def _details(results: Sequence[TrialResult]) -> str:
    rows = "".join(
        f"<tr><td>{escape(result.name.partition('/')[2])}<td>{escape(result.injects)}<td class=n>{result.fired}"
        f"<td class=n>{_seconds(result.recovered_s)}<td class=n>{_seconds(result.limit_s)}<td class=n>{_seconds(result.drained_s)}"
        f"<td>{'good' if result.ok else escape(why(result))}<br><span class=dim>{escape('; '.join(result.remarks))}</span>"
        for result in results
    )
    return (
        f"<details><summary>Each of the {len(results)}</summary><table><tr><th>trial<th>what was injected<th class=n>fired"
        f"<th class=n>recovered s<th class=n>allowed<th class=n>drained s<th>result</tr>{rows}</table></details>"
    )


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _failures(bad: Sequence[TrialResult]) -> str:
    if not bad:
        return ""
    rows = "".join(
        f"<tr><td>{escape(result.name)}<td>{escape(why(result))}<br><span class=dim>{escape(' | '.join(result.breaches[:5]))}</span>"
        for result in bad
    )
    return f"<h2 class=bad>What broke</h2><table>{rows}</table>"


def _catalogue(results: Sequence[TrialResult]) -> str:
    """The rows of the catalogue, with the results of the trials in this run."""
    by_name = {result.name: result for result in results}
    rows = []
    for number, row in ROWS.items():
        cells = [_of_a_fault(fault, where, by_name) for fault, where in row.faults.items()]
        rows.append(f"<tr><td class=n>{number}<td>{escape(row.point)}<td>{'<br>'.join(cells)}")
    return (
        "<details><summary>The catalogue of faults, row by row</summary><table><tr><th class=n>row<th>where<th>fault, and how many of its "
        f"trials in this run were good</tr>{''.join(rows)}</table></details>"
    )


def _of_a_fault(fault: str, where: str | Elsewhere, by_name: Mapping[str, TrialResult]) -> str:
    if isinstance(where, Elsewhere):
        return f"{escape(fault)}: <span class=dim>no trial; {escape(where.why)}</span>"
    found = [by_name[name] for name in matching(where, by_name)]
    if not found:
        return f"{escape(fault)}: <span class=dim>not in this run ({escape(where)})</span>"
    good = sum(result.ok for result in found)
    return f"{escape(fault)}: <span class={'dim' if good == len(found) else 'bad'}>{good} of {len(found)}</span>"


def _skipped(results: Sequence[TrialResult]) -> str:
    if not results:
        return ""
    rows = "".join(f"<tr><td>{escape(result.name)}<td>{escape(result.skipped or '')}" for result in results)
    return f"<h2>Not possible on this machine, so neither held nor broken</h2><table>{rows}</table>"


def _seen(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items())) or "nothing"
