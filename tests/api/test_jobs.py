from __future__ import annotations

import threading

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.api.conftest import RANDOM, Service, submit


def test_a_submission_is_answered_with_the_canonical_job(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={"method": "random", "dataset": "digits", "ipc": 2})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert response.headers["etag"] == 'W/"1"'
    assert job["status"] == "queued"
    assert job["spec"]["hyperparameters"]["factor"] == 1
    assert isinstance(job["spec"]["seed"], int)
    assert len(job["spec_hash"]) == 64
    assert client.get(response.headers["location"]).json() == job


def test_head_brings_the_headers_of_get(live: httpx2.Client) -> None:
    path = f"/v1/jobs/{submit(live)['id']}"
    for url in ("/v1/jobs", path, f"{path}/events", "/v1/presets/rome-2025-cifar10-ipc10"):
        whole, head = live.get(url), live.head(url)
        assert (head.status_code, head.content) == (200, b""), url
        assert head.headers["content-length"] == str(len(whole.content))
    assert live.head(path).headers["etag"] == 'W/"1"'
    assert live.head(f"{path}/stream").headers["content-type"].startswith("text/event-stream")
    assert live.head("/health/ready").status_code == 200
    assert live.head("/v1/jobs/job_unknown").status_code == 404


def test_the_same_key_queues_once(client: TestClient, service: Service) -> None:
    key = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json=RANDOM, headers=key)
    again = client.post("/v1/jobs", json=dict(reversed(RANDOM.items())), headers=key)
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert service.rows("job") == 1


