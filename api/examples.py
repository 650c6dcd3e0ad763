"""Examples and the body schema of a submission for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from api.schemas import ARTIFACT_ID
from rome_core import recipes
from rome_core.recipes.specs import KINDS
from service.jobs.specs import Directions

DISTILL: dict[str, Any] = {
    "preset": "rome-2025-cifar10-ipc10",
    "hyperparameters": {"iterations": 2000},
    "seed": 7,
    "labels": {"study": "first"},
}
EVALUATE: dict[str, Any] = {
    "kind": "evaluate",
    "artifact": ARTIFACT_ID,
    "students": {"count": 3, "network": "convnet", "epochs": 1000},
    "protocols": ["rome-2025", "pixel"],
    "attacks": ["fgsm", "pgd", "autoattack"],
    "limit": 1000,
}
MODELS: dict[str, Any] = {
    "kind": "evaluate",
    "dataset": "cifar10",
    "models": [{"artifact": ARTIFACT_ID, "name": "mine"}],
    "protocols": ["quick"],
    "overrides": {"pgd": {"epsilon": "4/255", "step": "1/255"}},
}
TRANSFER: dict[str, Any] = {
    "kind": "transfer",
    "dataset": "cifar10",
    "sources": [{"artifact": ARTIFACT_ID, "name": "mine"}],
    "targets": [
        {"artifact": ARTIFACT_ID, "name": "mine"},
        {"file": "deeper", "network": "convnet-d4", "name": "other"},
    ],
    "protocol": "pixel",
}
EXPERTS: dict[str, Any] = {"kind": "experts", "dataset": "cifar10", "count": 10, "epochs": 20}
RANDOM: dict[str, Any] = {"method": "random", "dataset": "digits", "ipc": 10}


def _body(kind: str) -> dict[str, Any]:
    """The recipe's schema with the service's own fields beside it, its definitions inlined."""
    schema = recipes.schema(kind)
    ours = Directions.model_json_schema()
    schema["properties"] = {**schema["properties"], **ours["properties"]}
    # The whole schema of every method is at /v1/methods; repeating it here would bury the rest.
    if "hyperparameters" in schema["properties"]:
        schema["properties"]["hyperparameters"].pop("anyOf", None)
    definitions = schema.pop("$defs", {})
    return {name: _inline(value, definitions) for name, value in schema.items()}


def _inline(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inline(inner, definitions) for inner in value]
    if not isinstance(value, dict):
        return value
    reference = value.get("$ref", "")
    if reference.startswith("#/$defs/"):
        beside = {name: inner for name, inner in value.items() if name != "$ref"}
        return {**_inline(definitions[reference.removeprefix("#/$defs/")], definitions), **beside}
    return {name: _inline(inner, definitions) for name, inner in value.items() if name != "$defs"}


SUBMIT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [_body(kind) for kind in KINDS]},
                "examples": {
                    "rome": {"summary": "ROME from a preset", "value": DISTILL},
                    "random": {"summary": "A random subset, the baseline", "value": RANDOM},
                    "evaluate": {"summary": "Robustness of a synthetic set", "value": EVALUATE},
                    "models": {"summary": "Robustness of networks there are", "value": MODELS},
                    "transfer": {"summary": "Attacks from one on another", "value": TRANSFER},
                    "experts": {"summary": "Networks trained for many jobs", "value": EXPERTS},
                },
            }
        },
    }
}
