"""`python -m migrations TITLE`: draft the next revision from the difference to the tables.

For developers; it works on an empty SQLite file of its own. Read what it wrote before committing.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command

from service import database
from service.settings import Settings


def main(title: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = database.create_engine(Settings(state_dir=Path(folder)))
        if database.head() is not None:
            database.upgrade(engine)
        with database.write(engine) as conn:
            config = database.migrations()
            config.attributes["connection"] = conn
            command.revision(config, title, autogenerate=True)
        engine.dispose()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or sys.exit("usage: python -m migrations TITLE"))
