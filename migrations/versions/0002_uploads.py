"""Artifacts that no job made: uploads.

Down again, uploads are gone, and so is the note of which jobs read them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _job_id(nullable=True)


def downgrade() -> None:
    uploads = "SELECT id FROM artifact WHERE job_id IS NULL"
    op.execute(f"DELETE FROM job_input WHERE artifact_id IN ({uploads})")
    op.execute("DELETE FROM artifact WHERE job_id IS NULL")
    _job_id(nullable=False)


def _job_id(nullable: bool) -> None:
    with _inputs_aside(), op.batch_alter_table("artifact") as table:
        table.alter_column("job_id", existing_type=sa.String(), nullable=nullable)


@contextmanager
def _inputs_aside() -> Iterator[None]:
    """SQLite alters a table by making it anew, and drops none that rows refer to."""
    if op.get_bind().dialect.name != "sqlite":
        yield
        return
    op.execute("CREATE TEMPORARY TABLE kept AS SELECT job_id, artifact_id FROM job_input")
    op.execute("DELETE FROM job_input")
    yield
    op.execute("INSERT INTO job_input (job_id, artifact_id) SELECT job_id, artifact_id FROM kept")
    op.execute("DROP TABLE kept")
