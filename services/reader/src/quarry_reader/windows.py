"""Question and passage as overlapping token windows, with the exact characters each token stands for."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from quarry_contract.errors import ErrorCode, QuarryError
from tokenizers import Encoding, Tokenizer


@dataclass(frozen=True)
class Window:
    """One row for the model. `offsets[i]` are the passage's characters of token `first + i`, up to `first + len(offsets)`."""

    passage: int  # index in the request
    ids: list[int]
    types: list[int]
    first: int  # where the passage's tokens begin in the row
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class WindowMaker:
    """Cuts passages into windows: [CLS] question | heading [SEP] passage tokens [SEP], neighbours sharing `stride` tokens.

    The heading tells revisions and reports of one series apart. It stands with the question: no answer is taken from it.
    """

    tokenizer: Tokenizer
    max_tokens: int
    stride: int
    max_question_tokens: int
    max_heading_tokens: int = 0

    def windows(self, question: str, passages: Sequence[str], headings: Sequence[str] = ()) -> list[Window]:
        """All windows of all passages, in order. Passages without a single token give none.

        Raises:
            QuarryError: `invalid_request` when no token of the question is known to the model.
        """
        question = self._shortened(question, self.max_question_tokens)
        if not question:
            raise QuarryError(ErrorCode.INVALID_REQUEST, "question has no readable characters")
        asked = [self._asked(question, h) for h in headings] if self.max_heading_tokens else []
        asked = asked or [self._asked(question, "")] * len(passages)
        encoded = self.tokenizer.encode_batch(list(passages), add_special_tokens=False)
        return [w for i, (text, e) in enumerate(zip(passages, encoded, strict=True)) for w in self._cut(asked[i], i, text, e)]

    def _asked(self, question: str, heading: str) -> list[int]:
        heading = self._shortened(heading, self.max_heading_tokens) if heading else ""
        return self.tokenizer.encode(f"{question} | {heading}" if heading else question, add_special_tokens=False).ids

    def _shortened(self, text: str, tokens: int) -> str:
        """The characters of the first `tokens` tokens; empty when there are none."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets[:tokens]
        return text[: offsets[-1][1]] if offsets else ""

    def _cut(self, asked: list[int], passage: int, text: str, encoded: Encoding) -> list[Window]:
        ids, offsets = encoded.ids, exact_offsets(text, encoded.offsets)
        room = self.max_tokens - len(asked) - 3
        step = max(1, room - self.stride)
        made = []
        for begin in range(0, len(ids), step):
            part = ids[begin : begin + room]
            row = [self._cls, *asked, self._sep, *part, self._sep]
            types = [0] * (len(asked) + 2) + [1] * (len(part) + 1)
            made.append(Window(passage, row, types, len(asked) + 2, offsets[begin : begin + room]))
            if begin + room >= len(ids):
                break
        return made

    @property
    def _cls(self) -> int:
        return self._special("[CLS]", "<s>")

    @property
    def _sep(self) -> int:
        return self._special("[SEP]", "</s>")

    def _special(self, *names: str) -> int:
        for name in names:
            if (found := self.tokenizer.token_to_id(name)) is not None:
                return found
        raise ValueError(f"the tokenizer has none of {names}")


def exact_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Token offsets that never split what a reader sees as one character.

    Normalisers drop combining marks, so a token may end before the marks of its last letter: marks and joiners
    that follow a token belong to it, unless another token begins there.
    """
    starts = {a for a, b in offsets if b > a}
    return [(a, _past_marks(text, b, starts)) if b > a else (a, b) for a, b in offsets]


def _past_marks(text: str, end: int, starts: set[int]) -> int:
    while end < len(text) and end not in starts and is_mark(text[end]):
        end += 1
    return end


def is_mark(character: str) -> bool:
    """Combining marks, variation selectors and joiners."""
    return unicodedata.category(character) in ("Mn", "Me", "Mc") or character in "\u200d\ufe0f"
