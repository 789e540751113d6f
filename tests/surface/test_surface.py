"""What others rely on is pinned: commands and options, routes, wire messages. Change it on purpose or not at all.

`python -m tests.surface.test_surface` writes the files anew.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sqlalchemy import create_engine

from coordinator.api import create_app
from murmur.cli import program
from protocol.manifest import RunManifest
from protocol.messages import BODIES

HERE = Path(__file__).parent


def commands() -> dict[str, list[str]]:
    """Return every command with its options and arguments."""
    found: dict[str, list[str]] = {}

    def walk(command: Any, path: str) -> None:
        names = [
            name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
        ]
        children = getattr(command, "commands", {})
        found[path] = sorted(names)
        for name, child in children.items():
            walk(child, f"{path} {name}")

    walk(typer.main.get_command(program()), "murmur")
    return dict(sorted(found.items()))


def routes() -> dict[str, list[str]]:
    """Return every route of the API with its parameters."""
    paths = create_app(create_engine("sqlite://"), lambda: 0.0).openapi()["paths"]
    return {
        f"{method.upper()} {path}": sorted(one["name"] for one in operation.get("parameters", []))
        for path, methods in sorted(paths.items())
        for method, operation in methods.items()
    }


def messages() -> dict[str, Any]:
    """Return the schema of the manifest and of every message body."""
    models = {"manifest": RunManifest, **BODIES}
    return {name: _bare(model.model_json_schema()) for name, model in sorted(models.items())}


def _bare(schema: Any) -> Any:
    """Leave out what is only prose."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key != "description"}
    return [_bare(one) for one in schema] if isinstance(schema, list) else schema


SURFACES = {"commands": commands, "routes": routes, "messages": messages}


@pytest.mark.parametrize("name", SURFACES)
def test_the_surface_is_as_written_down(name: str) -> None:
    assert SURFACES[name]() == json.loads((HERE / f"{name}.json").read_text())


def main() -> None:
    """Write down what there is."""
    for name, surface in SURFACES.items():
        (HERE / f"{name}.json").write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
