"""The client against a small server that misbehaves on request."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rome_client import (
    Client,
    DamagedDownload,
    JobDidNotSucceed,
    Problem,
    RomeError,
    ServiceUnreachable,
)
from rome_client.cli import main

CONTENT = bytes(range(256)) * 64
ARTIFACT = {
    "id": "art_a",
    "name": "synthetic.pt",
    "kind": "synthetic-set",
    "size": len(CONTENT),
    "digest": hashlib.sha256(CONTENT).hexdigest(),
}
PROBLEM = {
    "code": "validation_failed",
    "title": "Wrong",
    "detail": "ipc: too small",
    "problems": [{"field": "ipc", "message": "too small", "remedy": "Give at least 1."}],
    "instance": "req_1",
}

Answer = Callable[[BaseHTTPRequestHandler], None]


class Script:
    """Answers each request with the next entry, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                script.requests.append((self.command, self.path, headers, body))
                answer = script.answers[0]
                if len(script.answers) > 1:
                    script.answers.pop(0)
                answer(self)

            do_GET = do_POST = _do  # the names http.server wants

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    thread = threading.Thread(target=script.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    script.server.shutdown()
    script.server.server_close()
    thread.join()


@pytest.fixture
def client(script: Script) -> Iterator[Client]:
    with Client(script.url, timeout=10) as client:
        yield client


def document(body: Any, status: int = 200, **headers: str) -> Answer:
    return raw(json.dumps(body).encode(), status, **{"Content-Type": "application/json"} | headers)


def raw(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Answer:
    """A body; with `length` larger than it, the connection breaks before its end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = length is not None

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def events(*seqs: int, end: bool = False) -> Answer:
    lines = []
    for seq in seqs:
        type = "job.succeeded" if end and seq == seqs[-1] else "job.progress"
        data = json.dumps({"seq": seq, "type": type, "at": "x", "attempt": 1, "data": {}})
        lines.append(f"id: {seq}\nevent: {type}\ndata: {data}\n\n")
    return raw("".join(lines).encode(), **{"Content-Type": "text/event-stream"})


def test_a_submission_cut_short_is_sent_again_under_its_key(script: Script, client: Client) -> None:
    script.answers = [hang_up, document({"id": "job_a"}, 202)]
    assert client.submit({"ipc": 1}) == {"id": "job_a"}
    first, second = script.requests
    assert first[3] == second[3]
    assert first[2]["idempotency-key"] == second[2]["idempotency-key"]


def test_a_problem_keeps_its_fields(script: Script, client: Client) -> None:
    script.answers = [document(PROBLEM, 422)]
    with pytest.raises(Problem) as caught:
        client.submit({})
    (wrong,) = caught.value.errors
    assert (wrong.field, wrong.message, wrong.remedy) == ("ipc", "too small", "Give at least 1.")
    assert (caught.value.exit_code, caught.value.request_id) == (2, "req_1")


def test_another_program_at_the_address_is_said(script: Script, client: Client) -> None:
    script.answers = [raw(b"<html>", 200), raw(b"<html>", 502)]
    for _ in range(2):
        with pytest.raises(RomeError, match="not as this service does"):
            client.get("job_a")


def test_a_listing_turns_its_pages(script: Script, client: Client) -> None:
    script.answers = [
        document({"items": [{"id": "a"}, {"id": "b"}], "next_cursor": "c"}),
        document({"items": [{"id": "d"}], "next_cursor": None}),
    ]
    assert [job["id"] for job in client.list(status="queued")] == ["a", "b", "d"]
    assert "cursor=c" in script.requests[1][1]
    assert all("status=queued" in request[1] for request in script.requests)


def test_a_broken_stream_goes_on_after_the_last_event(script: Script, client: Client) -> None:
    script.answers = [events(1, 2), hang_up, events(2, 3, 4, end=True)]
    assert [event.seq for event in client.events("job_a")] == [1, 2, 3, 4]
    sent = [r[2]["last-event-id"] for r in script.requests if r[1].endswith("/stream")]
    assert sent == ["0", "2", "2"]


def test_a_finished_job_seen_to_its_end_has_no_more_events(script: Script, client: Client) -> None:
    script.answers = [events(), document({"id": "job_a", "status": "succeeded"})]
    assert list(client.events("job_a", after=4, patience=60.0)) == []
    assert len(script.requests) == 2


def test_an_empty_stream_of_a_running_job_is_taken_up_again(script: Script, client: Client) -> None:
    running = document({"id": "job_a", "status": "running"})
    script.answers = [events(), running, events(5, end=True)]
    assert [event.seq for event in client.events("job_a", after=4)] == [5]


def test_a_stream_gives_up_when_the_service_stays_away(script: Script, client: Client) -> None:
    script.answers = [hang_up]
    with pytest.raises(ServiceUnreachable):
        list(client.events("job_a", patience=0.0))


def test_waiting_asks_until_the_end(script: Script, client: Client) -> None:
    script.answers = [
        document({"id": "job_a", "status": "queued"}),
        document({"id": "job_a", "status": "running"}),
        document({"id": "job_a", "status": "succeeded"}),
    ]
    assert client.wait("job_a")["status"] == "succeeded"
    assert script.requests[1][2]["prefer"] == "wait=20"
    script.answers = [
        document({"id": "job_a", "status": "failed", "error": {"detail": "d", "remedy": "r"}})
    ]
    with pytest.raises(JobDidNotSucceed, match="job_a failed: d"):
        client.wait("job_a")


def test_a_download_goes_on_after_its_last_byte(
    script: Script, client: Client, tmp_path: Path
) -> None:
    half = len(CONTENT) // 2
    script.answers = [
        raw(CONTENT[:half], length=len(CONTENT)),
        raw(CONTENT[half:], 206, **{"Content-Range": f"bytes {half}-{len(CONTENT) - 1}/*"}),
    ]
    target = client.download(ARTIFACT, tmp_path)
    assert target.read_bytes() == CONTENT
    assert script.requests[1][2]["range"] == f"bytes={half}-"
    assert script.requests[1][2]["if-range"] == f'"{ARTIFACT["digest"]}"'
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_is_there_is_not_repeated(
    script: Script, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "synthetic.pt").write_bytes(CONTENT)
    assert client.download(ARTIFACT, tmp_path) == tmp_path / "synthetic.pt"
    assert script.requests == []


def test_a_damaged_download_leaves_nothing(script: Script, client: Client, tmp_path: Path) -> None:
    (tmp_path / "synthetic.pt").write_bytes(b"the one before")
    script.answers = [raw(b"x" * len(CONTENT))]
    with pytest.raises(DamagedDownload):
        client.download(ARTIFACT, tmp_path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"the one before"]


def test_a_name_cannot_leave_the_folder(script: Script, client: Client, tmp_path: Path) -> None:
    script.answers = [raw(CONTENT)]
    path = client.download({**ARTIFACT, "name": "../../evil.pt"}, tmp_path)
    assert path == tmp_path / "evil.pt"


def test_an_upload_sends_the_file_as_it_is(script: Script, client: Client, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    script.answers = [document({"id": "art_b"}, 201)]
    assert client.upload(tmp_path / "mine.pth") == {"id": "art_b"}
    assert client.upload(str(tmp_path / "mine.pth"), name="other.pth") == {"id": "art_b"}
    first, second = script.requests
    assert first[:2] == ("POST", "/v1/artifacts?kind=student-weights&name=mine.pth")
    assert second[1].endswith("name=other.pth")
    assert (first[2]["content-length"], first[3]) == (str(len(CONTENT)), CONTENT)


def _command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_the_command_shows_field_and_remedy(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers = [document(PROBLEM, 422)]
    spec = tmp_path / "s.yaml"
    spec.write_text("ipc: 0")
    status, out, said = _command(capsys, "run", str(spec), "--url", script.url)
    assert (status, out) == (2, "")
    assert said.splitlines() == ["error: ipc: too small", "  → Give at least 1."]


def test_the_command_uploads_and_prints_the_id(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers = [document({"id": "art_b"}, 201)]
    missing = _command(capsys, "upload", str(tmp_path / "mine.pth"), "--url", script.url)
    assert (missing[0], script.requests) == (2, [])
    assert "cannot read" in missing[2]
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    sent = _command(capsys, "upload", str(tmp_path / "mine.pth"), "--url", script.url)
    assert sent == (0, "art_b\n", "")


@pytest.mark.parametrize("noun", ["protocols", "attacks", "presets", "methods", "datasets"])
def test_a_catalogue_is_a_table(
    script: Script, capsys: pytest.CaptureFixture[str], noun: str
) -> None:
    script.answers = [document({"items": [{"name": "one", "summary": "What it is."}]})]
    status, out, _ = _command(capsys, noun, "--url", script.url)
    assert (status, script.requests[0][1]) == (0, f"/v1/{noun}")
    assert "one" in out
    assert "What it is." in out


def test_a_result_is_shown_with_its_doubt(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    share = {"mean": 0.5, "std": None, "n": 1, "interval": [0.4, 0.6]}
    job = {
        "id": "job_a",
        "status": "succeeded",
        "kind": "evaluate",
        "created_at": "x",
        "result": {
            "pixel/pgd/untargeted": share,
            "pixel/trust": "low",
            "pixel/findings": ["zero_gradients"],
        },
    }
    script.answers = [document(job), document({"items": []})]
    _, out, _ = _command(capsys, "get", "job_a", "--url", script.url)
    assert "trust low: zero_gradients" in out
    assert "50.00 %, 95 % in [40.00, 60.00], n = 1, trust low" in " ".join(out.split())


def test_a_bug_of_the_service_names_its_request(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    bug = {"code": "internal_error", "detail": "The service has a bug", "instance": "req_1"}
    script.answers = [document({**bug, "remedy": "Report it with the request id."}, 500)]
    status, _, said = _command(capsys, "get", "job_a", "--url", script.url)
    assert status == 4
    assert said.splitlines()[-2:] == ["  → Report it with the request id.", "  request req_1"]


def test_a_finished_job_is_not_on_its_way(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = {"phase": "saving", "step": 5, "total": 5}
    job = {"id": "job_a", "status": "running", "kind": "distill", "created_at": "x"}
    for finished_at, shown in ((None, True), ("y", False)):
        script.answers = [
            document({**job, "progress": progress, "finished_at": finished_at}),
            document({"items": []}),
        ]
        _, out, _ = _command(capsys, "get", "job_a", "--url", script.url)
        assert ("saving 5/5" in out) is shown


@pytest.mark.parametrize("command", [["run"], ["db", "upgrade"], ["serve"]])
def test_help_says_where_a_default_comes_from(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = _command(capsys, *command, "--help")
    assert "<bool>" not in out
    assert {"run": "ROME_URL", "db": "(.rome)", "serve": "(127.0.0.1)"}[command[0]] in out


def test_the_command_says_how_to_start_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 1 is reserved; nothing listens there.
    status, _, said = _command(capsys, "list", "--url", "http://127.0.0.1:1")
    assert status == 3
    assert "no service answers at http://127.0.0.1:1" in said
    assert "rome serve" in said


def test_json_output_is_json_alone(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers = [document({"items": [{"id": "job_a"}], "next_cursor": None})]
    status, out, said = _command(capsys, "list", "--json", "--url", script.url)
    assert (status, json.loads(out), said) == (0, [{"id": "job_a"}], "")
