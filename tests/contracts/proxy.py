"""A real RPC endpoint in front of the local chain that can be told to lag, lie, fail or go away."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests


class Proxy:
    """Pass requests on to a chain, with the faults that are set."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.asked: list[str] = []
        self.status: int | None = None  # answer every request with this HTTP status
        self.lag = 0  # blocks that it does not show
        self.boast = 0  # blocks that do not exist
        self.lie = False  # about block hashes
        self.code: str | None = None  # what it says that every contract is
        self.chain_id: int | None = None
        self.busy = False  # answer every request with an error of JSON-RPC
        self.url = ""

    def answer(self, body: bytes) -> bytes:
        asked = json.loads(body)
        if isinstance(asked, list):
            return json.dumps([self._one(one) for one in asked]).encode()
        return json.dumps(self._one(asked)).encode()

    def _one(self, asked: dict[str, Any]) -> dict[str, Any]:
        method = asked["method"]
        self.asked.append(method)
        if self.busy:
            error = {"code": -32005, "message": "limit exceeded"}
            return {"jsonrpc": "2.0", "id": asked["id"], "error": error}
        found: dict[str, Any] = requests.post(self.upstream, json=asked, timeout=5).json()
        if "result" not in found:
            return found
        if method == "eth_blockNumber":
            found["result"] = hex(max(int(found["result"], 16) - self.lag + self.boast, 0))
        if method == "eth_chainId" and self.chain_id is not None:
            found["result"] = hex(self.chain_id)
        if method == "eth_getCode" and self.code is not None:
            found["result"] = self.code
        if method == "eth_getBlockByNumber" and self.lie and found["result"]:
            found["result"]["hash"] = "0x" + "66" * 32
        return found


@contextmanager
def proxy_of(upstream: str) -> Iterator[Proxy]:
    """Serve one in a thread."""
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = proxy.status or 200
            data = b"no" if proxy.status else proxy.answer(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing on stderr."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}/v3/secret-key"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
