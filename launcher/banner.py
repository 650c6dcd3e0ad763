"""What `rome serve` says when it is up."""

from __future__ import annotations

import ipaddress
from importlib.metadata import version

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from service.settings import Settings


def show(console: Console, settings: Settings, *, port: int) -> None:
    url = f"http://{settings.host}:{port}"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("API", f"[bold]{url}[/]")
    table.add_row("docs", f"{url}/docs")
    table.add_row("state", escape(str(settings.state_dir)))
    table.add_row("data", escape(str(settings.data_root)))
    table.add_row("jobs at once", f"{settings.slots} on {settings.device}")
    table.add_row("stop", "Ctrl-C; running jobs checkpoint and go on at the next start")
    loopback = _is_loopback(settings.host)
    table.add_row(
        "note" if loopback else "[red]warning[/]",
        "no passwords, this machine only"
        if loopback
        else "[red]no passwords, and the address is reachable from other machines[/]",
    )
    title = f"[bold]ROME[/] {version('rome-service')}  robust dataset distillation"
    console.print(Panel(table, title=title, title_align="left", border_style="cyan", expand=False))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
