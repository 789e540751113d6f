"""What others rely on is pinned: commands, options, routes, messages, metrics. Change it on purpose or not at all.

`python -m tests.surface.test_surface` writes the files anew.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import typer.main
from sqlalchemy import create_engine, update
from sqlalchemy.orm import Session

from coordinator.api import create_app
from coordinator.metrics import run_readings
from coordinator.queries import Reader
from coordinator.tables import RoundRow, database_url, open_engine
from murmur.cli import program
from node.metrics import node_readings
from protocol.manifest import RunManifest
from protocol.messages import BODIES
from tests.coordinator.kept_run import keep_run
from tests.node.test_figures import STATUS

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


def metrics() -> dict[str, list[str]]:
    """Return every metric's name with its labels, of the coordinator's API and of a node."""
    with TemporaryDirectory() as directory:
        run = keep_run(Path(directory))
        engine = open_engine(database_url(run.directory), writer=True)
        with Session(engine) as session, session.begin():
            session.execute(update(RoundRow).values(began_at=1.0, ended_at=2.0))
        summary = Reader(engine).summary(0.0)
        engine.dispose()
    success = {"last": {"success": 0.5, "reward": 0.5}}
    readings = [*run_readings({**summary, "policy": success}), *node_readings(STATUS)]
    return {one.name + ("_total" if one.counter else ""): sorted(one.labels) for one in readings}


SURFACES = {"commands": commands, "routes": routes, "messages": messages, "metrics": metrics}


@pytest.mark.parametrize("name", SURFACES)
def test_the_surface_is_as_written_down(name: str) -> None:
    assert SURFACES[name]() == json.loads((HERE / f"{name}.json").read_text())


def main() -> None:
    """Write down what there is."""
    for name, surface in SURFACES.items():
        (HERE / f"{name}.json").write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
