"""The `rome` command.

Owns arguments, exit codes and Ctrl-C. Commands of other packages (`serve`, `worker`, …) arrive
through the entry point group `rome.commands`, each a function that is given the typer application.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from rome_client import display, specification
from rome_client.client import Client
from rome_client.errors import JobDidNotSucceed, RomeError, SpecFileError

app = typer.Typer(
    name="rome",
    help="Robust dataset distillation as a service: submit, follow, download.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a plain page: brackets stay, and a flag is not called a <bool>
)

Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of the service.  (ROME_URL, or http://127.0.0.1:8321)"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job, job_….")]
SpecFile = Annotated[
    str, typer.Argument(metavar="FILE", help="Specification: YAML or JSON; -: stdin.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a field; dots reach inside. Repeatable."
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for the files.  (./JOB)")
]

EVALUATE = "rome run examples/evaluate.yaml"

DETACHED = 130  # what a shell reports for a command ended by Ctrl-C


@app.command()
def run(
    file: SpecFile,
    overrides: Overrides = None,
    output: Output = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job, follow it, download what it made. Ctrl-C detaches; the job goes on."""
    spec = specification.read(file, overrides or ())
    with Client(url) as client:
        job = client.submit(spec)
        _notes(as_json).print(f"submitted [bold]{job['id']}[/]  seed {job['spec'].get('seed')}")
        job = _follow(client, job["id"], as_json)
        files = _download(client, job["id"], output or Path(job["id"]), as_json)
        if as_json:
            _print_json({"job": job, "files": [str(path) for path in files]})
            return
        display.job(_out(), job)
        sets = [row["id"] for row in client.artifacts(job["id"]) if row["name"] == "synthetic.pt"]
        if sets:
            _out().print(f"\nevaluate it  {EVALUATE} --set artifact={sets[0]}", soft_wrap=True)


