"""`rome worker`: a Celery worker with this service's application and settings."""

from __future__ import annotations

from importlib.util import find_spec

from service import database, settings
from service.errors import SettingsInvalid


def run() -> None:
    """Work until a signal. Raises SettingsInvalid or SchemaMismatch if it cannot begin."""
    chosen = settings.load()
    if chosen.broker_url is None:
        raise SettingsInvalid(
            "a Celery worker needs a broker, and ROME_BROKER_URL is not set",
            remedy="Set ROME_BROKER_URL, for example redis://127.0.0.1:6379/0; "
            "without a broker `rome serve` runs the jobs itself.",
        )
    if find_spec("celery") is None:
        raise SettingsInvalid(
            "Celery is not installed", remedy="pip install 'rome-service[celery,worker]'"
        )
    engine = database.create_engine(chosen)
    database.check_schema(engine)
    engine.dispose()

    from worker.celery_app import app

    app.worker_main(["worker", "--concurrency", str(chosen.slots), "--loglevel", "INFO"])
