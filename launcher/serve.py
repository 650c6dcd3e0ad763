"""`rome serve`: API and supervisor as one process tree.

Owns the order of starting and stopping. The lock and the port come first, so that a service which
cannot run leaves nothing behind; the supervisor drains last, so that watchers hear of it.
"""

from __future__ import annotations

import logging
import socket
from types import FrameType

import uvicorn
from rich.console import Console

from api.application import create_app
from launcher import banner, lock
from launcher.supervision import Supervision
from service import database, settings
from service.errors import PortInUse
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


def run() -> None:
    """Serve until SIGINT or SIGTERM. Raises an error of the catalogue if it cannot begin."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    chosen = settings.load()
    console = Console(stderr=True, highlight=False)
    with lock.hold(chosen.state_dir), bind(chosen) as listener:
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
            logging.getLogger("uvicorn").setLevel(logging.WARNING)
            banner.show(console, chosen, port=listener.getsockname()[1])
            server.run(sockets=[listener])
            console.print("[dim]draining: running jobs go back to the queue …[/]")
        console.print("[dim]stopped[/]")


def bind(chosen: Settings) -> socket.socket:
    """A listening socket at the settings' address. Raises PortInUse."""
    family = socket.AF_INET6 if ":" in chosen.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((chosen.host.strip("[]"), chosen.port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"cannot listen on {chosen.host}:{chosen.port} ({error.strerror or error})",
            remedy="Stop the program that listens there, or give --port a free one.",
        ) from error
    return listener
