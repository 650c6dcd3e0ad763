import time
from datetime import UTC, datetime, timedelta, timezone

from sqlalchemy import Engine

from service import clock
from service.database import read


def test_the_databases_clock_is_microseconds_since_the_epoch(engine: Engine) -> None:
    with read(engine) as conn:
        before = time.time_ns() // 1000 - 1000  # SQLite's clock has milliseconds
        now = clock.now(conn)
        assert before <= now <= time.time_ns() // 1000 + 1000
        assert now % 1000 == 0


def test_time_goes_on_inside_a_transaction(engine: Engine) -> None:
    with read(engine) as conn:
        first = clock.now(conn)
        deadline = time.monotonic() + 10
        while clock.now(conn) == first:
            assert time.monotonic() < deadline


def test_moments_go_there_and_back_exactly() -> None:
    moment = datetime(2026, 11, 23, 14, 17, 52, 123456, tzinfo=timezone(timedelta(hours=2)))
    assert clock.rfc3339(clock.micros(moment)) == "2026-11-23T12:17:52.123456Z"
    assert clock.micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert clock.micros(datetime.max.replace(tzinfo=timezone(timedelta(hours=-23)))) > 0
    assert clock.micros(datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))) < 0
    assert clock.rfc3339(2**63 - 1) == "9999-12-31T23:59:59.999999Z"
    assert clock.rfc3339(-(2**63)) == "0001-01-01T00:00:00.000000Z"
    assert clock.rfc3339(1) == "1970-01-01T00:00:00.000001Z"
