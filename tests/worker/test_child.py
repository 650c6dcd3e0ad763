"""The child process, started for real with a torch-free runner."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.messages import Message
from worker.process import Child, ChildDied, Spares, child_command

COMMAND = child_command("tests.chaos.probe")
PATIENCE = 30.0


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(COMMAND)
    yield child
    child.kill()
    child.close()


def hear(child: Child, kind: str) -> Message:
    """The next line of a type; lines before it are passed over."""
    while True:
        message = child.receive(PATIENCE)
        assert message is not None, f"no {kind} line"
        if message["type"] == kind:
            return message


def ended(handle: int) -> bool:
    """Whether the process behind a pidfd ends in time: then it becomes readable."""
    return bool(select.select([handle], [], [], PATIENCE)[0])


def start(child: Child, workdir: Path, **options: Any) -> None:
    (workdir / "1").mkdir(exist_ok=True)
    child.send(
        {
            "type": "run",
            "job_id": "job_x",
            "attempt": 1,
            "spec": {"seed": 7, "hyperparameters": options},
            "workdir": str(workdir / "1"),
            "earlier": [],
            "data_root": str(workdir),
            "inputs": {},
            "cache": str(workdir / "cache"),
            "device": "cpu",
            "threads": 1,
        }
    )


def test_runs_a_job_and_ends(child: Child, tmp_path: Path) -> None:
    assert hear(child, "ready")["pid"] == child.pid
    start(child, tmp_path)
    done = hear(child, "done")
    chain, bulk = done["outputs"]
    assert json.loads(Path(chain["path"]).read_text())["chain"] == done["metrics"]["chain"]
    assert bulk["kind"] == "synthetic-set"
    assert done["provenance"] == {"resumed_step": 0, "threads": 1}
    with pytest.raises(ChildDied, match="exit status 0"):
        hear(child, "more")


def test_numbers_that_json_lacks_travel_as_null(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path)
    assert hear(child, "done")["metrics"]["nothing"] is None


def test_progress_is_throttled_but_its_last_word_arrives(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path, steps=500)
    seen = []
    while (message := child.receive(PATIENCE)) and message["type"] != "done":
        seen.append((message.get("phase"), message.get("step")))
    assert ("distilling", 500) in seen
    assert seen[-1] == ("saving", 0)
    assert len(seen) < 50


def test_prints_of_a_library_are_log_and_not_messages(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path, behaviour="print", once=True)
    assert hear(child, "done")["outputs"]
    child.close()
    assert '{"type":"done"}' in child.log_tail


def test_stop_leaves_a_checkpoint(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path, steps=10_000_000, checkpoint_every=1_000_000)
    hear(child, "progress")
    child.send({"type": "stop", "reason": "drain"})
    hear(child, "stopped")
    (checkpoint,) = (tmp_path / "1" / "checkpoints").glob("*.json")
    assert json.loads(checkpoint.read_text())["step"] == int(checkpoint.stem)


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("bad data", "dataset_missing"),
        ("disk full", "storage_full"),
        ("memory", "out_of_memory"),
        ("bug", "internal_error"),
    ],
)
def test_errors_become_codes_with_a_remedy(
    child: Child, tmp_path: Path, behaviour: str, code: str
) -> None:
    start(child, tmp_path, behaviour=behaviour)
    failed = hear(child, "failed")
    assert failed["code"] == code
    assert failed["remedy"]
    child.close()
    assert any("Traceback" in line for line in child.log_tail) == (behaviour != "bad data")


def test_end_of_input_ends_the_child_in_the_middle_of_a_job(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path, behaviour="hang")
    hear(child, "progress")
    child.close(grace=PATIENCE)
    with pytest.raises(ChildDied, match="SIGKILL"):
        hear(child, "done")


def test_a_child_whose_supervisor_was_killed_ends(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from worker.process import Child, child_command\n"
        "child = Child(child_command('tests.chaos.probe'))\n"
        "child.receive(30)\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen((*COMMAND[:1], "-c", script), stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        orphan = int(supervisor.stdout.readline())
        handle = os.pidfd_open(orphan)
        supervisor.kill()
    try:
        assert ended(handle)
    finally:
        os.close(handle)


def test_crash_names_the_signal_and_keeps_the_last_words(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path, behaviour="segfault")
    with pytest.raises(ChildDied, match="killed by SIGSEGV"):
        hear(child, "done")
    assert "about to crash" in child.log_tail


def test_stacks_are_dumped_into_the_log(child: Child, tmp_path: Path) -> None:
    start(child, tmp_path, behaviour="hang")
    hear(child, "progress")
    child.dump_stacks()
    child.kill()
    child.close()
    assert any("probe.py" in line and line.endswith("in run") for line in child.log_tail)


def test_kill_takes_the_whole_group() -> None:
    child = Child(("/bin/sh", "-c", 'sleep 1000 & echo \'{"type":"pid","pid":\'$!\'}\'; wait'))
    grandchild = os.pidfd_open(hear(child, "pid")["pid"])
    child.kill()
    assert ended(grandchild)
    os.close(grandchild)
    child.close()


def test_log_keeps_the_newest_lines() -> None:
    child = Child(("/bin/sh", "-c", "for i in 1 2 3 4 5; do echo line $i >&2; done"), log_lines=2)
    with pytest.raises(ChildDied):
        child.receive(PATIENCE)
    child.close()
    assert child.log_tail == ("line 4", "line 5")


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.json", b'{"chain":', "application/json"),
        ("a.pt", b"PK\x03\x04 not a zip", "application/x-pytorch"),
        ("a.safetensors", b"\xff" * 64, "application/octet-stream"),
        ("a.png", b"\x89PNG\r\n\x1a\n cut", "image/png"),
        ("a.md", b"\xff\xfe\xff", "text/markdown"),
        ("a.log", b"\xff\xfe\xff", "text/plain"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><g></svg>", "image/svg+xml"),
        ("a.svg", b"<html/>", "image/svg+xml"),
        ("a.parquet", b"PAR1 and no more PAR1", "application/vnd.apache.parquet"),
        ("a", b"PAR1", "application/vnd.apache.parquet"),
        ("empty.bin", b"", "application/octet-stream"),
    ],
)
def test_proof_refuses_what_does_not_load(
    child: Child, tmp_path: Path, name: str, content: bytes, media_type: str
) -> None:
    (tmp_path / name).write_bytes(content)
    output = {"name": name, "path": str(tmp_path / name), "media_type": media_type}
    child.send({"type": "prove", "outputs": [output]})
    failed = hear(child, "failed")
    assert failed["code"] == "publish_refused"
    assert failed["detail"].startswith(name)


def test_proof_refuses_a_pickle_that_carries_code(child: Child, tmp_path: Path) -> None:
    import torch

    torch.save({"path": Path("x")}, tmp_path / "code.pt")
    output = {"name": "code.pt", "path": str(tmp_path / "code.pt"), "media_type": ""}
    child.send({"type": "prove", "outputs": [output]})
    assert hear(child, "failed")["code"] == "publish_refused"


def test_proof_refuses_a_table_of_which_a_part_was_lost(child: Child, tmp_path: Path) -> None:
    """Its frame is whole and its metadata can be read: only who reads the rows finds out."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "outcomes.parquet"
    parquet.write_table(pyarrow.table({"image": list(range(10_000))}), path)
    content = bytearray(path.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    path.write_bytes(content)
    output = {"name": path.name, "path": str(path), "media_type": "application/vnd.apache.parquet"}
    child.send({"type": "prove", "outputs": [output]})
    assert hear(child, "failed")["code"] == "publish_refused"


def test_proof_accepts_what_loads(child: Child, tmp_path: Path) -> None:
    import pyarrow
    import torch
    from PIL import Image
    from pyarrow import parquet
    from safetensors.torch import save_file

    tensors = {"images": torch.zeros(2, 1, 8, 8)}  # (n, c, h, w)
    torch.save(tensors, tmp_path / "set.pt")
    save_file(tensors, tmp_path / "set.safetensors")
    Image.new("L", (8, 8)).save(tmp_path / "sprite.png")
    (tmp_path / "set.json").write_text("{}")
    (tmp_path / "beard.log").write_text("FGSM Attack ε")
    (tmp_path / "bars.svg").write_text(
        "<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"
    )
    parquet.write_table(pyarrow.table({"image": [1, 2]}), tmp_path / "outcomes.parquet")
    (tmp_path / "bulk.bin").write_bytes(b"x")
    files = [{"name": p.name, "path": str(p), "media_type": ""} for p in tmp_path.iterdir()]
    child.send({"type": "prove", "outputs": files})
    hear(child, "proved")


def test_spares_replace_the_one_that_is_taken() -> None:
    spares = Spares(COMMAND, count=1)
    try:
        spares.fill()
        first = spares.take()
        second = spares.take()
        assert first.pid != second.pid
        for child in (first, second):
            hear(child, "ready")
            child.kill()
            child.close()
    finally:
        spares.close()


def test_a_spare_that_died_while_waiting_is_not_handed_out() -> None:
    spares = Spares(COMMAND, count=1)
    try:
        spares.fill()
        waiting = spares._waiting[0]
        os.killpg(waiting.pid, signal.SIGKILL)
        with pytest.raises(ChildDied):
            hear(waiting, "more")
        child = spares.take()
        assert child is not waiting
        hear(child, "ready")
        child.kill()
        child.close()
    finally:
        spares.close()
