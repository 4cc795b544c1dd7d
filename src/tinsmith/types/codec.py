"""The binary bodies of the protocol: types to bytes and back.

Requests: `encode_forward_backward_request`, `decode_forward_backward_request`,
`read_forward_backward_request` (the data left as `PackedData`), `with_seq_id`,
`datum_bytes` (the size by which clients divide data into requests). Results:
`..._forward_backward_output`, `..._sample_response`. Bad bytes in a request are the sender's
mistake (`UserError`, naming field and datum index), bad bytes in a result the service's
(`ServerError`); nothing else is raised.
"""

from tinsmith.types._request_codec import (
    PackedData,
    datum_bytes,
    decode_forward_backward_request,
    encode_forward_backward_request,
    read_forward_backward_request,
    with_seq_id,
)
from tinsmith.types._result_codec import (
    decode_forward_backward_output,
    decode_sample_response,
    encode_forward_backward_output,
    encode_sample_response,
)

__all__ = [
    "PackedData",
    "datum_bytes",
    "decode_forward_backward_output",
    "decode_forward_backward_request",
    "decode_sample_response",
    "encode_forward_backward_output",
    "encode_forward_backward_request",
    "encode_sample_response",
    "read_forward_backward_request",
    "with_seq_id",
]
