"""Chat messages to tokens and back, one module a format family.

`get_renderer` gives a `Renderer` by name; `TrainOnWhat` says which messages are trained;
`get_tokenizer` loads a tokenizer once a process; `get_model_info` tells what is known of a model.
"""

from tinsmith.renderers.base import Renderer
from tinsmith.renderers.chat_template import ChatTemplateRenderer
from tinsmith.renderers.chatml import ChatMLRenderer
from tinsmith.renderers.chats import Feature
from tinsmith.renderers.deltas import (
    Delta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    UnparsedToolCallDelta,
)
from tinsmith.renderers.llama3 import Llama3Renderer, Llama31Renderer
from tinsmith.renderers.messages import (
    ImagePart,
    Message,
    ParsedResponse,
    ParseTermination,
    RendererError,
    SupervisedExample,
    TextPart,
    ThinkingPart,
    ToolCall,
    ToolSpec,
    TrainOnWhat,
    UnparsedToolCall,
    content_text,
)
from tinsmith.renderers.model_info import (
    ModelInfo,
    get_model_info,
    list_models,
    recommended_learning_rate,
)
from tinsmith.renderers.qwen3 import Qwen3Renderer
from tinsmith.renderers.registry import (
    get_renderer,
    list_renderers,
    recommended_renderer,
    register_renderer,
    unregister_renderer,
)
from tinsmith.renderers.replies import ReplyStream
from tinsmith.renderers.role_colon import RoleColonRenderer
from tinsmith.renderers.tokenizers import Tokenizer, get_tokenizer, get_tokenizer_config

__all__ = [
    "ChatMLRenderer",
    "ChatTemplateRenderer",
    "Delta",
    "Feature",
    "ImagePart",
    "Llama3Renderer",
    "Llama31Renderer",
    "Message",
    "ModelInfo",
    "ParseTermination",
    "ParsedResponse",
    "Qwen3Renderer",
    "Renderer",
    "RendererError",
    "ReplyStream",
    "RoleColonRenderer",
    "SupervisedExample",
    "TextDelta",
    "TextPart",
    "ThinkingDelta",
    "ThinkingPart",
    "Tokenizer",
    "ToolCall",
    "ToolCallDelta",
    "ToolSpec",
    "TrainOnWhat",
    "UnparsedToolCall",
    "UnparsedToolCallDelta",
    "content_text",
    "get_model_info",
    "get_renderer",
    "get_tokenizer",
    "get_tokenizer_config",
    "list_models",
    "list_renderers",
    "recommended_learning_rate",
    "recommended_renderer",
    "register_renderer",
    "unregister_renderer",
]
