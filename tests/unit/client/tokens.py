"""Tokens (JWT) for tests, signed by nobody."""

import base64
import json
import time
from typing import Any


def make_token(*, lifetime_s: float, age_s: float = 0.0, **claims: Any) -> str:
    made_s = time.time() - age_s
    parts = ({"alg": "none"}, {"iat": made_s, "exp": made_s + lifetime_s, **claims})
    coded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(text.rstrip("=") for text in (*coded, "sig"))
