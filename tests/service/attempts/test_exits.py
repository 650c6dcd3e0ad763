"""What becomes of a job whose attempt ended."""

from hypothesis import given
from hypothesis import strategies as st

from service.attempts.exits import Exit, Standing, decide
from service.attempts.leases import Outcome
from service.jobs.states import TERMINAL, Status

MAX_UNCHARGED = 2
standings = st.builds(
    Standing,
    attempts_charged=st.integers(0, 2),
    attempts_uncharged=st.integers(0, MAX_UNCHARGED),
    max_attempts=st.integers(3, 4),
    cancel_requested=st.booleans(),
    pause_requested=st.booleans(),
)
outcomes = st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED])
ERROR = {"code": "x", "detail": "y", "remedy": "z"}


def leave(standing: Standing, outcome: Outcome, charged: bool, retry: bool) -> Exit:
    return decide(
        standing,
        outcome,
        reason="why",
        charged=charged,
        retry=retry,
        error=None,
        max_uncharged=MAX_UNCHARGED,
    )


@given(standings, outcomes, st.booleans(), st.booleans())
def test_every_attempt_is_counted_once(
    standing: Standing, outcome: Outcome, charged: bool, retry: bool
) -> None:
    left = leave(standing, outcome, charged, retry)
    assert left.charged == standing.attempts_charged + charged
    assert left.uncharged == standing.attempts_uncharged + (not charged)


@given(standings, outcomes, st.booleans(), st.booleans())
def test_a_promised_cancel_is_kept(
    standing: Standing, outcome: Outcome, charged: bool, retry: bool
) -> None:
    left = leave(standing, outcome, charged, retry)
    wanted = standing.cancel_requested or outcome is Outcome.CANCELLED
    assert (left.status is Status.CANCELLED) == wanted


@given(standings, outcomes, st.booleans(), st.booleans())
def test_a_job_goes_on_only_within_both_bounds(
    standing: Standing, outcome: Outcome, charged: bool, retry: bool
) -> None:
    left = leave(standing, outcome, charged, retry)
    if left.status not in TERMINAL:
        assert retry
        assert left.charged < standing.max_attempts
        assert left.uncharged <= MAX_UNCHARGED
        assert left.error is None


@given(standings, outcomes, st.booleans(), st.booleans())
def test_an_unhappy_end_has_an_error_with_a_code(
    standing: Standing, outcome: Outcome, charged: bool, retry: bool
) -> None:
    left = leave(standing, outcome, charged, retry)
    if left.status in {Status.FAILED, Status.EXPIRED}:
        assert left.error is not None
        assert left.error["code"]
        assert left.error["detail"]


def test_the_error_given_is_the_error_kept() -> None:
    standing = Standing(0, 0, 1, cancel_requested=False, pause_requested=False)
    left = decide(
        standing,
        Outcome.FAILED,
        reason="why",
        charged=True,
        retry=True,
        error=ERROR,
        max_uncharged=MAX_UNCHARGED,
    )
    assert (left.status, left.error) == (Status.FAILED, ERROR)
