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
from rome_client import Client, JobDidNotSucceed, RomeError, ServiceUnreachable, display, results
from service import settings
from service.settings import Settings

STATE_DIR = Path(".rome-demo")
START_SECONDS = 60.0

SEED = 0
ASKED = {
    "kind": "evaluate",
    "attacks": ["fgsm", "pgd"],
    "modes": ["untargeted"],
    "limit": 500,
    "seed": SEED,
}


@dataclass(frozen=True)
class Story:
    """One dataset's: the sets that are compared, and how their students are judged.

    `overrides` change attacks of the pixel protocol, and `sizes` says in words how far each goes.
    """

    dataset: str
    presets: tuple[str, ...]
    students: dict[str, Any]
    overrides: dict[str, Any]
    sizes: str

    @property
    def pixel(self) -> str:
        """What results call the pixel protocol: changed settings are not the protocol's own."""
        return "pixel (changed)" if self.overrides else "pixel"

    @property
    def columns(self) -> dict[str, str]:
        """Headings by the name of the number."""
        return {
            f"{PUBLISHED}/clean": "clean",
            f"{PUBLISHED}/clamp": f"clamp\n{PUBLISHED}",
            f"{PUBLISHED}/fgsm/untargeted": f"FGSM\n{PUBLISHED}",
            f"{PUBLISHED}/pgd/untargeted": f"PGD-10\n{PUBLISHED}",
            f"{self.pixel}/fgsm/untargeted": "FGSM\npixel",
            f"{self.pixel}/pgd/untargeted": "PGD-20\npixel",
        }


PUBLISHED = "rome-2025"
STORIES = {
    # Digits are black strokes on white: 8/255 is no challenge, and their preset trains for 16/255.
    "digits": Story(
        "digits",
        ("rome-quick-digits-ipc10", "random-digits-ipc10"),
        {"count": 5, "network": "convnet-d2-w32", "epochs": 500},
        {"fgsm": {"epsilon": "16/255"}, "pgd": {"epsilon": "16/255", "step": "4/255"}},
        "16/255 in pixel, where 8/255 is the protocol's own; 8/255 of normalised images in "
        "rome-2025",
    ),
    "cifar10": Story(
        "cifar10",
        ("rome-quick-cifar10-ipc10", "random-cifar10-ipc10"),
        {"count": 3, "network": "convnet-w32", "epochs": 150},
        {},
        "8/255 in pixel; 8/255 of normalised images in rome-2025",
    ),
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
            (made, *_) = _artifacts(client, job, "synthetic-set")
            files.append(client.download(made, STATE_DIR / "results" / f"{preset}.pt"))
            rows[preset] = _judge(console, client, story, preset, made["id"])
        console.print()
        console.print(_table(story, rows))
        for preset, result in rows.items():
            doubts = (f"{at} {results.doubt(result, at)}" for at in (PUBLISHED, story.pixel))
            console.print(f"{_short(preset)}  {escape('; '.join(doubts))}", soft_wrap=True)
        console.print(
            "[dim]In % of at most 500 test images, mean ± standard deviation over n students; "
            "clamp is the clamp to [0,1] without an attack. Columns of different protocols are not "
            "comparable: the same epsilon is another distance there.\n"
            f"Attacks: {story.sizes}. "
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


def _judge(
    console: Console, client: Client, story: Story, preset: str, artifact: str
) -> Mapping[str, Any]:
    """Train students on a set and attack them as published, then the same ones in pixel space."""
    students = {"artifact": artifact, "students": story.students, "protocols": [PUBLISHED]}
    published = _run(console, client, {**ASKED, **students}, f"students of {preset}, {PUBLISHED}")
    weights = _artifacts(client, published, "student-weights")
    same = {
        "models": [{"artifact": row["id"], "name": Path(row["name"]).stem} for row in weights],
        "dataset": story.dataset,
        "protocols": ["pixel"],
        "overrides": story.overrides,
    }
    pixel = _run(console, client, {**ASKED, **same}, f"the same students, {story.pixel}")
    return {**published["result"], **pixel["result"]}


def _artifacts(client: Client, job: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in client.artifacts(job["id"]) if row["kind"] == kind]


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


def _table(story: Story, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(
        title="Accuracy of students trained on each set, clean and attacked",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("set", no_wrap=True)
    for heading in (*story.columns.values(), "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for preset, result in rows.items():
        scores = [result[name] for name in story.columns]
        students = {score["n"] for score in scores}
        table.add_row(
            _short(preset),
            *(f"{100 * s['mean']:.1f}\n± {100 * (s['std'] or 0):.1f}" for s in scores),
            "/".join(map(str, sorted(students))),
        )
    return table


def _short(preset: str) -> str:
    return escape(preset.split("-")[0])


if __name__ == "__main__":
    main()
