"""The graph of states, by its properties and by random walks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import IllegalTransition
from service.jobs.states import LEASED, TERMINAL, TRANSITIONS, Cause, Status, check, may

statuses, causes = st.sampled_from(Status), st.sampled_from(Cause)


@given(statuses, statuses, causes)
def test_check_and_may_agree(before: Status, after: Status, cause: Cause) -> None:
    if may(before, after, cause):
        check(before, after, cause)
    else:
        with pytest.raises(IllegalTransition, match=str(before)):
            check(before, after, cause)


@given(statuses, causes)
def test_a_finished_job_does_not_move(after: Status, cause: Cause) -> None:
    assert not any(may(before, after, cause) for before in TERMINAL)


@given(statuses, causes)
def test_only_publishing_leads_to_success(before: Status, cause: Cause) -> None:
    wanted = before is Status.PUBLISHING and cause is Cause.WORKER
    assert may(before, Status.SUCCEEDED, cause) == wanted


@given(statuses, statuses)
def test_users_do_not_move_leased_jobs_behind_their_workers_back(
    before: Status, after: Status
) -> None:
    if before in LEASED:
        assert not may(before, after, Cause.USER)


@given(statuses)
def test_only_a_worker_takes_a_lease(before: Status) -> None:
    for cause in Cause:
        wanted = before is Status.QUEUED and cause is Cause.WORKER
        assert may(before, Status.RUNNING, cause) == wanted


def test_every_state_is_reached_and_every_other_one_is_left() -> None:
    reached, edge = {Status.QUEUED}, [Status.QUEUED]
    while edge:
        here = edge.pop()
        for before, after in TRANSITIONS:
            if before is here and after not in reached:
                reached.add(after)
                edge.append(after)
    assert reached == set(Status)
    assert {before for before, _ in TRANSITIONS} == set(Status) - TERMINAL


class Walk(RuleBasedStateMachine):
    """Anybody tries anything; what is allowed happens."""

    def __init__(self) -> None:
        super().__init__()
        self.path = [Status.QUEUED]

    @rule(after=statuses, cause=causes)
    def step(self, after: Status, cause: Cause) -> None:
        try:
            check(self.path[-1], after, cause)
        except IllegalTransition:
            return
        self.path.append(after)

    @invariant()
    def an_end_is_the_end(self) -> None:
        assert not TERMINAL & set(self.path[:-1])

    @invariant()
    def success_was_running_and_publishing_just_before(self) -> None:
        if self.path[-1] is Status.SUCCEEDED:
            assert self.path[-3:-1] == [Status.RUNNING, Status.PUBLISHING]


TestWalk = Walk.TestCase
