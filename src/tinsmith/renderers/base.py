"""What every renderer does once its format can be written: prompts, training examples, replies.

A format subclasses `Renderer`: it says what it can express, writes a conversation as text in marked
pieces (`scripts.py`), and names the reader of its replies. Tokens, loss weights, checks, parsing
and streaming are here, once for all formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from tinsmith.renderers.chats import Abilities, Chat, Feature, read_chat, read_message
from tinsmith.renderers.deltas import Delta
from tinsmith.renderers.encoding import SegmentEncoder, Stretch
from tinsmith.renderers.messages import (
    ROLES,
    Message,
    ParsedResponse,
    RendererError,
    SupervisedExample,
    TrainOnWhat,
    trained_messages,
)
from tinsmith.renderers.replies import ReplyReader, ReplyStream
from tinsmith.renderers.scripts import Part, Script, Segment
from tinsmith.renderers.tokenizers import Tokenizer
from tinsmith.types import EncodedTextChunk, ModelInput

Tools = Sequence[Any]  # Any: a ToolSpec, or a bare function; checked when read


class Renderer(ABC):
    """Turns conversations into tokens, and sampled tokens back into a message.

    The promises, for every format: tokens are those of the model's own chat template; what
    `build_supervised_example` puts before a trained last message is exactly
    `build_generation_prompt` of the messages before it; what it trains is what a sampler would have
    to produce; `parse_response` of that gives the message back.

    Args:
        tokenizer: A Hugging Face tokenizer.
        name: Registered name, for errors; a format's own name by default.
        special_text: What text of a message that spells a control token becomes: `text`, its
            letters, so that nobody can forge a turn; or `control`, the token, as
            `apply_chat_template` has it.
    """

    name: str
    """Registered name of the format."""
    roles: ClassVar[tuple[str, ...]] = ROLES
    """Roles that the format can express."""
    features: frozenset[Feature] = frozenset()
    """What it can express beyond text."""
    control_tokens: ClassVar[tuple[str, ...]] = ()
    """Control tokens that it writes; the tokenizer must have them."""
    stop_tokens: ClassVar[tuple[str, ...]] = ()
    """Those of them that end the assistant's turn."""
    has_extension_property: bool = True
    """Whether the tokens up to a turn begin the next turn's prompt, so that a cache may be kept."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        name: str | None = None,
        special_text: Literal["text", "control"] = "text",
    ) -> None:
        self.tokenizer = tokenizer
        if name is not None:
            self.name = name
        self._encoder = SegmentEncoder(
            tokenizer, self.control_tokens, special_text=special_text, name=self.name
        )
        self._stop_ids = [self._encoder.control_ids[token] for token in self.stop_tokens]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, {getattr(self.tokenizer, 'name_or_path', '')!r})"
        )

    # ------------------------------------------------------------------ what a format says

    @abstractmethod
    def write(self, chat: Chat, script: Script) -> None:
        """Write all turns of a conversation; `script.message` is set to each turn's place."""

    @abstractmethod
    def write_opening(self, chat: Chat, role: str, script: Script) -> None:
        """Write what opens the next message, spoken by `role`."""

    @abstractmethod
    def make_reader(self) -> ReplyReader:
        """A fresh reader of one reply's text."""

    def write_overlap(self, chat: Chat, script: Script) -> None:  # noqa: B027  # most have none
        """Write the part of the *next* turn that doubles as the stop sequence.

        It follows the last message of a training example and is trained with it. Most formats end
        a turn with a token of its own and have no overlap.
        """

    def check_target(self, chat: Chat) -> None:  # noqa: B027  # most refuse nothing here
        """Refuse a last message that the format would never have a model produce."""

    # ---------------------------------------------------------------------------- rendering

    def build_generation_prompt(
        self,
        messages: Sequence[Message],
        role: str = "assistant",
        prefill: str | None = None,
        *,
        tools: Tools = (),
    ) -> ModelInput:
        """Prompt for the next message.

        Args:
            messages: The conversation so far.
            role: Who speaks next.
            prefill: First words of the reply, forced; the model goes on from there.
            tools: Functions that may be called, in OpenAI's form.

        Raises:
            RendererError: The conversation holds what the format cannot express.
        """
        script = self._prompt_script(messages, role, prefill, tools)
        return self._model_input(self._encode(script.segments))

    def build_supervised_example(
        self,
        messages: Sequence[Message],
        train_on_what: TrainOnWhat | str = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
        *,
        tools: Tools = (),
    ) -> SupervisedExample:
        """Tokens of a whole conversation with one loss weight (0 or 1) a token, before the shift.

        Raises:
            RendererError: The conversation is empty, or holds what the format cannot express.
        """
        if not messages:
            raise RendererError("the conversation is empty", hint="give it at least one message")
        what = TrainOnWhat(train_on_what)
        chat = self.read(messages, tools=tools, trains=True)
        trained = trained_messages(messages, what)
        if trained[-1] and messages[-1]["role"] == "assistant":
            self.check_target(chat)
        stretches = self._encoder.encode(*self._weighted(chat, what, trained))
        weights = array("f")
        for stretch in stretches:
            weights += self._weights_of(stretch)
        return SupervisedExample(
            self._model_input(stretches), np.frombuffer(weights, dtype=np.float32)
        )

    def build_supervised_examples(
        self, messages: Sequence[Message], *, tools: Tools = ()
    ) -> list[SupervisedExample]:
        """Examples that train every assistant message on exactly what a sampler would see.

        One example for a format with the extension property. Otherwise the history that a later
        prompt shows differs from what was produced (thinking is taken out of it), so that every
        assistant message gets an example of its own, which ends with it.
        """
        if self.has_extension_property:
            what = TrainOnWhat.ALL_ASSISTANT_MESSAGES
            return [self.build_supervised_example(messages, what, tools=tools)]
        return [
            self.build_supervised_example(messages[: index + 1], tools=tools)
            for index, message in enumerate(messages)
            if message["role"] == "assistant" and message.get("weight", 1) != 0
        ]

    def render_text(
        self, messages: Sequence[Message], *, tools: Tools = (), add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text: what `apply_chat_template(tokenize=False)` writes."""
        if add_generation_prompt:
            return self._prompt_script(messages, "assistant", None, tools).text()
        return self._script(self.read(messages, tools=tools)).text()

    def template_tokens(
        self, messages: Sequence[Message], *, tools: Tools = (), add_generation_prompt: bool = False
    ) -> list[int]:
        """Tokens of the conversation as the template has them: `apply_chat_template`'s own.

        An image is the template's one placeholder token. A training example leaves out what the
        template writes after the last turn.
        """
        if add_generation_prompt:
            script = self._prompt_script(messages, "assistant", None, tools)
        else:
            script = self._script(self.read(messages, tools=tools))
        return self._encode_script(script)

    def max_num_tokens(self, messages: Sequence[Message], *, tools: Tools = ()) -> int:
        """A bound on the tokens of an example, without making them: far faster, never too low.

        A text has no more tokens than UTF-8 bytes; the factor for other than ASCII text leaves room
        for a normalizer that takes characters apart.

        Raises:
            RendererError: The conversation holds what the format cannot express.
        """
        chat = self.read(messages, tools=tools, trains=True)
        script = self._script(chat)
        self.write_overlap(chat, script)
        pictures = [s.picture for s in script.segments if s.picture is not None]
        text = "".join(s.text for s in script.segments if s.picture is None)
        num_bytes = len(text) if text.isascii() else 3 * len(text.encode())
        return num_bytes + sum(self.picture_chunk(p).length for p in pictures)

    def check_message(self, message: Message, index: int | None = None) -> None:
        """Refuse what the format cannot express, without making tokens.

        Raises:
            RendererError: Role, field or part that the format has no place for.
        """
        read_message(message, index, self.abilities)

    @cached_property
    def abilities(self) -> Abilities:
        """What the format can express."""
        return Abilities(self.name, self.roles, self.features)

    def read(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools = (),
        opens_reply: bool = False,
        trains: bool = False,
    ) -> Chat:
        """The conversation in the form that writers use, checked."""
        return read_chat(
            messages, self.abilities, tools=tools, opens_reply=opens_reply, trains=trains
        )

    def picture_chunk(self, picture: Any) -> Any:
        """The chunk that carries an image; formats without images have none."""
        raise RendererError(f"{self.name} has no images", field="content")

    def _script(self, chat: Chat) -> Script:
        script = Script()
        self.write(chat, script)
        return script

    def _prompt_script(
        self, messages: Sequence[Message], role: str, prefill: str | None, tools: Tools
    ) -> Script:
        read_message({"role": role, "content": ""}, None, self.abilities)
        chat = self.read(messages, tools=tools, opens_reply=True)
        script = self._script(chat)
        script.message = len(chat.turns)
        self.write_opening(chat, role, script)
        script.header(prefill or "")
        return script

    def _weighted(
        self, chat: Chat, what: TrainOnWhat, trained: Sequence[bool]
    ) -> tuple[list[Segment], list[float]]:
        """The segments of an example, and the loss weight of each."""
        script = self._script(chat)
        script.segments = script.without_tail()
        script.message = len(chat.turns) - 1
        self.write_overlap(chat, script)
        all_tokens = what is TrainOnWhat.ALL_TOKENS
        # The last one is for what belongs to no message (-1).
        outputs = [*map(float, trained), float(all_tokens)]
        headers = [*map(float, trained), 1.0] if all_tokens else [0.0] * (len(trained) + 1)
        by_part = {Part.BOS: [0.0] * len(outputs), Part.OUTPUT: outputs}
        return script.segments, [by_part.get(s.part, headers)[s.message] for s in script.segments]

    def _encode_script(self, script: Script) -> list[int]:
        segments = [
            s if s.picture is None else s._replace(is_control=True, picture=None)
            for s in script.segments
        ]
        return self._model_input(self._encode(segments)).to_ints()

    def _encode(self, segments: Sequence[Segment]) -> list[Stretch]:
        """What a prompt needs: no loss weights."""
        return self._encoder.encode(segments, [0.0] * len(segments))

    def _model_input(self, stretches: Sequence[Stretch]) -> ModelInput:
        chunks = [
            EncodedTextChunk.from_checked(stretch.tokens)
            if stretch.picture is None
            else self.picture_chunk(stretch.picture)
            for stretch in stretches
        ]
        return ModelInput.from_chunks(chunks)

    def _weights_of(self, stretch: Stretch) -> array[float]:
        if stretch.picture is None:
            return stretch.weights
        return array("f", [0.0]) * self.picture_chunk(stretch.picture).length

    # ------------------------------------------------------------------------------ replies

    def get_stop_sequences(self) -> list[int] | list[str]:
        """What ends an assistant's turn, for `SamplingParams.stop`."""
        return list(self._stop_ids)

    def open_reply(self) -> ReplyStream:
        """A reply to be read as its tokens arrive: `feed` them, then `finish`."""
        return ReplyStream(self.tokenizer, frozenset(self._stop_ids), self.make_reader())

    def parse_response(self, tokens: Sequence[int]) -> ParsedResponse:
        """Read sampled tokens, stop sequence included, as an assistant message.

        One end of turn at the end is a stop sequence. None, or tokens after it, is malformed: what
        came before is kept. The tokenizer's end of text in its place is `EOS`. A tool call that
        cannot be read stands in `unparsed_tool_calls`.

        Raises:
            RendererError: More than one end of turn: these tokens are not one reply.
        """
        reply = self.open_reply()
        reply.feed(tokens)
        return reply.finish()[1]

    def stream_parse(self, tokens: Iterable[int]) -> Iterator[Delta | ParsedResponse]:
        """Read a reply as it arrives: deltas, then the same `ParsedResponse` as `parse_response`.

        Raises:
            RendererError: More than one end of turn: these tokens are not one reply.
        """
        reply = self.open_reply()
        for token in tokens:
            yield from reply.feed([token])
        last, parsed = reply.finish()
        yield from last
        yield parsed


RendererFactory = Callable[..., Renderer]
