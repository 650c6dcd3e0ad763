"""Alembic's entry: runs revisions on the connection that the caller opened."""

from alembic import context

from service.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
    transactional_ddl=True,  # the caller's transaction holds all of it, on SQLite too
)
with context.begin_transaction():
    context.run_migrations()
