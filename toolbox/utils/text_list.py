"""Texts as users of Python have them, as a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from toolbox.base import Dataset, Sample
from toolbox.errors import ToolboxError


class TextList(Dataset):
    """Texts in the order given.

    - `texts`: a list of strings, or one of them.

    Raises ToolboxError for other values, for an empty text and for an empty list.
    """

    unit = "texts"

    def __init__(self, texts: str | Sequence[str]) -> None:
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        if not self.texts:
            raise ToolboxError("There are no texts to encode: the list is empty.")
        for number, text in enumerate(self.texts):
            if not isinstance(text, str) or not text.strip():
                what = "is empty" if isinstance(text, str) else f"is a {type(text).__name__}, and no string"
                raise ToolboxError(
                    f"Text {number} of {len(self.texts)} {what}.", hint="Give strings, or a list of them."
                )

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        return {"text": self.texts[index], "id": index}
