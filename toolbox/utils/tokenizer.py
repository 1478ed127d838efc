"""The tokenizer of a text encoder as a value: its JSON, read from a folder or built of bytes, with what it promises."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.utils.hf_logging import quiet_transformers
from toolbox.utils.messages import shorten_error

if TYPE_CHECKING:
    import tokenizers

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
)
"""The files of a folder in Hugging Face format that describe its tokenizer, as patterns."""


class Tokenizer:
    """A tokenizer of the `tokenizers` library, which pickles as its JSON, so as the same bytes before and after use.

    - `content`: that JSON; what it says of padding and truncation is dropped, since both depend on the use.
    - `pad`: the id that fills up shorter texts; it has no meaning beside a mask.
    """

    def __init__(self, content: str, pad: int = 0):
        fields = json.loads(content)
        fields["truncation"] = fields["padding"] = None
        self.content, self.pad = json.dumps(fields, ensure_ascii=False, separators=(",", ":")), pad

    def __reduce__(self) -> Any:
        return type(self), (self.content, self.pad)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and (self.content, self.pad) == (other.content, other.pad)

    def __hash__(self) -> int:
        return hash((self.content, self.pad))

    @cached_property
    def _opened(self) -> dict[int | None, tokenizers.Tokenizer]:
        return {}

    def encode(self, text: str, max_length: int | None = None) -> tuple[list[int], bool]:
        """Token ids, and whether the text was cut to `max_length`; what a template adds, such as an end, is kept.

        Raises ValueError for a text that gives no token.
        """
        if max_length not in self._opened:
            opened = self.open()
            if max_length is not None:
                opened.enable_truncation(max_length)
            self._opened[max_length] = opened
        encoding = self._opened[max_length].encode(text)
        if not encoding.ids:
            raise ValueError(f"the tokenizer makes no token of {text[:60]!r}")
        return encoding.ids, bool(encoding.overflowing)

    def open(self) -> tokenizers.Tokenizer:
        """A new tokenizer of the library. Raises ValueError for JSON that is none."""
        import tokenizers

        try:
            return tokenizers.Tokenizer.from_str(self.content)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"this is no tokenizer ({shorten_error(error)})") from error

    def get_id(self, token: str) -> int | None:
        """The id of a token, None for one that it does not have."""
        return self.open().token_to_id(token)

    @cached_property
    def digest(self) -> int:
        """A signed 64-bit number of its content: equal tokenizers have equal ones, in every process."""
        return int.from_bytes(hashlib.blake2b(self.content.encode(), digest_size=8).digest(), "little", signed=True)

    def check_vocabulary(self, rows: int, name: str) -> None:
        """Raise ValueError where it has words for which the embedding table of `name` has no row.

        Tokens that were added to it, such as tags, may lie beyond: a text that has them is refused when it is read.
        """
        largest = max(self.open().get_vocab(with_added_tokens=False).values(), default=0)
        if largest >= rows:
            raise ValueError(
                f"The tokenizer of {name!r} has ids up to {largest}, and the embedding table of the model {rows} rows: "
                f"it belongs to another model. Download both into one folder again."
            )

    def append_terminator(self, token: str, name: str) -> Tokenizer:
        """A tokenizer that ends each text with `token`: itself if it does so already.

        Raises ValueError where it has no such token, or ends texts with another one.
        """
        import tokenizers

        number = self.get_id(token)
        if number is None:
            raise ValueError(
                f"The tokenizer of {name!r} has no token {token!r}, which ends texts of this encoder: it belongs to "
                f"another model. Download tokenizer.json again."
            )
        if self.encode("a")[0][-1] == number:
            return self
        opened = self.open()
        bare, added = (opened.encode("a", add_special_tokens=added).ids for added in (False, True))
        if bare != added:
            raise ValueError(
                f"The tokenizer of {name!r} ends texts with {opened.id_to_token(added[-1])!r} and not with {token!r}: "
                f"it belongs to another model. Download tokenizer.json again."
            )
        template = tokenizers.processors.TemplateProcessing(
            single=f"$A {token}", pair=f"$A {token} $B:1 {token}:1", special_tokens=[(token, number)]
        )
        before = opened.post_processor
        steps = [template] if before is None else [before, template]
        opened.post_processor = tokenizers.processors.Sequence(steps)
        return Tokenizer(opened.to_str(), self.pad)


def read_tokenizer(folder: Path, pad: int | None = None) -> Tokenizer:
    """The tokenizer in a folder of Hugging Face format: its tokenizer.json, else what transformers makes of its files.

    - `pad`: the id of padding where the files name none.

    Raises OSError where there is none, ValueError for files that are none.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            content = file.read_text(encoding="utf-8")
            opened = Tokenizer(content).open()
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file} cannot be read ({shorten_error(error)}). Download it again.") from error
        token = _find_pad_token(folder)
    else:
        if not any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES):
            raise FileNotFoundError(
                f"{folder} has no tokenizer: it needs tokenizer.json and tokenizer_config.json beside the model. "
                f"Download them too: hf download ID --local-dir {folder}"
            )
        opened, token = _convert(folder)
        content = opened.to_str()
    number = None if token is None else opened.token_to_id(token)
    return Tokenizer(content, next((value for value in (number, pad) if value is not None), 0))


def _convert(folder: Path) -> tuple[tokenizers.Tokenizer, str | None]:
    """What transformers makes of older files, and its token of padding."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        return tokenizer.backend_tokenizer, tokenizer.pad_token
    except Exception as error:  # the types of transformers' own complaints differ by version
        raise ValueError(
            f"transformers cannot read the tokenizer in {folder} ({shorten_error(error)}): download its tokenizer.json."
        ) from error


def _find_pad_token(folder: Path) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if file.is_file():
            try:
                token = json.loads(file.read_text(encoding="utf-8")).get("pad_token")
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{file} is no valid JSON ({error}). Download it again.") from error
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str):
                return token
    return None


def build_byte_tokenizer(
    before: Sequence[str] = (), after: Sequence[str] = (), *, first: str = "", last: str, pad: str | None = None
) -> Tokenizer:
    """A tokenizer of bytes, for encoders that are trained from scratch: no file, and no text that it cannot read.

    - `before`, `after`: special tokens with the ids before and after those of the 256 bytes.
    - `first`, `last`: of these, what stands before and after each text, "" for nothing.
    - `pad`: of these, what fills up shorter texts; None is `last`.
    """
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    names = [*before, *letters, *after]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    special = [*before, *after]
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{first} $A {last}".strip(), special_tokens=[(name, vocabulary[name]) for name in special]
    )
    return Tokenizer(tokenizer.to_str(), vocabulary[pad or last])
