"""The way of a job through the whole service, as a user goes it."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rome_client import Client, JobDidNotSucceed
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


# As little as there can be of everything: one epoch, few images, one attack.
LITTLE = {"attacks": ["fgsm"], "modes": ["untargeted"], "limit": 12, "seed": 1}


def test_a_set_is_judged_and_its_students_attack_each_other(
    served: Serving, tmp_path: Path
) -> None:
    """Distil, evaluate, upload a network of one's own, evaluate it, transfer: every output kind."""
    import torch

    from rome_core.networks import ConvNet
    from rome_core.recipes.networks import parse

    own = ConvNet(parse("convnet-d1-w4"), channels=1, size=8, classes=10)
    wrapped = {f"module.{name}": value for name, value in own.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "mine.pth")
    with Client(served.url) as client:

        def done(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
            job = client.wait(client.submit({**LITTLE, **spec})["id"], timeout=200)
            found = client.artifacts(job["id"])
            (tmp_path / job["id"]).mkdir()
            for row in found:
                client.download(row, tmp_path / job["id"])
            return job, {row["name"]: row for row in found}

        job = client.wait(client.submit(RANDOM)["id"], timeout=60)
        (made,) = (a for a in client.artifacts(job["id"]) if a["name"] == "synthetic.pt")
        evaluated, files = done(
            {
                "kind": "evaluate",
                "artifact": made["id"],
                "students": {"count": 1, "network": "convnet-d1-w4", "epochs": 1},
                "protocols": ["rome-2025", "quick"],
            }
        )
        assert (evaluated["method"], evaluated["dataset"]) == (None, "digits")
        assert {row["kind"] for row in files.values()} == {
            "evaluation",
            "figure",
            "log",
            "outcomes",
            "provenance",
            "student-weights",
            "timings",
        }
        for protocol in ("rome-2025", "quick"):
            accuracy = evaluated["result"][f"{protocol}/fgsm/untargeted"]
            assert (accuracy["n"], len(accuracy["interval"])) == (1, 2)
            assert evaluated["result"][f"{protocol}/trust"] in {"high", "limited", "low"}
        student = files["student-0.safetensors"]["id"]
        uploaded = client.upload(tmp_path / "mine.pth")["id"]
        models = [{"artifact": student, "name": "student"}, {"artifact": uploaded, "name": "mine"}]
        asked = {"dataset": "digits", "overrides": {"fgsm": {"epsilon": "16/255"}}}
        both, files = done({"kind": "evaluate", "models": models, "protocols": ["quick"], **asked})
        assert both["result"]["quick (changed)/fgsm/untargeted"]["n"] == 2
        report = json.loads((tmp_path / both["id"] / "evaluation.json").read_text())
        assert [subject["name"] for subject in report["subjects"]] == ["student", "mine"]
        assert set(both["provenance"]["parents"]) == {student, uploaded}
        moved, files = done({"kind": "transfer", "sources": models, "protocol": "quick", **asked})
        assert {row["kind"] for row in files.values()} >= {"transfer", "figure", "provenance"}
        assert moved["result"]["targets"] == ["student", "mine"]
        assert len(moved["result"]["worst_case"]) == 2
        assert any((served.state_dir / "cache").rglob("*.safetensors"))
        again, files = done({"kind": "transfer", "sources": models, "protocol": "quick", **asked})
        assert again["result"] == moved["result"]
        timings = json.loads((tmp_path / again["id"] / "timings.json").read_text())
        assert timings["blocks"] == {"crafted": 0, "reused": 2}


def test_experts_are_trained_once_and_named_by_a_distillation(
    served: Serving, tmp_path: Path
) -> None:
    """A job of kind experts; a distillation that names its file; one that trains its own."""
    trained = {"network": "convnet-d1-w4", "count": 1, "epochs": 2}
    told = {"buffer_experts": 1, "max_start_epoch": 1, "expert_epochs": 1, "syn_steps": 1}
    distil = {
        "method": "mtt",
        "dataset": "digits",
        "ipc": 1,
        "seed": 1,
        "hyperparameters": {"network": "convnet-d1-w4", "iterations": 2, "lr_img": 1, **told},
    }
    with Client(served.url) as client:

        def done(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
            job = client.wait(client.submit(spec)["id"], timeout=200)
            return job, {row["name"]: row for row in client.artifacts(job["id"])}

        job, files = done({"kind": "experts", "dataset": "digits", "seed": 0, **trained})
        assert (job["method"], job["dataset"]) == (None, "digits")
        assert set(files) == {"experts.safetensors", "provenance.json"}
        made = files["experts.safetensors"]
        assert (made["kind"], made["metadata"]["network"]) == ("experts", "convnet-d1-w4")
        assert job["result"]["test_accuracy"]["n"] == 1
        named, files = done({**distil, "experts": made["id"]})
        assert named["provenance"]["parents"] == {made["id"]: f"sha256:{made['digest']}"}
        assert "experts.safetensors" not in files
        own, others = done(distil)
        assert others["experts.safetensors"]["kind"] == "experts"
        assert others["synthetic.pt"]["digest"] == files["synthetic.pt"]["digest"]
        (note, *_) = own["provenance"]["notes"]
        assert "experts of seed 0" in note


def test_an_upload_that_is_no_network_fails_the_job_that_reads_it(
    served: Serving, tmp_path: Path
) -> None:
    (tmp_path / "mine.pth").write_bytes(b"not weights")
    with Client(served.url) as client:
        uploaded = client.upload(tmp_path / "mine.pth")["id"]
        spec = {"kind": "evaluate", "dataset": "digits", "models": [{"artifact": uploaded}]}
        with pytest.raises(JobDidNotSucceed):
            client.wait((job := client.submit(spec))["id"], timeout=60)
        error = client.get(job["id"])["error"]
    assert (error["code"], error["field"]) == ("weights_damaged", "models.0.artifact")


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
