"""`python -m api` prints the OpenAPI document, which is committed as docs/openapi.json."""

import json
import sys

from api.application import create_app

json.dump(create_app().openapi(), sys.stdout, indent=2, ensure_ascii=False)
print()
