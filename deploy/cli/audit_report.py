"""The findings of an audit as a table for people."""

from rich.console import Group, RenderableType
from rich.text import Text

from deploy.cli.tables import plain, table
from services.audit.finding import CheckResult, Finding
from services.audit.run import AuditReport

_STYLES = {CheckResult.HOLDS: "green", CheckResult.BROKEN: "bold red", CheckResult.NOT_CHECKED: "yellow"}
BREACHES_PRINTED_MAX = 5


def page(report: AuditReport) -> RenderableType:
    """A row a check: its name, what must hold, and what breaks it or could not be checked."""
    checks = table()
    checks.add_column("check")
    checks.add_column("", no_wrap=True)
    checks.add_column("looked at", justify="right", no_wrap=True)
    for finding in report.findings:
        result = Text(finding.result.value, style=_STYLES[finding.result])
        checks.add_row(_words(finding), result, _numbers(finding))
    return Group(checks, _summary(report))


def _words(finding: Finding) -> RenderableType:
    details = [plain(f"{b.about}: {b.why}", style="red") for b in finding.breaches[:BREACHES_PRINTED_MAX]]
    if finding.broken > len(details) > 0:
        details.append(Text(f"and {finding.broken - len(details)} more: see --json", style="red"))
    details += [plain(what, style="yellow") for what in finding.missing]
    return Group(Text(finding.check, style="bold"), Text(finding.title), *details)


def _numbers(finding: Finding) -> str:
    young = f" (+{finding.in_flight} under way)" if finding.in_flight else ""
    return f"{finding.looked_at:,}{young}"


def _summary(report: AuditReport) -> Text:
    of = {result: sum(finding.result is result for finding in report.findings) for result in CheckResult}
    words = ", ".join(f"{count} {result.value}" for result, count in of.items() if count)
    summary = Text(f"{words}.", style="green" if report.ok else "bold red")
    if report.not_checked:
        failed = sorted(report.required & set(report.not_checked))
        summary.append(f"\nNot checked: {', '.join(report.not_checked)}.", style="yellow")
        summary.append(f" Required of these: {', '.join(failed)}." if failed else "", style="bold red")
    return summary
