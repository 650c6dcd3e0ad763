"""`make demo`: one ROME job and its baseline through the whole service, judged side by side.

Owns the story, not the parts: it is a client of a service that it starts in `.rome-demo`. It asks
nothing, needs no network, may be run again, and prints whatever comes out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launcher.serve import bind
from rome_client import Client, JobDidNotSucceed, RomeError, ServiceUnreachable, display
from service import settings
from service.settings import Settings

STATE_DIR = Path(".rome-demo")
START_SECONDS = 60.0

SEED = 0
EVALUATION = {
    "kind": "evaluate",
    "attacks": ["clean", "clamp", "fgsm", "pgd"],
    "domains": ["reference", "pixel"],
    "modes": ["untargeted"],
    "limit": 500,
    "seed": SEED,
}


@dataclass(frozen=True)
class Story:
    """One dataset's: the sets that are compared, and how their students are judged."""

    presets: tuple[str, ...]
    evaluation: dict[str, Any]
    attack: str  # what the pixel columns attack with


STORIES = {
    # Digits are black strokes on white: 8/255 is no challenge, and their preset trains for 16/255.
    "digits": Story(
        ("rome-quick-digits-ipc10", "random-digits-ipc10"),
        {
            **EVALUATION,
            "students": {"count": 5, "network": "convnet-d2-w32", "epochs": 500},
            "budgets": {"pixel": {"epsilon": "16/255", "step": "4/255"}},
        },
        "16/255 in the pixel domain, 8/255 in the reference domain",
    ),
    "cifar10": Story(
        ("rome-quick-cifar10-ipc10", "random-cifar10-ipc10"),
        {**EVALUATION, "students": {"count": 3, "network": "convnet-w32", "epochs": 150}},
        "8/255 in both domains",
    ),
}
COLUMNS = {
    "clean": "clean",
    "reference/clamp": "clamp\nreference",
    "reference/fgsm/untargeted": "FGSM\nreference",
    "reference/pgd/untargeted": "PGD-10\nreference",
    "pixel/clamp": "clamp\npixel",
    "pixel/fgsm/untargeted": "FGSM\npixel",
    "pixel/pgd/untargeted": "PGD-10\npixel",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m launcher.demo", description=__doc__)
    parser.add_argument("--dataset", choices=sorted(STORIES), default="digits")
    story = STORIES[parser.parse_args().dataset]
    console = Console(highlight=False)
    # An ended demo leaves no service behind, whoever ends it.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        _tell(console, story)
    except KeyboardInterrupt:
        console.print("\nstopped; `make demo` starts it again")
        sys.exit(130)
    except RomeError as error:
        display.error(console, error)
        console.print(f"[dim]the service's log is {STATE_DIR / 'serve.log'}[/]")
        sys.exit(error.exit_code)


def _tell(console: Console, story: Story) -> None:
    began = time.monotonic()
    os.environ["ROME_STATE_DIR"] = str(STATE_DIR)
    chosen = settings.load()
    with _service(chosen) as client:
        console.print(f"[bold]service[/]  {client.url}  [dim]its log: {STATE_DIR / 'serve.log'}[/]")
        rows: dict[str, Mapping[str, Any]] = {}
        files: list[Path] = []
        for preset in story.presets:
            job = _run(console, client, {"preset": preset, "seed": SEED}, preset)
            wanted = [a for a in client.artifacts(job["id"]) if a["kind"] == "synthetic-set"]
            files.append(client.download(wanted[0], STATE_DIR / "results" / f"{preset}.pt"))
            spec = {**story.evaluation, "artifact": wanted[0]["id"]}
            rows[preset] = _run(console, client, spec, f"evaluation of {preset}")["result"]
        console.print()
        console.print(_table(rows))
        console.print(
            "[dim]In % of at most 500 test images, mean ± standard deviation over n students; "
            "clamp is the clamp to [0,1] without an attack. Columns of different domains are "
            "different protocols: never compare them.\n"
            f"Attacks: {story.attack}. "
            "A few quick students on a small set: an illustration, not a result.[/]\n",
        )
        for path in files:
            console.print(f"[bold]file[/]  {path}")
    command = os.path.relpath(Path(sys.executable).with_name("rome"))
    console.print(
        f"\n[bold]go on[/]  {command} serve --state-dir {STATE_DIR}   keeps these jobs; API at "
        f"http://127.0.0.1:8321, its documentation at /docs\n"
        f"       {command} run examples/rome-digits-ipc10.yaml   submits one of yours\n"
        f"[dim]took {display.duration(time.monotonic() - began)}[/]",
        soft_wrap=True,
    )


@contextlib.contextmanager
def _service(chosen: Settings) -> Iterator[Client]:
    """`rome serve` on a free port, its output in serve.log, stopped at the end."""
    probe = bind(chosen.model_copy(update={"port": 0}))
    port = probe.getsockname()[1]
    probe.close()
    STATE_DIR.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "rome_client", "serve", "--port", str(port), "--until-eof"]
    with (STATE_DIR / "serve.log").open("w") as log:
        # Its standard input ends with this process, whatever ends it.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                _await_ready(client, process)
                yield client
        finally:
            process.terminate()
            process.communicate()


def _await_ready(client: Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = (STATE_DIR / "serve.log").read_text().strip()
            raise RomeError(said.removeprefix("error: ") or "the service ended at once")
        with contextlib.suppress(httpx2.TransportError):
            if client.http.get("/health/ready").is_success:
                return
        time.sleep(0.1)
    raise ServiceUnreachable(client.url, f"not ready after {START_SECONDS:.0f} s")


def _run(console: Console, client: Client, spec: dict[str, Any], what: str) -> dict[str, Any]:
    began = time.monotonic()
    job = client.submit(spec)
    console.print(f"[bold]submit[/]   {what}  [dim]{job['id']}[/]")
    with display.Follower(console) as follower:
        for event in client.events(job["id"]):
            if event.type == "job.progress":
                follower.show(event)
    job = client.get(job["id"])
    if job["status"] != "succeeded":
        raise JobDidNotSucceed(job)
    console.print(f"[green]done[/]     in {display.duration(time.monotonic() - began)}")
    return job


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(
        title="Accuracy of students trained on each set, clean and attacked",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("set", no_wrap=True)
    for heading in (*COLUMNS.values(), "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for preset, result in rows.items():
        scores = [result.get(name) for name in COLUMNS]
        students = {score["n"] for score in scores if score}
        table.add_row(
            escape(preset.split("-")[0]),
            *(f"{100 * s['mean']:.1f}\n± {100 * s['std']:.1f}" if s else "–" for s in scores),
            "/".join(map(str, sorted(students))),
        )
    return table


if __name__ == "__main__":
    main()
