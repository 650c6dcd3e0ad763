"""The way of a job through the whole service, as a user goes it."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
from pathlib import Path

import httpx2
import pytest

from rome_client import Client
from tests.e2e.conftest import Serving, processes, rome, serving

RANDOM = {"method": "random", "dataset": "digits", "ipc": 1, "seed": 7}


def test_submit_follow_download(served: Serving, tmp_path: Path) -> None:
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        accepted = http.post("/v1/jobs", json=RANDOM)
        assert accepted.status_code == 202
        path = accepted.headers["location"]
        with http.sse(f"{path}/stream") as source:
            events = [message.json() for message in source if message.data]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert (events[0]["type"], events[-1]["type"]) == ("job.queued", "job.succeeded")
        with http.sse(f"{path}/stream", headers={"Last-Event-ID": "2"}) as source:
            rest = [message.json() for message in source if message.data]
        assert rest == events[2:]
        job = http.get(path).json()
        assert (job["status"], job["error"]) == ("succeeded", None)
        assert job["provenance"]
        artifacts = {a["name"]: a for a in http.get(f"{path}/artifacts").json()["items"]}
        wanted = artifacts["synthetic.pt"]
        data = http.get(f"/v1/artifacts/{wanted['id']}/content").content
        assert hashlib.sha256(data).hexdigest() == wanted["digest"]
    with Client(served.url) as client:
        file = client.download(wanted["id"], tmp_path)
    assert file.read_bytes() == data


def test_the_command_runs_a_file_to_its_result(served: Serving, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("preset: random-digits-ipc10\nseed: 3\n")
    output = tmp_path / "out"
    ended = rome(
        "run", str(spec), "--set", "ipc=1", "--output", str(output), "--json", ROME_URL=served.url
    )
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["job"]["spec"]["ipc"] == 1
    assert {Path(name).name for name in answer["files"]} == {p.name for p in output.iterdir()}
    assert (output / "synthetic.pt").stat().st_size > 0


def test_the_command_says_how_to_go_on(served: Serving, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("preset: random-digits-ipc10\nipc: 1\n")
    ended = rome("run", str(spec), "--output", str(tmp_path / "out"), ROME_URL=served.url)
    assert ended.returncode == 0, ended.stderr
    (named,) = re.findall(r"evaluate it .* --set artifact=(art_\w+)", ended.stdout)
    with httpx2.Client(base_url=served.url) as http:
        assert http.get(f"/v1/artifacts/{named}").json()["name"] == "synthetic.pt"


def test_a_second_serve_on_the_folder_is_refused(served: Serving) -> None:
    with httpx2.Client(base_url=served.url) as http:
        assert http.get("/health/live").status_code == 200
    folder = str(served.state_dir)
    ended = rome("serve", "--port", "0", "--state-dir", folder)
    assert ended.returncode == 6
    said = ended.stderr.splitlines()
    assert len(said) == 2
    assert str(served.process.pid) in said[0]
    assert folder in said[0]
    assert said[1].startswith("  → ")


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = rome("serve", "--port", port, "--state-dir", str(tmp_path / "state"))
    assert ended.returncode == 6
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "state").exists()


def test_a_wrong_setting_is_one_line(tmp_path: Path) -> None:
    ended = rome("serve", ROME_STATE_DIR=str(tmp_path), ROME_PORT="high")
    assert ended.returncode == 6
    assert "ROME_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_with_watchers_and_work(tmp_path: Path, number: int) -> None:
    """A stream is open and a job has run; the process leaves with status 0 and no orphan."""
    with serving(tmp_path / "state") as served:
        with httpx2.Client(base_url=served.url, timeout=60) as http:
            job = http.post("/v1/jobs", json={**RANDOM, "run_at": "2199-01-01T00:00:00Z"}).json()
            with http.sse(f"/v1/jobs/{job['id']}/stream") as source:
                messages = iter(source)
                assert next(messages).retry == 1000
                assert next(messages).id == "1"
                assert served.stop(number) == 0
                assert list(messages) == []
        assert "stopped" in served.said[-1]
        assert processes(tmp_path / "state") == []


def test_the_end_of_its_input_ends_it_where_that_was_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path / "state", "--until-eof") as served:
        assert served.process.stdin is not None
        served.process.stdin.close()
        assert served.end() == 0
        assert processes(tmp_path / "state") == []


# Some seconds of computing, seen step by step, and leases that run out soon.
TINY_ROME = {
    "preset": "rome-quick-digits-ipc10",
    "ipc": 1,
    "seed": 1,
    "hyperparameters": {
        "iterations": 30,
        "network": "convnet-w8-d1",
        "net_num": 2,
        "net_begin": 1,
    },
}
SOON = {
    "ROME_PROGRESS_EVENT_SECONDS": "0.01",
    "ROME_LEASE_TTL_SECONDS": "2",
    "ROME_LEASE_RENEW_SECONDS": "0.5",
    "ROME_REAPER_INTERVAL_SECONDS": "0.2",
    "ROME_RETRY_SECONDS": "0",
}


def _distilling(client: Client, job_id: str) -> int:
    """Follow a job until it has distilled for a step or more; which one."""
    for event in client.events(job_id):
        if event.data.get("phase") == "distilling" and event.data["step"]:
            return int(event.data["step"])
    raise AssertionError("the job ended before it was interrupted")


def test_an_interrupted_job_goes_on_at_the_next_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving(state, **SOON) as served, Client(served.url) as client:
        job_id = client.submit(TINY_ROME)["id"]
        step = _distilling(client, job_id)
        assert served.stop() == 0
        assert processes(state) == []
    with serving(state, **SOON) as served, Client(served.url) as client:
        job = client.wait(job_id, timeout=60)
        drained, last = client.attempts(job_id)
        assert any(row["kind"] == "synthetic-set" for row in client.artifacts(job_id))
        served.stop()
    assert (drained["outcome"], drained["charged"]) == ("drained", False)
    assert last["resumed_step"] >= step
    assert (job["status"], job["attempts_charged"]) == ("succeeded", 0)


def test_a_killed_tree_loses_no_job(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving(state, **SOON) as served, Client(served.url) as client:
        job_id = client.submit(TINY_ROME)["id"]
        later = client.submit({**RANDOM, "run_at": "2199-01-01T00:00:00Z"})
        _distilling(client, job_id)
        served.kill()
        assert processes(state) == []
    with serving(state, **SOON) as served, Client(served.url) as client:
        assert client.wait(job_id, timeout=60)["status"] == "succeeded"
        assert [attempt["outcome"] for attempt in client.attempts(job_id)] == ["lost", "succeeded"]
        assert client.get(later["id"]) == later
        served.stop()


def test_the_database_commands(tmp_path: Path) -> None:
    environ = {"ROME_STATE_DIR": str(tmp_path / "state")}
    assert "database empty" in rome("db", "current", **environ).stdout
    assert not (tmp_path / "state").exists()
    first, again = rome("db", "upgrade", **environ), rome("db", "upgrade", **environ)
    assert first.stdout.startswith("empty -> ")
    assert "up to date" in again.stdout


def test_a_worker_without_a_broker_says_what_to_do(tmp_path: Path) -> None:
    ended = rome("worker", ROME_STATE_DIR=str(tmp_path))
    assert ended.returncode == 6
    assert "ROME_BROKER_URL" in ended.stderr


def test_the_doctor_answers(tmp_path: Path) -> None:
    ended = rome("doctor", ROME_STATE_DIR=str(tmp_path / "state"))
    assert "Python" in ended.stdout
    assert "dataset digits" in ended.stdout
    assert not (tmp_path / "state").exists()
