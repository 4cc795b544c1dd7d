r"""A conversation as text in pieces that know where they come from.

A format writes a conversation into a `Script`. Every `Segment` says which message it belongs to and
which `Part` of it: what the prompt forces (`HEADER`), what the model has to produce (`OUTPUT`), or
what a template writes after a turn that no model produces (`TAIL`, ChatML's `\n`). The tokens of
the joined text are the format's tokens; the parts decide which of them are trained.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple


class Part(IntEnum):
    """What a piece of text is to its message."""

    BOS = 0
    """Starts every sequence; never trained."""
    HEADER = 1
    """Forced by the prompt; trained in `ALL_TOKENS` alone."""
    OUTPUT = 2
    """Produced by whoever speaks, with the token that ends the turn."""
    TAIL = 3
    """Like a header between turns; left out at the end of an example."""


class Segment(NamedTuple):
    """One piece.

    Attributes:
        text: Its text.
        part: What it is to its message.
        message: Place of the message; -1 for what belongs to none, such as a default system text.
        is_control: Whether it is one control token, by name. An empty one is a cut: text before
            and after it is tokenized apart.
        picture: An image; `text` is then the token that a template writes in its place.
    """

    text: str
    part: Part
    message: int
    is_control: bool = False
    picture: Any = None


class Script:
    """Collects segments; `message` is the place that new ones belong to."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.message = -1

    def header(self, *texts: str) -> None:
        """Write text that the prompt forces."""
        for text in texts:
            self.write(text, Part.HEADER)

    def output(self, *texts: str) -> None:
        """Write text that whoever speaks has to produce."""
        for text in texts:
            self.write(text, Part.OUTPUT)

    def write(self, text: str, part: Part) -> None:
        """Write text of either kind."""
        if text:
            self.segments.append(Segment(text, part, self.message))

    def tail(self, text: str) -> None:
        """Write what follows a turn and is nobody's."""
        self.segments.append(Segment(text, Part.TAIL, self.message))

    def control(self, token: str, part: Part = Part.HEADER) -> None:
        """Write a control token by name."""
        self.segments.append(Segment(token, part, self.message, True))

    def end(self, token: str) -> None:
        """Write the control token that ends a turn: whoever speaks has to produce it."""
        self.segments.append(Segment(token, Part.OUTPUT, self.message, True))

    def cut(self) -> None:
        """Tokenize what comes apart from what was written before."""
        self.segments.append(Segment("", Part.HEADER, self.message, True))

    def picture(self, image: Any, placeholder: str) -> None:
        """Put an image; a template writes `placeholder` in its place."""
        self.segments.append(Segment(placeholder, Part.OUTPUT, self.message, False, image))

    def text(self) -> str:
        """All of the text, as a template would write it."""
        return "".join(segment.text for segment in self.segments)

    def without_tail(self) -> list[Segment]:
        """The segments less what follows the last turn and is nobody's."""
        end = len(self.segments)
        while end and self.segments[end - 1].part is Part.TAIL:
            end -= 1
        return self.segments[:end]
