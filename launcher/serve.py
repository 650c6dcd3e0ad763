"""`rome serve`: API and supervisor as one process tree.

Owns the order of starting and stopping. The port and the lock come first, so that a service which
cannot run leaves nothing behind; the supervisor drains last, so that watchers hear of it.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType

import uvicorn
from rich.console import Console

from api.application import create_app
from launcher import banner, lock, logs
from launcher.supervision import Supervision
from service import database, settings
from service.errors import PortInUse, SettingsInvalid
from service.settings import Settings

# Answers in flight get this long after a signal; streams are ended at once.
GRACE_SECONDS = 3


class Server(uvicorn.Server):
    """Uvicorn, which on a signal ends the event streams first and leaves with status 0."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        edge = getattr(self.config.app.state, "edge", None)  # type: ignore[union-attr]  # FastAPI
        if edge is not None:
            edge.poller.close()
        await super().shutdown(sockets)


def run(*, until_eof: bool = False) -> None:
    """Serve until SIGINT or SIGTERM, or until standard input ends.

    Raises an error of the catalogue if it cannot begin.
    """
    logs.configure()
    chosen = settings.load()
    console = Console(stderr=True, highlight=False)
    try:
        _serve(chosen, console, until_eof=until_eof)
    except KeyboardInterrupt:
        console.print(
            "[dim]ended at once; running jobs go on from their checkpoints at the next start[/]"
        )
        sys.exit(128 + signal.SIGINT)


def _serve(chosen: Settings, console: Console, *, until_eof: bool) -> None:
    with _listen(chosen) as listener, lock.hold(chosen.state_dir):
        engine = database.create_engine(chosen)
        database.upgrade(engine)
        engine.dispose()
        with Supervision() as supervision:
            app = create_app(chosen, checks={"supervisor": lambda: supervision.alive})
            server = Server(
                uvicorn.Config(
                    app,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=GRACE_SECONDS,
                )
            )
            if until_eof:
                tied = threading.Thread(
                    target=_end_with_input, args=(server,), name="stdin", daemon=True
                )
                tied.start()
            banner.show(console, chosen, port=listener.getsockname()[1])
            server.run(sockets=[listener])
            console.print("[dim]draining: running jobs go back to the queue …[/]")
        console.print("[dim]stopped[/]")


def _end_with_input(server: Server) -> None:
    while os.read(0, 4096):
        pass
    while not server.started:  # a server that is told before would not close what it opened
        time.sleep(0.05)
    server.should_exit = True


def _listen(chosen: Settings) -> socket.socket:
    try:
        return bind(chosen)
    except PortInUse:
        # Most likely by this folder's own service, which is the better answer.
        lock.check_free(chosen.state_dir)
        raise


def bind(chosen: Settings) -> socket.socket:
    """A listening socket at the settings' address. Raises PortInUse or SettingsInvalid."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((chosen.host.strip("[]"), chosen.port))
        listener.listen()
    except (OSError, UnicodeError) as error:  # the latter: no form of a host name
        listener.close()
        reason = getattr(error, "strerror", None) or error
        said = f"cannot listen on {chosen.host}:{chosen.port} ({reason})"
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            remedy = "Stop the program that listens there, or give --port a free one."
            raise PortInUse(said, remedy=remedy) from error
        raise SettingsInvalid(
            said,
            remedy="Set ROME_HOST to an address of this machine and ROME_PORT to a port you may "
            "use.",
        ) from error
    return listener
