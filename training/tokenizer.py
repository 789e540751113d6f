"""Tokens of a pretrained model: its own vocabulary, and the format of conversations that it was trained on.

The `tokenizers` library (Hugging Face, Apache-2.0) does the work; it is an optional extra, `murmur-network[models]`.
What an environment says is somebody's text: tokens that steer a conversation come from the format alone, and the same
letters inside of a message are ordinary text.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as parsed

from protocol.canonical import canonical_json, tagged_digest
from protocol.errors import ConfigError, Malformed
from protocol.manifest import RunManifest
from protocol.rollouts import rollouts_of
from training.cache import CACHE_ENVIRONMENT, cache_directory
from training.environments.protocol import Message, Observation
from training.gguf import Gguf
from training.rollout import ByteTokenizer, Tokenizer

MAX_TOKENIZER_BYTES: Final = 1 << 26
MAX_FORMAT_BYTES: Final = 1 << 20
TOKENIZER, CHAT = "tokenizer.json", "chat.json"
_TEMPLATES: Final = ("tokenizer_config.json", "chat_template.jinja")
_CONTROL: Final = 3  # ggml's type of tokens that are no text
_REPLACEMENT: Final = "\ufffd"


@parsed(frozen=True, config=ConfigDict(extra="forbid"))
class ChatFormat:
    """Say how messages become one text: `{role}` and `{content}` stand for a message's.

    Tokens of the vocabulary that are marked special there keep their meaning in these texts, and nowhere else.
    """

    message: str = "<|im_start|>{role}\n{content}<|im_end|>\n"
    reply: str = "<|im_start|>assistant\n"  # before the policy speaks
    end: str = "<|im_end|>"  # the token that ends the policy's turn
    after: str = "\n"  # what follows that token when the conversation goes on
    opening: str = ""


CHATML: Final = ChatFormat()


class ChatTokenizer:
    """Turn messages into tokens and tokens into text (`training.rollout.Tokenizer`); a text alone is a user's message.

    Attributes:
        data: what tokenizer.json holds.
        chat: the format of conversations.
        end_token: the token that ends a turn, for `SamplingConfig.end_token`.
        vocab: one more than the highest token; a model's may be larger, by rows that no text leads to.
    """

    def __init__(self, data: bytes, chat: ChatFormat) -> None:
        """Make ready.

        Raises:
            ConfigError: the library is missing, or a turn's end is not one token of the vocabulary.
            Malformed: the data are no tokenizer.
        """
        self.data = data
        self.chat = chat
        try:
            self._library = tokenizers().Tokenizer.from_buffer(data)
        except ValueError as error:
            raise Malformed(f"{TOKENIZER} is not a tokenizer: {error!s:.200}") from error
        added = self._library.get_added_tokens_decoder().items()
        self._special: dict[str, int] = {token.content: number for number, token in added}
        # What a message holds is text, even if it spells a special token; `_pieces` looks up those of the format.
        self._library.encode_special_tokens = True
        self.vocab: int = max(self._library.get_vocab().values(), default=-1) + 1
        end = self._library.token_to_id(chat.end)
        if end is None:
            raise ConfigError(
                f"the vocabulary has no token {chat.end!r:.40}, which is to end turns",
                hint=f"name the model's own in {CHAT} beside {TOKENIZER}",
            )
        self.end_token: int = end

    @classmethod
    def open(cls, source: Path) -> Self:
        """Read a model's tokenizer: from a GGUF file, or tokenizer.json from a directory.

        The format is that of chat.json there, or ChatML if the model's own template is.

        Raises:
            ConfigError: the library is missing, there is no tokenizer, or one of a kind that is not read here.
            Malformed: a file that breaks its format.
        """
        if source.is_dir():
            return cls(_read(source / TOKENIZER, MAX_TOKENIZER_BYTES), _chat_of(source))
        file = Gguf.open(source)
        return cls(_from_gguf(file), _recognise(str(file.metadata.get("tokenizer.chat_template", ""))))

    @property
    def address(self) -> str:
        """Return the content address of vocabulary and format: peers of a run need the same."""
        return tagged_digest("murmur/tokenizer", self.data, self.chat_file())

    def chat_file(self) -> bytes:
        """Return what chat.json holds."""
        return canonical_json(asdict(self.chat))

    def write(self, directory: Path) -> None:
        """Write what `open` reads.

        Raises:
            OSError: the directory cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in ((TOKENIZER, self.data), (CHAT, self.chat_file())):
            part = directory / f".{name}.part"
            part.write_bytes(data)
            part.replace(directory / name)

    def encode(self, observation: Observation, *, opening: bool = True) -> Sequence[int]:
        """Return the tokens of what the environment says, up to where the policy speaks.

        Args:
            opening: nothing was said before; else a turn of the policy was, with its end token.

        Raises:
            ValueError: a text is not Unicode.
        """
        messages = (Message("user", observation),) if isinstance(observation, str) else observation
        pieces = [*self._pieces(self.chat.opening if opening else self.chat.after)]
        for one in messages:
            pieces += self._pieces(self.chat.message, role=one.role, content=one.content)
        pieces += self._pieces(self.chat.reply)
        found: list[int] = []
        for steers, run in groupby(pieces, lambda piece: isinstance(piece, int)):
            part: list[Any] = list(run)
            found += part if steers else self._encode("".join(part))
        return found

    def _encode(self, text: str) -> list[int]:
        text.encode()  # half of a surrogate pair is a ValueError here, and a TypeError there
        found: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of any tokens; those outside of the vocabulary become U+FFFD."""
        parts: list[str] = []
        for known, run in groupby(tokens, lambda token: self._library.id_to_token(token) is not None):
            part = list(run)
            parts.append(
                self._library.decode(part, skip_special_tokens=False) if known else _REPLACEMENT * len(part)
            )
        return "".join(parts)

    def _pieces(self, form: str, **values: str) -> Iterator[int | str]:
        """Yield the special tokens of a format, and the texts between them with what its places stand for."""
        cuts = [*sorted(self._special, key=len, reverse=True), *(f"{{{name}}}" for name in values)]
        for piece in re.split(f"({'|'.join(map(re.escape, cuts))})", form) if cuts else [form]:
            if piece:
                yield self._special.get(piece, values.get(piece[1:-1], piece))


@lru_cache(maxsize=4)
def tokenizer_of(manifest: RunManifest) -> Tokenizer:
    """Return a run's tokenizer: bytes, or the one that its manifest pins and this machine keeps.

    Raises:
        ConfigError: this machine lacks it, what it keeps is another, or it does not fit the run.
        ValueError: the run's units hold no rollouts.
    """
    rollouts = rollouts_of(manifest)
    if rollouts.tokenizer is None:
        return ByteTokenizer(manifest.model.vocab)
    folder = _kept(rollouts.tokenizer)
    if not folder.is_dir():
        raise ConfigError(
            f"the run's tokens are those of tokenizer {rollouts.tokenizer}, which is not here",
            hint="`murmur model import` of the model that the run starts from",
        )
    found = ChatTokenizer.open(folder)
    if found.address != rollouts.tokenizer:
        raise ConfigError(f"{folder} holds another tokenizer", hint="remove it and import the model again")
    if found.vocab > manifest.model.vocab or found.end_token != rollouts.sampling.end_token:
        raise ConfigError(
            f"the run has {manifest.model.vocab} tokens and ends turns with {rollouts.sampling.end_token}; "
            f"its tokenizer has {found.vocab} and ends them with {found.end_token}",
            hint="correct model.vocab or sampling.end_token in the manifest",
        )
    return found


def keep(tokenizer: ChatTokenizer) -> Path:
    """Write a tokenizer where `tokenizer_of` looks for it, and return the directory.

    Raises:
        ConfigError: it cannot be written.
    """
    folder = _kept(tokenizer.address)
    try:
        tokenizer.write(folder)
    except OSError as error:
        raise ConfigError(
            f"cannot write {folder}: {error.strerror}", hint=f"name another directory in {CACHE_ENVIRONMENT}"
        ) from error
    return folder


def _kept(address: str) -> Path:
    return cache_directory() / "tokenizers" / address


def tokenizers() -> Any:
    """Import the library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            "a pretrained model's tokenizer needs a package that is not installed",
            hint="pip install 'murmur-network[models]'",
        ) from error
    return tokenizers


