"""A drand network of one member with a key of its own, and the HTTP endpoint that a real one has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from py_arkworks_bls12381 import G2Point, Scalar

from protocol.beacon_config import DrandBeacon
from protocol.drand import DrandChain, round_point


@dataclass
class LocalDrand:
    """Sign rounds; `answers` overrides what the endpoint says of a round, as (status, body)."""

    secret: int = 0x5EED
    genesis_time: int = 1_600_000_000
    period: int = 1
    answers: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    @property
    def chain(self) -> DrandChain:
        public = (G2Point() * Scalar(self.secret)).to_compressed_bytes().hex()
        return DrandChain("da" * 32, public, self.genesis_time, self.period)

    def beacon(self, margin_s: int = 1) -> DrandBeacon:
        chain = self.chain
        return DrandBeacon(
            chain_hash=chain.chain_hash,
            public_key=chain.public_key,
            genesis_time=chain.genesis_time,
            period=chain.period,
            margin_s=margin_s,
        )

    def signature(self, round_: int) -> str:
        return (round_point(round_) * Scalar(self.secret)).to_compressed_bytes().hex()

    def answer(self, round_: int) -> tuple[int, bytes]:
        self.asked.append(round_)
        said = {"round": round_, "randomness": "not read", "signature": self.signature(round_)}
        return self.answers.get(round_, (200, json.dumps(said).encode()))

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Answer over HTTP until the block ends; gives the endpoint."""
        network = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                prefix = f"/{network.chain.chain_hash}/public/"
                status, body = 404, b"{}"
                if self.path.startswith(prefix):
                    status, body = network.answer(int(self.path.removeprefix(prefix)))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
