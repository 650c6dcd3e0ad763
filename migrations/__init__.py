"""The schema's history: one line of Alembic revisions, each of which goes up and down.

Run through `service.database.upgrade`. A new revision is drafted by `python -m migrations TITLE`.
"""
