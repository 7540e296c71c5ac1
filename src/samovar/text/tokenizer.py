"""Text to token ids and back.

The merging of byte pairs is done by an `Encoder`; matching control tokens, so that some of them can be left as ordinary text,
and turning ids back into text is done here.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from samovar.errors import BadRequest, FormatError, UnsupportedModel
from samovar.formats.cache import CacheStore
from samovar.formats.mapped_file import unreadable
from samovar.text.bpe_table import cached_vocabulary
from samovar.text.control_tokens import ControlSplitter
from samovar.text.detokenizer import Detokenizer
from samovar.text.rendered_prompt import RenderedPrompt, Span
from samovar.text.vocabulary import Vocabulary

_MAX_PADDING: Final = 4096  # rows that models have beyond their vocabulary; the tokenizer does not know how many


class Tokenizer:
    """A model's tokenizer. Safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._splitter = ControlSplitter(vocabulary.control_tokens, vocabulary.normalize)
        self._control_by_id = {t.id: t for t in vocabulary.control_tokens}
        self.control_tokens: dict[str, int] = {t.text: t.id for t in vocabulary.control_tokens}
        self.special_tokens = vocabulary.special_tokens
        self.n_tokens = vocabulary.n_tokens
        self.bos_id = vocabulary.bos_id
        self.eos_ids = vocabulary.eos_ids

    @classmethod
    def from_tokenizer_json(
        cls, path: Path, tokenizer_config: Mapping[str, object], *, cache: CacheStore | None = None
    ) -> "Tokenizer":
        """Read a tokenizer.json with the settings of the tokenizer_config.json beside it ({} where there is none).

        With a `cache` the file is read once, and mapped as a table from then on. Raises FormatError for a damaged file,
        UnsupportedModel for kinds of tokenizer that are not implemented, ModelNotFound and StoreError for absent and
        unreadable ones.
        """

        def read() -> Vocabulary:
            # Imported where it is needed: it brings the package `tokenizers` along, which takes longer than a mapped table.
            from samovar.text.tokenizer_json import read_tokenizer_json

            return read_tokenizer_json(path, tokenizer_config)

        if cache is None:
            return cls(read())
        settings = json.dumps(tokenizer_config, sort_keys=True)
        return cls(cached_vocabulary(cache, str(path.absolute()), f"{file_identity(path)} {settings}", read))

    @classmethod
    def from_gguf(
        cls,
        metadata: Mapping[str, object],
        *,
        origin: str = "GGUF metadata",
        identity: str = "",
        cache: CacheStore | None = None,
    ) -> "Tokenizer":
        """Build the tokenizer that the metadata of a GGUF file describes; `origin` names the file in messages.

        With a `cache`, `identity` stands for the file's bytes, and the lists of tokens and merges are not looked at once the
        cache has the table. Raises as `from_tokenizer_json`.
        """

        def read() -> Vocabulary:
            # Imported where it is needed: a mapped table needs none of it.
            from samovar.text.gguf_vocabulary import read_gguf_vocabulary

            return read_gguf_vocabulary(metadata)

        try:
            return cls(cached_vocabulary(cache if identity else None, origin, identity, read))
        except (FormatError, UnsupportedModel) as error:
            raise type(error)(f"{origin}: {error}") from None

    @property
    def eos_id(self) -> int | None:
        """The id that ends a text, where there is one: the first of `eos_ids`."""
        return self.eos_ids[0] if self.eos_ids else None

    @property
    def add_bos(self) -> bool:
        """Whether `encode` puts a beginning-of-text token first."""
        return bool(self._vocabulary.prefix_ids)

    @property
    def suffix_ids(self) -> tuple[int, ...]:
        """What `encode` puts after a text."""
        return self._vocabulary.suffix_ids

    def encode(self, text: str, *, parse_control: bool = True, add_bos: bool | None = None) -> list[int]:
        """The ids of a raw text.

        `parse_control` reads control tokens in it as such, else they are ordinary text. `add_bos` None adds before and after
        the text what the model's tokenizer adds; False adds nothing, True a beginning-of-text token. Raises BadRequest for
        what is no text, and for text that is no valid Unicode.
        """
        if not isinstance(text, str):
            raise BadRequest(f"a {type(text).__name__} was given to encode; expected text")
        v = self._vocabulary
        ids = self._encode(text) if parse_control else self._encode_plain(text)
        if add_bos is None:
            return [*v.prefix_ids, *ids, *v.suffix_ids]
        if add_bos and v.bos_id is None:
            raise BadRequest("this model's tokenizer has no beginning-of-text token", param="add_bos")
        return [v.bos_id, *ids] if add_bos and v.bos_id is not None else ids

    def encode_rendered(self, rendered: RenderedPrompt) -> list[int]:
        """The ids of a rendered conversation: control tokens count outside its plain spans only, and nothing is added."""
        return self._encode(rendered.text, rendered.plain_spans)

    def decode(self, ids: Iterable[int], *, skip_control: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD. `skip_control` leaves special tokens out, and keeps those
        that are part of an answer (think and tool tags)."""
        detokenizer = self.detokenizer(skip_control=skip_control)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])

    def detokenizer(self, *, skip_control: bool = False, is_continuation: bool = False) -> Detokenizer:
        """A detokenizer for a new text. With `is_continuation` the text goes on from another, and keeps its first space."""
        v = self._vocabulary
        hidden = frozenset(t.id for t in v.control_tokens if t.is_special) if skip_control else frozenset[int]()
        n_dropped = 0 if is_continuation else v.n_spaces_dropped
        return Detokenizer(self.token_bytes, n_spaces_dropped=n_dropped, hidden=hidden)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; none for ids that only pad the vocabulary. Raises BadRequest
        below 0 and far beyond the vocabulary."""
        if (control := self._control_by_id.get(token_id)) is not None:
            return control.text.encode()
        if token_id < 0:
            raise BadRequest(f"token id {token_id} is negative; expected 0 to {self.n_tokens - 1}")
        if token_id >= self.n_tokens + _MAX_PADDING:
            raise BadRequest(f"token id {token_id} is not in the vocabulary; expected 0 to {self.n_tokens - 1}")
        if token_id >= self.n_tokens or token_id in self._vocabulary.unused_ids:
            return b""
        return self._vocabulary.encoder.piece_bytes(token_id)

    def token_text(self, token_id: int) -> str:
        """A token's text by itself, U+FFFD for bytes that are no whole character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def is_control(self, token_id: int) -> bool:
        """Whether the id is a control token's."""
        return token_id in self._control_by_id

    def _encode(self, text: str, protected: Sequence[Span] = ()) -> list[int]:
        _refuse_surrogates(text)
        ids: list[int] = []
        for index, piece in enumerate(self._splitter.split(text, protected)):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._merge(piece, is_first=index == 0)
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        _refuse_surrogates(text)
        return self._merge(self._splitter.plain(text), is_first=True) if text else []

    def _merge(self, text: str, *, is_first: bool) -> list[int]:
        prefix = self._vocabulary.first_prefix
        if prefix and is_first and not text.startswith((" ", prefix)):
            text = prefix + text
        return self._vocabulary.encoder.encode(text)


def file_identity(path: Path) -> str:
    """Stands for a file's bytes: a digest of where it lies, its size and its time of change. Raises as opening it would."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    found = f"{path.resolve()} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return hashlib.sha256(found.encode()).hexdigest()


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start}"
        raise BadRequest(f"the text has half a surrogate pair, {found}, which is no valid Unicode: remove it") from None
