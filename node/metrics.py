"""The metrics of one contributor, from its status; its own word, all of it."""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from protocol.errors import ConfigError
from protocol.metrics import Reading, reading, registry

HOST: Final = "127.0.0.1"

# (metric, meaning, field of `node.figures.Figures.to_json`)
FIGURES: Final = (
    ("murmur_node_tokens_per_second", "Tokens trained on a second, while training", "tokens_per_s"),
    ("murmur_node_round_tokens_per_second", "Tokens a second from unit to unit", "round_tokens_per_s"),
    (
        "murmur_node_model_flops_utilization_ratio",
        "Model FLOPs a second while training over the device's peak",
        "mfu",
    ),
    ("murmur_node_peak_flops_per_second", "Peak of the device, as configured or measured here", "peak_flops"),
    (
        "murmur_node_communication_ratio",
        "Share of the time that jobs waited for blobs",
        "communication_share",
    ),
    ("murmur_node_waiting_ratio", "Share of the time with nothing to do", "waiting_share"),
    ("murmur_node_training_seconds", "Wall time of the last unit's inner steps", "train_s"),
    (
        "murmur_node_transfer_seconds",
        "Wall time that jobs waited for blobs since the unit before",
        "transfer_s",
    ),
    ("murmur_node_waiting_seconds", "Wall time with nothing to do since the unit before", "wait_s"),
    ("murmur_node_aggregation_seconds", "Wall time of aggregation since the unit before", "aggregate_s"),
    ("murmur_node_gradient_norm", "Mean norm of the last unit's gradients before clipping", "gradient_norm"),
    (
        "murmur_node_pseudo_gradient_norm",
        "Norm of the last unit's change of parameters",
        "pseudo_gradient_norm",
    ),
    ("murmur_node_update_norm", "Norm of the last unit's published update", "update_norm"),
)


def node_readings(status: Mapping[str, Any]) -> Iterator[Reading]:
    """Yield the metrics of a status as `Node.status` gives it; none of an empty one."""
    if not status:
        return
    names = ("run", "number", "profile")
    yield Reading(
        "murmur_node_info",
        "The run and who we are in it",
        [(tuple(str(status[name]) for name in names), 1)],
        names,
    )
    yield reading("murmur_node_round", "Round in progress", status["round"])
    yield reading("murmur_node_chain_height_blocks", "Newest block that was seen", status["chain"]["height"])
    yield reading(
        "murmur_node_training_loss_nats", "Mean loss of the last unit, nats a token", status["loss"]
    )
    units = [((state,), count) for state, count in status["units"].items()]
    yield Reading("murmur_node_units", "Units by how far they came", units, ("state",))
    network = status["network"]
    moved = [((way,), network[f"bytes_{way}"]) for way in ("up", "down")]
    yield Reading(
        "murmur_node_network_bytes",
        "Bytes of blobs and gossip since the start",
        moved,
        ("direction",),
        counter=True,
    )
    yield reading("murmur_node_connected_peers", "Peers that we are connected to", len(network["peers"]))
    figures = status["figures"]
    if figures is not None:
        for name, meaning, key in FIGURES:
            yield reading(name, f"{meaning}.", figures[key])


class MetricsServer:
    """Answer Prometheus on a loopback port, in a thread of its own, from the newest status."""

    def __init__(self, port: int) -> None:
        """Listen.

        Args:
            port: 0 takes any free one.

        Raises:
            ConfigError: the port is taken.
        """
        self.status: Mapping[str, Any] = {}  # replaced as a whole, never changed
        try:
            self._server: WSGIServer = start_http_server(
                port, HOST, registry(lambda: node_readings(self.status))
            )[0]
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used: {error.strerror}", hint="choose another --metrics-port"
            ) from error

    @property
    def url(self) -> str:
        """Return where the metrics are."""
        return f"http://{HOST}:{self._server.server_port}/metrics"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
