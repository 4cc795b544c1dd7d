r"""ChatML: `<|im_start|>role\ncontent<|im_end|>`, one newline after every message.

Token for token what `apply_chat_template` gives for a model whose template is plain ChatML, such as
the bundled model. Role line and content are tokenized together, as the template has them, so a
content that starts with line breaks may share its first token with the newline of the role line;
that token counts as header.
"""

from __future__ import annotations

from typing import ClassVar

from tinsmith.renderers.base import Renderer
from tinsmith.renderers.chats import Chat
from tinsmith.renderers.replies import ReplyReader
from tinsmith.renderers.scripts import Script
from tinsmith.renderers.tagged_replies import ReplyFormat

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"


class ChatMLRenderer(Renderer):
    """The ChatML family without tools and thinking."""

    name = "chatml"
    control_tokens: ClassVar[tuple[str, ...]] = (IM_START, IM_END)
    stop_tokens: ClassVar[tuple[str, ...]] = (IM_END,)

    def write(self, chat: Chat, script: Script) -> None:
        for turn in chat.turns:
            script.message = turn.index
            open_turn(script, turn.role)
            script.output(turn.text)
            close_turn(script)

    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        open_turn(script, role)

    def make_reader(self) -> ReplyReader:
        return ReplyFormat(think=None).reader()


def open_turn(script: Script, role: str) -> None:
    """Write a role line."""
    script.control(IM_START)
    script.header(f"{role}\n")


def close_turn(script: Script) -> None:
    """Write the end of a turn, and the newline that no model produces."""
    script.end(IM_END)
    script.tail("\n")
