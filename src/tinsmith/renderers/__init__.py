"""Chat messages to tokens and back, one module a format family.

`get_renderer` gives a `Renderer` by name; `TrainOnWhat` says which messages are trained;
`get_tokenizer` loads a tokenizer once a process.
"""

from tinsmith.renderers.base import Renderer
from tinsmith.renderers.chatml import ChatMLRenderer
from tinsmith.renderers.messages import (
    Message,
    ParsedResponse,
    ParseTermination,
    RenderedMessage,
    RendererError,
    SupervisedExample,
    TextPart,
    TrainOnWhat,
)
from tinsmith.renderers.registry import (
    get_renderer,
    list_renderers,
    recommended_renderer,
    register_renderer,
    unregister_renderer,
)
from tinsmith.renderers.role_colon import RoleColonRenderer
from tinsmith.renderers.tokenizers import Tokenizer, get_tokenizer

__all__ = [
    "ChatMLRenderer",
    "Message",
    "ParseTermination",
    "ParsedResponse",
    "RenderedMessage",
    "Renderer",
    "RendererError",
    "RoleColonRenderer",
    "SupervisedExample",
    "TextPart",
    "Tokenizer",
    "TrainOnWhat",
    "get_renderer",
    "get_tokenizer",
    "list_renderers",
    "recommended_renderer",
    "register_renderer",
    "unregister_renderer",
]
