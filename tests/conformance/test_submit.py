"""What a submission stores, what it refuses, and what a key makes of two of them."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service import jobs, pages
from service.database import read, write
from service.errors import (
    IdempotencyConflict,
    IllegalTransition,
    InvalidCursor,
    MalformedRequest,
    NotFound,
    ValidationFailed,
)
from service.jobs import Status
from service.principals import LOCAL
from tests.conformance import crowd
from tests.conformance.moves import BODY, DIGEST, World


def refused(world: World, **fields: Any) -> dict[str, str]:
    """The problems of a body, by field; nothing may have been written."""
    before = world.everything()
    with pytest.raises(ValidationFailed) as caught:
        world.submit(**fields)
    assert world.everything() == before
    assert all(problem.remedy for problem in caught.value.problems)
    return {problem.field: problem.message for problem in caught.value.problems}


def test_a_job_is_stored_canonical_and_queued(world: World) -> None:
    job_id = world.submit(name="first", labels={"team": "red"}, priority=3, run_seconds=60)
    found = world.job(job_id)
    assert (found.status, found.version, found.last_seq) == ("queued", 1, 1)
    assert (found.kind, found.method, found.dataset) == ("distill", "random", "digits")
    assert (found.name, found.labels, found.priority) == ("first", {"team": "red"}, 3)
    assert (found.created_by, found.resource_class, found.max_attempts) == ("local", "cpu", 3)
    assert found.spec["seed"] == 7
    assert found.spec["hyperparameters"], "defaults are filled in"
    assert not {"labels", "priority", "name", "run_seconds"} & set(found.spec)
    assert world.types(job_id) == ["job.queued"]


def test_what_only_concerns_the_service_is_not_hashed(world: World) -> None:
    plain, adorned = world.submit(), world.submit(labels={"a": "b"}, priority=9, name="x")
    assert world.job(plain).spec_hash == world.job(adorned).spec_hash
    assert world.job(world.submit(seed=8)).spec_hash != world.job(plain).spec_hash


def test_a_seed_is_drawn_and_recorded_when_absent(world: World) -> None:
    seeds = set()
    for _ in range(3):
        with write(world.engine) as conn:
            body = {name: value for name, value in BODY.items() if name != "seed"}
            made = jobs.submit(conn, LOCAL, body, settings=world.settings)
            seeds.add(made.job.spec["seed"])
    assert len(seeds) == 3


def test_every_problem_of_both_halves_is_told_at_once(world: World) -> None:
    problems = refused(world, ipc=0, priority="high", labels={"bad key": "x"}, colour="red")
    assert "ipc" in problems
    assert "priority" in problems
    assert any(field.startswith("labels") for field in problems)
    assert "colour" in problems


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"run_at": "yesterday"}, "run_at"),
        ({"run_at": "2026-01-01T00:00:00"}, "run_at"),  # no time zone
        ({"run_at": "9999-12-31T23:59:59+00:00", "max_wait_seconds": 2_592_000}, "run_at"),
        ({"run_at": "0001-01-01T00:00:00+23:00"}, "run_at"),
        ({"run_at": "1e300"}, "run_at"),
        ({"queue_deadline": "9999-12-31T23:59:59-23:00"}, "queue_deadline"),
        ({"name": "a\x00b"}, "name"),
        ({"labels": {"a": "b\x00"}}, "labels.a"),
        ({"queue_deadline": "2020-01-01T00:00:00Z"}, "queue_deadline"),
        ({"max_wait_seconds": 0}, "max_wait_seconds"),
        ({"run_seconds": 1.5}, "run_seconds"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"name": ""}, "name"),
        ({"labels": {"a": "x" * 300}}, "labels.a"),
        ({"priority": 101}, "priority"),
    ],
)
def test_a_wrong_service_field_is_named(world: World, fields: dict[str, Any], field: str) -> None:
    assert field in refused(world, **fields)


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE}-{SPAN}-01" * 1000, False),
        ("x\x00", False),
    ],
)
def test_only_a_traceparent_is_kept(world: World, sent: str, kept: bool) -> None:
    with write(world.engine) as conn:
        made = jobs.submit(conn, LOCAL, BODY, settings=world.settings, traceparent=sent)
    assert made.job.traceparent == (sent if kept else None)


def test_one_deadline_is_enough(world: World) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    (message,) = refused(world, queue_deadline=later, max_wait_seconds=5).values()
    assert "not both" in message


def submitted(world: World, body: dict[str, Any], principal: Any = LOCAL) -> jobs.Job:
    with write(world.engine) as conn:
        return jobs.submit(conn, principal, body, settings=world.settings).job


def test_an_evaluation_names_a_synthetic_set_of_its_own_project(world: World) -> None:
    source = world.submit()
    artifact = world.add_artifact(source)
    assert submitted(world, {"kind": "evaluate", "artifact": artifact}).kind == "evaluate"
    for principal, named in [
        (LOCAL, "art_unknown"),
        (world.project("stranger"), artifact),
        (LOCAL, world.add_artifact(source, kind="preview")),
        (LOCAL, world.add_artifact(source, kind="student-weights")),
    ]:
        before = world.everything()
        with pytest.raises(ValidationFailed) as caught:
            submitted(world, {"kind": "evaluate", "artifact": named}, principal)
        assert [problem.field for problem in caught.value.problems] == ["artifact"]
        assert world.everything() == before


def models(*names: str) -> list[dict[str, str]]:
    return [{"artifact": name, "name": f"m{place}"} for place, name in enumerate(names)]


MODELS_OF: dict[str, Callable[[list[dict[str, str]]], dict[str, Any]]] = {
    "models": lambda named: {"kind": "evaluate", "dataset": "digits", "models": named},
    "sources": lambda named: {"kind": "transfer", "dataset": "digits", "sources": named},
    "targets": lambda named: {
        "kind": "transfer",
        "dataset": "digits",
        "sources": [{"file": "mine"}],
        "targets": named,
    },
}


@pytest.mark.parametrize("field", MODELS_OF)
def test_models_are_weights_of_ones_own_project(world: World, field: str) -> None:
    source = world.submit()
    weights = world.add_artifact(source, kind="student-weights")
    uploaded = world.add_artifact(None, kind="teacher-weights")
    wrong = world.add_artifact(source)
    body = MODELS_OF[field](models(weights, wrong, uploaded, "art_unknown"))
    for principal, places in [(LOCAL, (1, 3)), (world.project("stranger"), (0, 1, 2, 3))]:
        before = world.everything()
        with pytest.raises(ValidationFailed) as caught:
            submitted(world, body, principal)
        expected = [f"{field}.{place}.artifact" for place in places]
        assert [problem.field for problem in caught.value.problems] == expected
        assert all(problem.remedy for problem in caught.value.problems)
        assert world.everything() == before
    assert submitted(world, MODELS_OF[field](models(weights, uploaded)))


def test_experts_are_trained_networks_of_ones_own_project(world: World) -> None:
    source = world.submit()
    trained = world.add_artifact(source, kind="experts", name="experts.safetensors")
    wrong = world.add_artifact(source)
    body = {"method": "mtt", "dataset": "digits", "ipc": 1}
    for named, principal in [
        (wrong, LOCAL),
        ("art_unknown", LOCAL),
        (trained, world.project("stranger")),
    ]:
        before = world.everything()
        with pytest.raises(ValidationFailed) as caught:
            submitted(world, {**body, "experts": named}, principal)
        assert [problem.field for problem in caught.value.problems] == ["experts"]
        assert world.everything() == before
    world.cancel(source)
    made = submitted(world, {**body, "experts": trained})
    claim = world.claim(made.id)
    assert claim is not None
    assert dict(claim.inputs) == {trained: DIGEST}


def test_every_artifact_a_job_reads_is_handed_to_its_worker(world: World) -> None:
    source = world.submit()
    world.cancel(source)
    one = world.add_artifact(source, kind="student-weights", name="one")
    other = world.add_artifact(source, kind="student-weights", name="other")
    transfer = {
        "kind": "transfer",
        "dataset": "digits",
        "sources": [{"artifact": one}, {"file": "mine"}],
        "targets": [{"artifact": other}, {"artifact": one}],
    }
    twice = MODELS_OF["models"](models(one, one))
    artifact = world.add_artifact(source)
    for body, read_ in [
        (transfer, {one, other}),
        (twice, {one}),
        ({"kind": "evaluate", "artifact": artifact}, {artifact}),
    ]:
        made = submitted(world, body)
        claim = world.claim(made.id)
        assert claim is not None
        assert set(claim.inputs) == read_
        assert set(claim.inputs.values()) == {DIGEST}
    assert world.claim(world.submit()).inputs == {}  # type: ignore[union-attr]  # it is queued


def test_a_job_is_listed_under_the_dataset_it_reads(world: World) -> None:
    source = world.submit()
    described = world.add_artifact(source, name="described", dataset="npz:mine", method="rome")
    foreign = world.add_artifact(source, name="foreign")
    weights = world.add_artifact(source, kind="student-weights")
    for body, dataset in [
        ({"kind": "evaluate", "artifact": described}, "npz:mine"),
        ({"kind": "evaluate", "artifact": described, "dataset": "digits"}, "digits"),
        ({"kind": "evaluate", "artifact": foreign}, None),
        (MODELS_OF["models"](models(weights)), "digits"),
        (MODELS_OF["sources"](models(weights)), "digits"),
    ]:
        made = submitted(world, body)
        assert (made.kind, made.method, made.dataset) == (body["kind"], None, dataset)


def test_the_same_key_and_body_give_the_same_job(world: World) -> None:
    job_id = world.submit(key="k")
    before = world.everything()
    assert world.submit(key="k") == job_id
    assert world.everything() == before
    with pytest.raises(IdempotencyConflict, match=job_id):
        world.submit(key="k", seed=8)
    assert world.everything() == before


def test_a_key_belongs_to_a_project(world: World) -> None:
    stranger = world.project("stranger")
    assert world.submit(key="k") != world.submit(stranger, key="k", seed=8)


def test_a_refused_body_does_not_use_its_key_up(world: World) -> None:
    refused(world, key="k", ipc=0)
    assert world.submit(key="k")


@pytest.mark.parametrize("key", ["", "x" * 256, "naïve", "a\nb"])
def test_a_key_that_is_none_is_refused(world: World, key: str) -> None:
    with pytest.raises(MalformedRequest):
        world.submit(key=key)


def test_of_equal_submissions_that_race_one_makes_the_job(
    world: World, together: Callable[..., list[str]]
) -> None:
    made = together(*[(crowd.submit, "k", 7)] * 4)
    assert len(set(made)) == 1
    assert [item.id for item in listed(world)] == made[:1]


def test_of_different_submissions_that_race_one_wins(
    world: World, together: Callable[..., list[str]]
) -> None:
    made = together(*[(crowd.submit, "k", seed) for seed in range(4)])
    assert sorted(made)[:3] == ["idempotency_conflict"] * 3
    assert [item.id for item in listed(world)] == [sorted(made)[3]]


def listed(world: World, **how: Any) -> list[jobs.Job]:
    with read(world.engine) as conn:
        return list(jobs.find(conn, LOCAL, **how).items)


def test_a_listing_goes_through_every_job_once_newest_first(world: World) -> None:
    made = [world.submit() for _ in range(7)]
    world.submit(world.project("stranger"))
    seen, cursor = [], None
    while True:
        with read(world.engine) as conn:
            page = jobs.find(conn, LOCAL, cursor=cursor, limit=3)
        seen += [item.id for item in page.items]
        assert len(page.items) <= 3
        if (cursor := page.next_cursor) is None:
            break
    assert sorted(seen) == sorted(made)
    stamps = [world.job(job_id).created_at for job_id in seen]
    assert stamps == sorted(stamps, reverse=True)


def test_a_listing_can_be_filtered(world: World) -> None:
    first, second = world.submit(), world.submit()
    world.cancel(first)
    assert [j.id for j in listed(world, filters={"status": "cancelled"})] == [first]
    assert [j.id for j in listed(world, filters={"status": "queued", "method": "random"})] == [
        second
    ]
    assert listed(world, filters={"dataset": "cifar10"}) == []


@pytest.mark.parametrize(
    "how", [{"filters": {"status": "done"}}, {"filters": {"colour": "red"}}, {"limit": 0}]
)
def test_a_wrong_listing_is_refused(world: World, how: dict[str, Any]) -> None:
    with pytest.raises(ValidationFailed):
        listed(world, **how)


def test_a_cursor_continues_only_the_listing_it_was_made_for(world: World) -> None:
    for _ in range(3):
        world.submit()
    with read(world.engine) as conn:
        cursor = jobs.find(conn, LOCAL, filters={"kind": "distill"}, limit=1).next_cursor
    assert cursor is not None
    assert len(listed(world, filters={"kind": "distill"}, cursor=cursor, limit=5)) == 2
    binding = pages._binding("jobs", {"kind": "distill"})
    forged = [
        base64.urlsafe_b64encode(json.dumps([binding, *position]).encode()).decode().rstrip("=")
        for position in ((2**63, "job_x"), (-1, "job_x"), (True, "job_x"), (1, "\ud800"), (1, 2))
    ]
    nested = base64.urlsafe_b64encode(b"[" * 30_000).decode()
    for wrong in (cursor[:-3], "x", "äöü", "bnVsbA", "W10", "", nested, *forged):
        with pytest.raises(InvalidCursor):
            listed(world, filters={"kind": "distill"}, cursor=wrong)
    with pytest.raises(InvalidCursor, match="another filter"):
        listed(world, filters={"method": "random"}, cursor=cursor)


def test_another_projects_job_is_not_found(world: World) -> None:
    job_id = world.submit()
    stranger = world.project("stranger")
    for act in (world.job, world.cancel):
        with pytest.raises(NotFound):
            act(job_id, stranger)
    assert world.job(job_id).status is Status.QUEUED


def test_cancelling_again_changes_nothing_and_a_finished_job_stays(world: World) -> None:
    job_id = world.submit()
    world.cancel(job_id)
    before = world.everything()
    assert world.cancel(job_id).status is Status.CANCELLED
    assert world.everything() == before
    for act in (world.resume, world.pause):
        with pytest.raises(IllegalTransition):
            act(job_id)
    assert world.everything() == before