def test_the_same_key_with_another_body_is_refused(client: TestClient, service: Service) -> None:
    key = {"Idempotency-Key": "one"}
    client.post("/v1/jobs", json=RANDOM, headers=key)
    refused = client.post("/v1/jobs", json={**RANDOM, "ipc": 3}, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_conflict")
    assert service.rows("job") == 1


def test_jobs_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    ids = [submit(client, seed=seed)["id"] for seed in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2, "method": "random"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/jobs", params=params).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


def test_a_filter_leaves_out_the_rest(client: TestClient) -> None:
    submit(client)
    assert client.get("/v1/jobs", params={"method": "rome"}).json()["items"] == []
    assert len(client.get("/v1/jobs", params={"status": "queued"}).json()["items"]) == 1


@pytest.mark.parametrize(
    ("params", "code", "field"),
    [
        ({"status": "sleeping"}, "validation_failed", "status"),
        ({"limit": "0"}, "validation_failed", "limit"),
        ({"limit": "many"}, "validation_failed", "limit"),
        ({"cursor": "x"}, "invalid_cursor", None),
    ],
)
def test_a_wrong_listing_names_the_parameter(
    client: TestClient, params: dict[str, str], code: str, field: str | None
) -> None:
    problem = client.get("/v1/jobs", params=params).json()
    assert problem["code"] == code
    if field:
        assert [wrong["field"] for wrong in problem["problems"]] == [field]


def test_a_cursor_belongs_to_its_filter(client: TestClient) -> None:
    submit(client, seed=1)
    submit(client, seed=2)
    cursor = client.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"]
    other = client.get("/v1/jobs", params={"limit": 1, "kind": "distill", "cursor": cursor})
    assert (other.status_code, other.json()["code"]) == (400, "invalid_cursor")


def test_an_unchanged_job_is_not_sent_again(client: TestClient) -> None:
    path = f"/v1/jobs/{submit(client)['id']}"
    etag = client.get(path).headers["etag"]
    unchanged = client.get(path, headers={"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    client.post(f"{path}/cancel")
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 200


def test_cancelling_a_queued_job_ends_it_and_twice_is_once(client: TestClient) -> None:
    path = f"/v1/jobs/{submit(client)['id']}/cancel"
    first, again = client.post(path), client.post(path)
    assert first.json()["status"] == "cancelled"
    assert again.json() == first.json()


def test_cancelling_a_running_job_asks_its_worker(client: TestClient, service: Service) -> None:
    job = submit(client)
    service.claim()
    asked = client.post(f"/v1/jobs/{job['id']}/cancel").json()
    assert asked["status"] == "running"
    assert asked["cancel_requested_at"] is not None


def test_a_finished_job_cannot_be_cancelled(client: TestClient, service: Service) -> None:
    job = submit(client)
    service.publish(service.claim(), {})
    refused = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")


def test_what_a_run_leaves_can_be_read(client: TestClient, service: Service) -> None:
    path = f"/v1/jobs/{submit(client)['id']}"
    lease = service.claim()
    service.report(lease, 3)
    job = client.get(path).json()
    assert (job["status"], job["progress"]["step"]) == ("running", 3)
    (attempt,) = client.get(f"{path}/attempts").json()["items"]
    assert (attempt["number"], attempt["ended_at"]) == (lease.epoch, None)
    (point,) = client.get(f"{path}/metrics").json()["items"]
    assert (point["name"], point["step"], point["value"]) == ("distilling/loss", 3, 0.25)
    assert client.get(f"{path}/metrics", params={"name": "other"}).json()["items"] == []
    assert client.get(f"{path}/artifacts").json()["items"] == []
    service.publish(lease, {"synthetic.pt": b"tensors"})
    done = client.get(path).json()
    assert (done["status"], done["result"]) == ("succeeded", {"images": 20})
    (artifact,) = client.get(f"{path}/artifacts").json()["items"]
    assert (artifact["name"], artifact["size"]) == ("synthetic.pt", 7)
    assert client.get(f"/v1/artifacts/{artifact['id']}").json() == artifact


def test_metric_points_come_page_by_page(client: TestClient, service: Service) -> None:
    path = f"/v1/jobs/{submit(client)['id']}/metrics"
    lease = service.claim()
    for step in range(1, 6):
        service.report(lease, step)
    seen: list[int] = []
    cursor = None
    for size in (2, 2, 1):
        page = client.get(path, params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) == size
        seen += [point["step"] for point in page["items"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == ([1, 2, 3, 4, 5], None)
    wrong = client.get(path, params={"limit": 10**6})
    assert [problem["field"] for problem in wrong.json()["problems"]] == ["limit"]
    assert client.get(path, params={"cursor": "x"}).json()["code"] == "invalid_cursor"


def test_events_are_numbered_and_continue_after_a_number(
    client: TestClient, service: Service
) -> None:
    path = f"/v1/jobs/{submit(client)['id']}/events"
    service.publish(service.claim(), {})
    page = client.get(path).json()
    assert [event["seq"] for event in page["items"]] == [1, 2, 3, 4]
    assert [event["type"] for event in page["items"]] == [
        "job.queued",
        "job.started",
        "job.publishing",
        "job.succeeded",
    ]
    rest = client.get(path, params={"after": 2}).json()
    assert [event["seq"] for event in rest["items"]] == [3, 4]
    assert client.get(path, params={"after": 4}).json() == {"items": [], "last_seq": 4}


@pytest.mark.parametrize("below", ["", "/events", "/stream", "/attempts", "/metrics", "/artifacts"])
def test_an_unknown_job_is_not_found(client: TestClient, below: str) -> None:
    response = client.get(f"/v1/jobs/job_unknown{below}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_waiting_ends_with_the_job(client: TestClient, service: Service) -> None:
    job = submit(client)
    lease = service.claim()
    answers = []

    def wait() -> None:
        headers = {"Prefer": "wait=30"}
        answers.append(client.get(f"/v1/jobs/{job['id']}", headers=headers))

    waiting = threading.Thread(target=wait)
    waiting.start()
    service.publish(lease, {})
    waiting.join()
    assert answers[0].json()["status"] == "succeeded"
    assert answers[0].headers["preference-applied"] == "wait=30"


def test_waiting_with_a_version_ends_with_a_change(client: TestClient, service: Service) -> None:
    job = submit(client)
    headers = {"Prefer": "wait=30", "If-None-Match": 'W/"1"'}
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(client.get(f"/v1/jobs/{job['id']}", headers=headers))
    )
    waiting.start()
    service.claim()
    waiting.join()
    assert answers[0].json()["status"] == "running"


def test_waiting_has_a_limit(client: TestClient) -> None:
    job = submit(client)
    answer = client.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "respond-async, wait=1"})
    assert answer.json()["status"] == "queued"
