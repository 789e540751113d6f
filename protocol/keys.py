"""Peer identity: one secp256k1 key is the libp2p host key and the signer of every message.

The wallet key that owns stake and pay is another key; the ledger links the two with an EIP-712 `PeerLink`.
"""

import os
import secrets
import stat
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import base58
from eth_keys.datatypes import PrivateKey, Signature
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from protocol.errors import ConfigError, Malformed

SIGNATURE_BYTES = 65
PEER_ID_PREFIX = bytes.fromhex("002508021221")  # identity multihash of a libp2p secp256k1 public key


@dataclass(frozen=True)
class PeerKey:
    """Hold a hot secp256k1 key. `repr` never shows the secret."""

    secret: bytes  # 32 bytes

    def __repr__(self) -> str:
        return f"PeerKey({self.address})"

    @cached_property
    def _private(self) -> PrivateKey:
        return PrivateKey(self.secret)

    @cached_property
    def address(self) -> str:
        """Return the checksummed EVM address of the public key."""
        return self._private.public_key.to_checksum_address()

    @property
    def public(self) -> bytes:
        """Return the uncompressed public key without its prefix: x || y, 64 bytes."""
        return self._private.public_key.to_bytes()

    @property
    def peer_id(self) -> str:
        """Return the libp2p peer id in base58 (libp2p peer-ids spec, identity multihash)."""
        return peer_id_of(self.public)

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; returns r || s || v with v in {27, 28} and low s, as `ecrecover` expects."""
        raw = self._private.sign_msg_hash(digest).to_bytes()
        return raw[:64] + bytes([raw[64] + 27])


@lru_cache(maxsize=4096)
def peer_id_of(public: bytes) -> str:
    """Return the libp2p peer id of an uncompressed public key x || y (64 bytes), in base58."""
    compressed = bytes([2 + (public[63] & 1)]) + public[:32]
    return base58.b58encode(PEER_ID_PREFIX + compressed).decode()


def recover_address(digest: bytes, signature: bytes) -> str:
    """Return the checksummed address that signed `digest`.

    Raises:
        Malformed: wrong length, v outside {27, 28}, high s (EIP-2), or not a point on the curve.
    """
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise Malformed("signature is not 65 bytes ending in 27 or 28")
    try:
        parsed = Signature(signature[:64] + bytes([signature[64] - 27]))
        if parsed.s > 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0:
            raise Malformed("signature with a high s")
        return parsed.recover_public_key_from_msg_hash(digest).to_checksum_address()
    except (BadSignature, ValidationError) as error:
        raise Malformed("signature does not recover") from error


def save_peer_key(path: Path, key: PeerKey) -> None:
    """Write the secret as hex, readable by the owner only, whole and to disk or not at all; refuses to overwrite.

    Raises:
        ConfigError: there is a key already, or the folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(key.secret.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(scratch, path)  # unlike a rename, never replaces a key
        finally:
            scratch.unlink()
        sync_directory(path.parent)
    except FileExistsError as error:
        raise ConfigError(f"{path} already holds a peer key") from error
    except OSError as error:
        raise ConfigError(f"cannot write the peer key {path}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Bring to disk which files a directory has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_peer_key(path: Path) -> PeerKey:
    """Read a peer key.

    Raises:
        ConfigError: missing, readable by others, or not 32 bytes of hex.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the peer key {path}", hint="`murmur stake deposit` makes one"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path} can be read by others", hint=f"chmod 600 {path}")
    try:
        secret = bytes.fromhex(text)
        if len(secret) != 32:
            raise ValueError
        PrivateKey(secret).public_key  # noqa: B018 - derivation fails for a scalar outside the group
    except (ValueError, ValidationError) as error:
        raise ConfigError(f"{path} does not hold a secp256k1 key") from error
    return PeerKey(secret)
