"""A chain that is absent, slow, wrong or no chain at all is named as such, before anything relies on it."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from contracts.chain import block_hash, block_number, connect
from murmur.ports import free_port
from protocol.errors import LedgerError
from tests.contracts.conftest import LocalChain


def test_connects_and_reads_blocks(chain: LocalChain) -> None:
    w3 = connect(chain.url, 31337)
    chain.mine(1)
    height = block_number(w3)
    assert height >= 1
    first = block_hash(w3, 1)
    assert first is not None
    assert len(first) == 32
    assert block_hash(w3, height + 1000) is None


def test_absent_chain_is_said_to_be_absent() -> None:
    with pytest.raises(LedgerError, match="is not there") as refused:
        connect(f"http://127.0.0.1:{free_port()}")
    assert "murmur up" in refused.value.hint


def test_another_chain_is_refused(chain: LocalChain) -> None:
    with pytest.raises(LedgerError, match="is chain 31337, not 11155111"):
        connect(chain.url, 11155111)


def test_silent_endpoint_is_said_to_be_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, never answers
        port = listener.getsockname()[1]
        with pytest.raises(LedgerError, match="did not answer in time"):
            connect(f"http://127.0.0.1:{port}", timeout_s=0.2)


class _Page(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"<html>welcome</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""


@pytest.fixture
def web_page() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_web_page_is_not_taken_for_a_chain(web_page: str) -> None:
    with pytest.raises(LedgerError, match="did not answer as one"):
        connect(web_page)
