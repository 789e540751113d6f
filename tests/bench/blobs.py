"""Compare blob transfer over the network with asyncio and TLS: two processes on loopback, one JSON line as the result.

    python -m tests.bench blobs [--megabytes 1 10 100] [--repeats 3]

Both sides write and read 1 MiB pieces; ours also hashes and writes to disk, which is what a fetch is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PIECE = 1 << 20
RUN = "bench"


def pattern(megabytes: int) -> bytes:
    """Return bytes that no layer can compress away by chance, cheap to make."""
    return b"".join(struct.pack("!Q", n) * (PIECE // 8) for n in range(megabytes))


async def _discard(sender: str, data: bytes) -> None:
    return None


def serve_network(folder: Path, sizes: list[int]) -> None:
    import trio

    from protocol.blobs import BlobStore
    from protocol.network import NetworkConfig, open_network

    async def main() -> None:
        store = BlobStore(folder / "holder")
        digests = [store.put(pattern(size)) for size in sizes]
        async with open_network(
            NetworkConfig(secret=b"\x01" * 32, run=RUN), store=store, inbox=_discard
        ) as net:
            print(json.dumps({"address": net.addresses[0], "digests": digests}), flush=True)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)

    trio.run(main)


def fetch_network(folder: Path, address: str, digests: list[str], repeats: int) -> list[list[float]]:
    import trio

    from protocol.blobs import BlobStore
    from protocol.network import NetworkConfig, open_network

    async def main() -> list[list[float]]:
        store = BlobStore(folder / "asker")
        config = NetworkConfig(secret=b"\x02" * 32, run=RUN, bootstrap=(address,))
        rates: list[list[float]] = []
        async with open_network(config, store=store, inbox=_discard) as net:
            await net.dial(address)
            for digest in digests:
                rates.append([])
                for _ in range(repeats):
                    start = time.perf_counter()
                    path = await net.fetch(digest, max_size=1 << 40, deadline_s=600)
                    rates[-1].append(path.stat().st_size / 1e6 / (time.perf_counter() - start))
                    store.delete(digest)
        return rates

    return trio.run(main)


def certificate(folder: Path) -> tuple[Path, Path]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "cert.pem").write_bytes(
        builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return folder / "cert.pem", folder / "key.pem"


def serve_tls(folder: Path, sizes: list[int]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder))
    blobs = [pattern(size) for size in sizes]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                blob = memoryview(blobs[(await reader.readexactly(1))[0]])
                for start in range(0, len(blob), PIECE):
                    writer.write(blob[start : start + PIECE])
                    await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())


def fetch_tls(port: int, sizes: list[int], repeats: int) -> list[list[float]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def main() -> list[list[float]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=PIECE)
        rates: list[list[float]] = []
        for index, size in enumerate(sizes):
            rates.append([])
            for _ in range(repeats):
                start = time.perf_counter()
                writer.write(bytes([index]))
                left = size * PIECE
                while left:
                    left -= len(await reader.read(PIECE))
                rates[-1].append(size * PIECE / 1e6 / (time.perf_counter() - start))
        writer.close()
        return rates

    return asyncio.run(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print {"megabytes", "megabytes_per_s": {"network", "tls"}, "ratio"} as JSON; medians of `--repeats`."""
    parser = argparse.ArgumentParser(prog="blobs", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", choices=["network", "tls"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        {"network": serve_network, "tls": serve_tls}[options.serve](options.folder, options.megabytes)
        return 0
    medians: dict[str, list[float]] = {}
    sizes = [str(size) for size in options.megabytes]
    with tempfile.TemporaryDirectory() as name:
        for kind in ("network", "tls"):
            command = [
                sys.executable,
                "-m",
                "tests.bench",
                "blobs",
                "--serve",
                kind,
                "--folder",
                name,
                "--megabytes",
                *sizes,
            ]
            with subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as server:
                assert server.stdout is not None
                told = json.loads(server.stdout.readline())
                if kind == "network":
                    rates = fetch_network(Path(name), told["address"], told["digests"], options.repeats)
                else:
                    rates = fetch_tls(told["port"], options.megabytes, options.repeats)
                medians[kind] = [round(statistics.median(rate), 1) for rate in rates]
                server.communicate()
    ratio = [round(ours / theirs, 3) for ours, theirs in zip(*medians.values(), strict=True)]
    print(json.dumps({"megabytes": options.megabytes, "megabytes_per_s": medians, "ratio": ratio}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
