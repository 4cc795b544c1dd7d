"""Chat messages to tokens and back, one module a format family.

`get_renderer` gives a `Renderer` by name; `TrainOnWhat` says which messages are trained;
`get_tokenizer` loads a tokenizer once a process; `get_model_info` tells what is known of a model.
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
from tinsmith.renderers.model_info import (
    ModelInfo,
    get_model_info,
    list_models,
    recommended_learning_rate,
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
    "ModelInfo",
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
    "get_model_info",
    "get_renderer",
    "get_tokenizer",
    "list_models",
    "list_renderers",
    "recommended_learning_rate",
    "recommended_renderer",
    "register_renderer",
    "unregister_renderer",
]
