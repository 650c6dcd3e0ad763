"""How the `rome` command shows jobs on a terminal, and as plain lines where there is none.

Owns tables, the live progress bar and the wording; it must not talk to the service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from rome_client import results
from rome_client.client import Event
from rome_client.errors import Problem, RomeError

STATUS_COLOURS = {
    "queued": "cyan",
    "running": "blue",
    "publishing": "blue",
    "paused": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "yellow",
}


def error(console: Console, problem: RomeError) -> None:
    """One line per thing that is wrong, each with its remedy."""
    if isinstance(problem, Problem) and problem.errors:
        for wrong in problem.errors:
            field = f"{escape(wrong.field)}: " if wrong.field else ""
            console.print(f"[red]error:[/] {field}{escape(wrong.message)}", soft_wrap=True)
            if wrong.remedy:
                console.print(f"  [dim]→[/] {escape(wrong.remedy)}", soft_wrap=True)
        return
    console.print(f"[red]error:[/] {escape(str(problem))}", soft_wrap=True)
    if problem.remedy:
        console.print(f"  [dim]→[/] {escape(problem.remedy)}", soft_wrap=True)
    if isinstance(problem, Problem) and problem.status >= 500 and problem.request_id:
        console.print(f"  [dim]request {escape(problem.request_id)}[/]", soft_wrap=True)


def status(word: str) -> str:
    """A job's status in its colour, as rich markup."""
    return f"[{STATUS_COLOURS.get(word, 'white')}]{escape(word)}[/]"


def duration(seconds: float) -> str:
    """`42 s`, `3:05`, `2:03:05`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(count: int) -> str:
    """Bytes for a reader: `812 B`, `1.2 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable: the last unit always returns")


def jobs(rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "status", "what", "dataset", "created", "progress"):
        table.add_column(column, no_wrap=column == "job")
    for job in rows:
        table.add_row(
            job["id"],
            status(job["status"]),
            escape(str(job.get("method") or job["kind"])),
            escape(str(job.get("dataset") or "")),
            str(job["created_at"])[:19].replace("T", " "),
            escape(_standing(job)),
        )
    return table


def job(console: Console, document: Mapping[str, Any]) -> None:
    """One job: what it is, where it stands, what came out."""
    console.print(f"[bold]{document['id']}[/]  {status(document['status'])}")
    facts = {
        "kind": document["kind"],
        "method": document.get("method"),
        "dataset": document.get("dataset"),
        "created": document["created_at"],
        "started": document.get("started_at"),
        "finished": document.get("finished_at"),
        "waits for": document.get("wait_reason"),
        "progress": _standing(document),
        "spec hash": document.get("spec_hash"),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, escape(str(value)))
    for name, value in results.lines(document.get("result") or {}):
        table.add_row(f"result {escape(name)}", escape(value))
    console.print(table)
    failure = document.get("error")
    if failure:
        error(console, RomeError(failure.get("detail", ""), failure.get("remedy")))


def artifacts(rows: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("artifact", "name", "kind", "size", "sha256"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["id"], escape(row["name"]), row["kind"], size(row["size"]), row["digest"][:19]
        )
    return table


def entries(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A catalogue: names and what they are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    for row in rows:
        text = row.get("summary") or row.get("description") or row.get("title") or ""
        table.add_row(escape(str(row["name"])), escape(str(text)))
    return table


class Follower:
    """Shows a job's events: one moving line on a terminal, a line per milestone elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.bar = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("[dim]{task.fields[scalars]}"),
            TextColumn("{task.fields[eta]}"),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.told: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        if self.live:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.bar.stop()

    def show(self, event: Event) -> None:
        if event.type == "job.progress":
            self._progress(event.data)
            return
        name = event.type.removeprefix("job.").replace("_", " ")
        note = event.data.get("reason") or event.data.get("detail") or ""
        attempt = f" (attempt {event.attempt})" if event.attempt and event.attempt > 1 else ""
        self.console.print(
            f"[dim]{event.at[11:19]}[/] {name}{attempt} {escape(str(note))}".rstrip()
        )

    def _progress(self, data: Mapping[str, Any]) -> None:
        phase, step, total = str(data["phase"]), int(data["step"]), max(int(data["total"]), 1)
        if self.live:
            fields: dict[str, Any] = {"scalars": _scalars(data, 3), "eta": _eta(data)}
            if self.task is None:
                self.task = self.bar.add_task(phase, total=total, completed=step, **fields)
            else:
                self.bar.update(self.task, description=phase, total=total, completed=step, **fields)
            return
        # A log wants milestones, not a line a second: every tenth of a phase.
        milestone = (phase, step * 10 // total)
        if milestone != self.told:
            self.told = milestone
            self.console.print(escape(_progress_line(data)), soft_wrap=True)


def _standing(document: Mapping[str, Any]) -> str:
    """How far a job is; a finished one is not on its way any more."""
    return "" if document.get("finished_at") else _progress_line(document.get("progress") or {})


def _progress_line(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    parts = [f"{data['phase']} {data['step']}/{data['total']}", _scalars(data, 4), _eta(data)]
    return "  ".join(part for part in parts if part)


def _scalars(data: Mapping[str, Any], most: int) -> str:
    scalars = data.get("scalars") or {}
    return "  ".join(
        f"{name} {results.number(value)}" for name, value in list(scalars.items())[:most]
    )


def _eta(data: Mapping[str, Any]) -> str:
    seconds = data.get("eta_seconds")
    return f"{duration(seconds)} left" if seconds else ""
