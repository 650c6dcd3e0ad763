"""The commands that run the service: `rome serve`, `rome worker`, `rome db`, `rome doctor`.

Owns their arguments. Everything heavy is imported inside a command, because this module is loaded
by every `rome` call. Flags become ROME_* variables, so that child processes see the same settings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Database, blobs, scratch.  (.rome)")
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Where datasets lie.  (STATE_DIR/data)")
]
Slots = Annotated[int | None, typer.Option("--slots", min=1, help="Jobs at once.  (1)")]


def register(app: typer.Typer) -> None:
    """Add the service's commands to the `rome` command (entry point group `rome.commands`)."""
    app.command()(serve)
    app.command()(worker)
    app.command()(doctor)
    database = typer.Typer(no_args_is_help=True, help="The service's database.")
    database.command()(upgrade)
    database.command()(current)
    app.add_typer(database, name="db")


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  (127.0.0.1)")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.  (8321)")] = None,
    state_dir: StateDir = None,
    data_root: DataRoot = None,
    slots: Slots = None,
    until_eof: Annotated[
        bool, typer.Option("--until-eof", help="End when standard input does.")
    ] = False,
) -> None:
    """Run the whole service here: API and supervisor, SQLite and local files."""
    from launcher import serve as service
    from launcher.failures import one_line

    _set(host=host, port=port, state_dir=state_dir, data_root=data_root, slots=slots)
    with one_line():
        service.run(until_eof=until_eof)


def worker(
    state_dir: StateDir = None,
    data_root: DataRoot = None,
    slots: Slots = None,
) -> None:
    """Run a Celery worker for a service with a broker (ROME_BROKER_URL)."""
    from launcher import worker as celery_worker
    from launcher.failures import one_line

    _set(state_dir=state_dir, data_root=data_root, slots=slots)
    with one_line():
        celery_worker.run()


def upgrade(state_dir: StateDir = None) -> None:
    """Bring the database to this version's schema."""
    from launcher.failures import one_line
    from service import database, settings

    _set(state_dir=state_dir)
    with one_line():
        engine = database.create_engine(settings.load())
        before = database.revision(engine)
        database.upgrade(engine)
        after = database.revision(engine)
        typer.echo(f"{before or 'empty'} -> {after}" if before != after else f"{after}: up to date")


def current(state_dir: StateDir = None) -> None:
    """Show the database's schema revision and the one this version needs."""
    from launcher.failures import one_line
    from service import database, settings

    _set(state_dir=state_dir)
    with one_line():
        chosen = settings.load()
        found = None
        if _is_there(chosen.database_url):
            found = database.revision(database.create_engine(chosen))
        typer.echo(f"database {found or 'empty'}  this version {database.head()}")


def _is_there(url: str) -> bool:
    """Whether there is a database to look at; SQLite makes a missing one by looking."""
    from sqlalchemy import make_url

    parts = make_url(url)
    return parts.get_backend_name() != "sqlite" or Path(parts.database or "").is_file()


def doctor(state_dir: StateDir = None, data_root: DataRoot = None) -> None:
    """Check this machine: versions, data, compiler, disk, port."""
    from launcher import doctor as examination
    from launcher.failures import one_line

    _set(state_dir=state_dir, data_root=data_root)
    with one_line():
        if not examination.run():
            raise typer.Exit(1)


def _set(**given: object) -> None:
    for name, value in given.items():
        if value is not None:
            os.environ[f"ROME_{name.upper()}"] = str(value)