@app.command()
def submit(
    file: SpecFile,
    overrides: Overrides = None,
    key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key never queues twice.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job and print its id."""
    spec = specification.read(file, overrides or ())
    with Client(url) as client:
        job = client.submit(spec, idempotency_key=key)
    if as_json:
        _print_json(job)
    else:
        typer.echo(job["id"])


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, succeeded, …")] = None,
    kind: Annotated[str | None, typer.Option(help="distill, evaluate, transfer or experts")] = None,
    method: Annotated[str | None, typer.Option()] = None,
    dataset: Annotated[str | None, typer.Option()] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1)] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    asked = {"status": status, "kind": kind, "method": method, "dataset": dataset}
    filters = {name: value for name, value in asked.items() if value is not None}
    with Client(url) as client:
        rows = list(client.list(limit=limit, **filters))
    if as_json:
        _print_json(rows)
    elif rows:
        _out().print(display.jobs(rows))
    else:
        _notes(as_json).print("no jobs")


@app.command()
def get(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Show one job and its artifacts."""
    with Client(url) as client:
        job = client.get(job_id)
        rows = client.artifacts(job_id)
    if as_json:
        _print_json({**job, "artifacts": rows})
        return
    display.job(_out(), job)
    if rows:
        _out().print(display.artifacts(rows))


@app.command()
def cancel(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Ask a job to stop."""
    with Client(url) as client:
        job = client.cancel(job_id)
    if as_json:
        _print_json(job)
    else:
        asked = "" if job["status"] == "cancelled" else "  (cancel requested)"
        _out().print(f"{job['id']}  {display.status(job['status'])}{asked}")


@app.command()
def follow(job_id: JobId, url: Url = None, as_json: AsJson = False) -> None:
    """Watch a job until it ends; --json prints its events, one a line."""
    with Client(url) as client:
        if as_json:
            for event in client.events(job_id):
                typer.echo(json.dumps(event.__dict__))
            client.wait(job_id)
        else:
            display.job(_out(), _follow(client, job_id, as_json))


@app.command()
def download(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a job or of one artifact.")],
    output: Output = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Download a job's artifacts, or one artifact, verified against their digests."""
    with Client(url) as client:
        files = _download(client, job_id, output or Path(job_id), as_json)
    if as_json:
        _print_json([str(path) for path in files])


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth, .pt or .safetensors.")],
    name: Annotated[str | None, typer.Option(help="What to call it.  (the file's name)")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Upload a trained network's state dict, for jobs to evaluate; prints its id."""
    try:
        with Client(url) as client:
            made = client.upload(file, name=name)
    except OSError as error:
        raise SpecFileError(
            f"cannot read {file}: {error.strerror}", "name a file with a state dict"
        ) from error
    if as_json:
        _print_json(made)
    else:
        typer.echo(made["id"])


def _catalogue(noun: str, url: str | None, as_json: bool) -> None:
    with Client(url) as client:
        rows = client.catalogue(noun)
    if as_json:
        _print_json(rows)
    else:
        _out().print(display.entries(rows))


@app.command()
def presets(url: Url = None, as_json: AsJson = False) -> None:
    """List the presets: published settings by name."""
    _catalogue("presets", url, as_json)


@app.command()
def methods(url: Url = None, as_json: AsJson = False) -> None:
    """List the distillation methods; --json shows their hyperparameters' schema."""
    _catalogue("methods", url, as_json)


@app.command()
def protocols(url: Url = None, as_json: AsJson = False) -> None:
    """List the evaluation protocols; --json shows every attack's settings."""
    _catalogue("protocols", url, as_json)


@app.command()
def attacks(url: Url = None, as_json: AsJson = False) -> None:
    """List the attacks; --json shows their settings' schema."""
    _catalogue("attacks", url, as_json)


@app.command()
def datasets(url: Url = None, as_json: AsJson = False) -> None:
    """List the datasets and where their files are expected."""
    _catalogue("datasets", url, as_json)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `rome` command: runs it and exits the process."""
    for entry in entry_points(group="rome.commands"):
        entry.load()(app)
    try:
        app(args=list(arguments) if arguments is not None else None)
    except RomeError as error:
        display.error(Console(stderr=True, highlight=False), error)
        sys.exit(error.exit_code)


def _follow(client: Client, job_id: str, as_json: bool) -> dict[str, Any]:
    """Show events until the end; the job's final document. Raises JobDidNotSucceed."""
    notes = _notes(as_json)
    try:
        with display.Follower(notes) as follower:
            for event in client.events(job_id):
                follower.show(event)
    except KeyboardInterrupt:
        at = f" --url {client.url}" if client.url != Client().url else ""
        notes.print(
            f"detached; {job_id} goes on. "
            f"`rome follow {job_id}{at}` watches it again, `rome cancel {job_id}{at}` stops it",
            soft_wrap=True,
        )
        raise typer.Exit(DETACHED) from None
    job = client.get(job_id)
    if job["status"] != "succeeded":
        raise JobDidNotSucceed(job)
    return job


def _download(client: Client, named: str, folder: Path, as_json: bool) -> list[Path]:
    rows = [client.artifact(named)] if named.startswith("art_") else client.artifacts(named)
    notes = _notes(as_json)
    if not rows:
        notes.print(f"{named} has no artifacts")
        return []
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), DownloadColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        for row in rows:
            task = bar.add_task(row["name"], total=row["size"])

            def advance(done: int, _size: int, task: TaskID = task) -> None:
                bar.update(task, completed=done)

            path = client.download(row, folder, on_bytes=advance)
            files.append(path)
            bar.remove_task(task)
            notes.print(
                f"[dim]wrote[/] {path}  [dim]{display.size(row['size'])}  {row['id']}[/]",
                soft_wrap=True,
            )
    return files


def _out() -> Console:
    return Console(highlight=False)


def _notes(as_json: bool) -> Console:
    """Where remarks go: with --json, standard output is for the document alone."""
    return Console(stderr=as_json, highlight=False)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))