def _from_gguf(file: Gguf) -> bytes:
    """Return the tokenizer.json of the byte-level BPE of a GGUF file's vocabulary."""
    known = file.metadata
    kind, split = known.get("tokenizer.ggml.model"), known.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in ("smollm", "gpt-2", "default"):
        raise ConfigError(
            f"a GGUF file with a tokenizer of kind {kind!r:.40}, {split!r:.40}",
            hint=f"take the model's directory with {TOKENIZER} instead",
        )
    tokens, types, merges = (_texts(known, name) for name in ("tokens", "token_type", "merges"))
    numbers = {text: number for number, text in enumerate(tokens) if isinstance(text, str)}
    pairs = [tuple(merge.split(" ")) for merge in merges if isinstance(merge, str)]
    whole = len(tokens) == len(numbers) == len(types) and len(pairs) == len(merges)
    if not whole or not all(len(pair) == 2 and {*pair, "".join(pair)} <= numbers.keys() for pair in pairs):
        raise Malformed("GGUF file with a vocabulary that is none")
    library = tokenizers()
    made = library.Tokenizer(library.models.BPE(numbers, pairs))
    bytes_ = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = library.pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = library.pre_tokenizers.Sequence([digits, bytes_]) if split == "smollm" else bytes_
    made.decoder = library.decoders.ByteLevel()
    special = [text for text, type_ in zip(tokens, types, strict=True) if type_ == _CONTROL]
    made.add_special_tokens([library.AddedToken(text, special=True, normalized=False) for text in special])
    text: str = made.to_str()
    return text.encode()


def _texts(known: dict[str, Any], name: str) -> list[Any]:
    found = known.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list):
        raise Malformed(f"GGUF file without a list tokenizer.ggml.{name}")
    return found


def _chat_of(directory: Path) -> ChatFormat:
    if (directory / CHAT).exists():
        try:
            return TypeAdapter(ChatFormat).validate_json(_read(directory / CHAT, MAX_FORMAT_BYTES))
        except ValidationError as error:
            raise Malformed(f"{CHAT}: {error.errors()[0]['msg']}") from error
    found = [directory / name for name in _TEMPLATES if (directory / name).exists()]
    return _recognise("".join(_read(path, MAX_FORMAT_BYTES).decode(errors="replace") for path in found))


def _recognise(template: str) -> ChatFormat:
    """Return the format behind a template; templates are programs, which are not run here."""
    if CHATML.end in template and "<|im_start|>" in template:
        return CHATML
    raise ConfigError(
        "the model has no chat template, or one that is not ChatML",
        hint=f"write its format into {CHAT} beside {TOKENIZER}: docs/models.md",
    )


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > most:
        raise Malformed(f"{path.name} is larger than {most} bytes")
    return data
