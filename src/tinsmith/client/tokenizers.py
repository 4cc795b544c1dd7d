"""The tokenizer that belongs to a model. Main name: `load_tokenizer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tinsmith.core.errors import UserError


def load_tokenizer(tokenizer_id: str) -> Any:  # Any: a transformers tokenizer, not imported here
    """Load a tokenizer by the name a service gives it.

    Local directories are taken as they are. Of other names the part before `:` counts, which is
    how services mark variants of one base model.

    Raises:
        MissingExtraError: `transformers` is not installed.
    """
    if not tokenizer_id:
        raise UserError("the service did not say which tokenizer the model uses")
    # Imported here: the SDK itself needs neither renderers nor transformers.
    from tinsmith.renderers.tokenizers import get_tokenizer

    is_local = Path(tokenizer_id).expanduser().exists()
    return get_tokenizer(tokenizer_id if is_local else tokenizer_id.partition(":")[0])
