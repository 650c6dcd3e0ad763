"""The one clock of the service: the database's.

Workers and API may sit on machines whose clocks differ, so every time that is stored or compared
comes from here. Integer microseconds since the epoch, UTC. Owns the dialects' ways to ask.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DatabaseNow(FunctionElement[int]):
    """SQL expression: the present, read when the statement runs, not when its transaction began."""

    type = BigInteger()
    inherit_cache = True
    name = "database_now"


@compiles(DatabaseNow, "sqlite")
def _sqlite(element: DatabaseNow, compiler: Any, **kw: Any) -> str:
    # julianday() has milliseconds; a double near 2.46e6 days is exact to 40 us, so round to them.
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000"


@compiles(DatabaseNow, "postgresql")
def _postgresql(element: DatabaseNow, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


def now_expression() -> DatabaseNow:
    return DatabaseNow()


def now(conn: Connection) -> int:
    """Microseconds since the epoch by the database's clock."""
    return int(conn.execute(select(now_expression())).scalar_one())


def micros(moment: datetime) -> int:
    """An aware datetime as microseconds, exact."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def rfc3339(time: int) -> str:
    """`2026-11-23T14:17:52.123456Z`; what lies beyond the years 1 to 9999 is shown as their end."""
    shown = min(max(time, FIRST), LAST)
    moment = EPOCH + timedelta(microseconds=shown)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


FIRST = micros(datetime.min.replace(tzinfo=UTC))
LAST = micros(datetime.max.replace(tzinfo=UTC))
