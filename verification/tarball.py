"""A public folder as one file: a tar archive whose every header can be spelled in one way only.

Reading copies what has a public folder's names into a directory of the caller's, in pieces, so that a hostile archive
costs no more disk than it has bytes and no memory to speak of. Nothing of a header is interpreted but name and length.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from protocol.errors import ConfigError, Malformed
from verification.container import BLOCK, header_of, parse_header

MARK = b"manifest.json\0"
"""How a packed folder begins."""

_NAME = re.compile(
    rb"(manifest\.json|settlement\.json|rounds/[0-9]{6,7}\.json|beacons/[0-9]{1,16}\.json"
    rb"|blobs/([0-9a-f]{2})/\2[0-9a-f]{62})\0+"
)
_FILES = ("manifest.json", "settlement.json", "rounds/*.json", "beacons/*.json", "blobs/[0-9a-f][0-9a-f]/*")
_PIECE = 1 << 20


def pack_folder(folder: Path, out: Path) -> None:
    """Write a public folder as one file, manifest first; the same folder gives the same bytes.

    Raises:
        ConfigError: the folder has no manifest, or the file cannot be written.
    """
    found = {str(path.relative_to(folder)): path for pattern in _FILES for path in folder.glob(pattern)}
    names = sorted(name for name in found if _NAME.fullmatch(name.encode() + b"\0") and found[name].is_file())
    if "manifest.json" not in names:
        raise ConfigError(f"no manifest.json in {folder}", hint="name a run's public folder")
    names = ["manifest.json", *(name for name in names if name != "manifest.json")]
    scratch = out.with_name(f".{out.name}.part")
    try:
        with scratch.open("wb") as target:
            for name in names:
                size = found[name].stat().st_size
                target.write(header_of(name, size))
                with found[name].open("rb") as source:
                    left = size
                    while left and (piece := source.read(min(_PIECE, left))):
                        target.write(piece)
                        left -= len(piece)
                if left:
                    raise ConfigError(f"{found[name]} shrank while it was packed", hint="pack it again")
                target.write(bytes(-size % BLOCK))
            target.write(bytes(2 * BLOCK))
        scratch.replace(out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error


@contextmanager
def unpacked_folder(path: Path) -> Iterator[Path]:
    """Unpack a file from anyone into a temporary folder, which is gone when the block ends.

    Raises:
        ConfigError: there is no such file, or no room for it.
        Malformed: it is not spelled as `pack_folder` spells it.
    """
    with TemporaryDirectory(prefix="murmur-archive-") as directory:
        target = Path(directory)
        try:
            with path.open("rb") as source:
                unpack(source, target)
        except OSError as error:
            raise ConfigError(f"cannot unpack {path}: {error.strerror}") from error
        yield target


def unpack(source: BinaryIO, target: Path) -> None:
    """Unpack an open file into an empty directory; see `unpacked_folder`."""
    last: str | None = None
    while (header := source.read(BLOCK)) != bytes(BLOCK):
        name, length = parse_header(header, _NAME, Malformed, "a packed public folder")
        in_order = name == "manifest.json" if last is None else last == "manifest.json" or name > last
        if not in_order or (last is not None and name == "manifest.json"):
            raise Malformed("packed folder with members out of order or twice")
        last = name
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as out:
            left = length
            while left:
                piece = source.read(min(_PIECE, left))
                if not piece:
                    raise Malformed("packed folder is truncated")
                out.write(piece)
                left -= len(piece)
        padding = -length % BLOCK
        if source.read(padding) != bytes(padding):
            raise Malformed("packed folder is truncated or padded with something")
    if last is None or source.read(BLOCK + 1) != bytes(BLOCK):
        raise Malformed("packed folder without a manifest, or with something after its end")
