"""Raw requests: what the official client never sends twice, out of order or damaged."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from tinsmith.cli.conformance.registry import CheckFailed, expect
from tinsmith.core.errors import ConfigError
from tinsmith.types import Datum, ForwardBackwardOutput, ModelInput, SampleResponse
from tinsmith.types.codec import (
    decode_forward_backward_output,
    decode_sample_response,
    encode_forward_backward_request,
)

__all__ = ["PROTOBUF", "Wire", "own_datum"]

PROTOBUF = "application/x-protobuf"
# Any: JSON as a foreign server sends it.
Answer = dict[str, Any]


class Wire:
    """One session of a server, request by request."""

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=f"{url}/api/v1/",
            headers={"X-API-Key": api_key},
            timeout=timeout_s,
            trust_env=False,
        )
        self._session_id: str | None = None
        self._numbers = itertools.count()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def check_reachable(self) -> None:
        """Ask for anything, once: the official client would try for minutes.

        Raises:
            ConfigError: nobody speaks HTTP at the address.
        """
        try:
            self._http.get("get_server_capabilities")
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"url={self._url!r}: no answer: {error}",
                field="url",
                hint="give the address of a server that runs, such as http://127.0.0.1:8000",
            ) from error

    @property
    def session_id(self) -> str:
        """The session, opened at its first use."""
        if self._session_id is None:
            self._session_id = self.new_session()
        return self._session_id

    def new_session(self) -> str:
        """One more session."""
        answer = self.accepted("create_session", tags=[], sdk_version="0.38.0")
        return str(answer["session_id"])

    def forget_session(self) -> None:
        """Open a new session at the next use: the server was restarted."""
        self._session_id = None

    def next_number(self) -> int:
        """A number that no model and no sampler of this session has had."""
        return next(self._numbers)

    def send(
        self, endpoint: str, content: bytes, media_type: str = "application/json"
    ) -> tuple[int, Any]:
        """Post bytes; the status and the answer, parsed if it is JSON."""
        response = self._http.post(endpoint, content=content, headers={"Content-Type": media_type})
        return response.status_code, _parsed(response)

    def get(self, endpoint: str) -> tuple[int, Any]:
        """Get; the status and the answer, parsed if it is JSON."""
        response = self._http.get(endpoint)
        return response.status_code, _parsed(response)

    def fetch(self, url: str) -> bytes:
        """What lies behind a link that the server gave out; no key is sent there."""
        response = httpx.get(url, timeout=self._timeout_s, trust_env=False, follow_redirects=True)
        expect(response.status_code == 200, f"a link answered {response.status_code}")
        return response.content

    def delete(self, endpoint: str) -> int:
        """Delete; the status."""
        return self._http.delete(endpoint).status_code

    def post(self, endpoint: str, /, **body: object) -> tuple[int, Any]:
        """Post JSON; the status and the answer."""
        response = self._http.post(endpoint, json=body)
        return response.status_code, _parsed(response)

    def accepted(self, endpoint: str, /, **body: object) -> Answer:
        """Post JSON that the server must accept."""
        status, answer = self.post(endpoint, **body)
        expect(status == 200, f"{endpoint}: answered {status}: {str(answer)[:200]}")
        expect(isinstance(answer, dict), f"{endpoint}: answered no JSON object")
        return answer

    def retrieve(self, request_id: str) -> Answer | bytes:
        """The result of a future, a failed one included."""
        deadline_s = time.monotonic() + self._timeout_s
        body = {"request_id": request_id, "allow_metadata_only": False}
        while time.monotonic() < deadline_s:
            response = self._http.post("retrieve_future", json=body)
            if response.headers.get("content-type", "").startswith(PROTOBUF):
                return response.content
            answer = _parsed(response)
            is_pending = isinstance(answer, dict) and answer.get("type") == "try_again"
            if response.status_code == 408 or is_pending:
                continue
            expect(
                response.status_code == 200,
                f"retrieve_future: answered {response.status_code}: {str(answer)[:200]}",
            )
            return answer
        raise CheckFailed(f"no result of request_id={request_id!r} in {self._timeout_s:g} s")

    def result(self, promise: Answer) -> Answer:
        """The JSON result of a promise."""
        result = self.retrieve(str(promise["request_id"]))
        expect(isinstance(result, dict), "a JSON result came as protobuf")
        assert isinstance(result, dict)
        expect("error" not in result, f"the request failed: {result.get('error')}")
        return result

    def output(self, promise: Answer) -> ForwardBackwardOutput:
        """The result of a forward_backward."""
        return decode_forward_backward_output(self._protobuf(promise))

    def samples(self, promise: Answer) -> SampleResponse:
        """The result of a sample."""
        return decode_sample_response(self._protobuf(promise))

    def _protobuf(self, promise: Answer) -> bytes:
        result = self.retrieve(str(promise["request_id"]))
        if isinstance(result, bytes):
            return result
        raise CheckFailed(f"expected a protobuf result, got {str(result)[:200]}")

    def load_model(self, path: str) -> str:
        """A model made from a training checkpoint; its id."""
        number = self.next_number()
        promise = self.accepted(
            "load_weights",
            session_id=self.session_id,
            model_seq_id=number,
            path=path,
            optimizer=False,
            type="load_weights",
        )
        self.result(promise)
        return f"{self.session_id}:train:{number}"

    def forward_backward(
        self,
        model_id: str,
        seq_id: int,
        data: Sequence[Any],
        loss_fn: str = "cross_entropy",
        *,
        forward_only: bool = False,
    ) -> tuple[int, Any]:
        """Submit a training request; the status and the answer."""
        body = encode_forward_backward_request(
            model_id,
            seq_id,
            [own_datum(each) for each in data],
            loss_fn,
            {},
            forward_only=forward_only,
        )
        return self.send("forward_backward", body, PROTOBUF)

    def optim_step(self, model_id: str, seq_id: int, **settings: float) -> tuple[int, Any]:
        """Submit an AdamW step; the status and the answer."""
        defaults = {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.0, "grad_clip_norm": 0.0}
        return self.post(
            "optim_step",
            model_id=model_id,
            seq_id=seq_id,
            adam_params={**defaults, **settings},
            type="optim_step",
        )

    def create_sampler(self, **target: str) -> str:
        """A sampling session; its id."""
        answer = self.accepted(
            "create_sampling_session",
            session_id=self.session_id,
            sampling_session_seq_id=self.next_number(),
            type="create_sampling_session",
            **target,
        )
        return str(answer["sampling_session_id"])

    def asample(
        self,
        sampler_id: str,
        seq_id: int,
        prompt: Sequence[int],
        params: Mapping[str, object],
        **options: object,
    ) -> tuple[int, Any]:
        """Submit a sample; the status and the answer."""
        body: dict[str, object] = {
            "num_samples": 1,
            "prompt": ModelInput.from_ints(prompt).model_dump(mode="json"),
            "sampling_params": {"temperature": 1.0, "top_k": -1, "top_p": 1.0, **params},
            "sampling_session_id": sampler_id,
            "seq_id": seq_id,
            "prompt_logprobs": False,
            "topk_prompt_logprobs": 0,
            "type": "sample",
        }
        return self.post("asample", **(body | options))


def own_datum(datum: Any) -> Datum:
    """An official datum in our own types, which our codec writes."""
    inputs = {name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()}
    return Datum(ModelInput.from_ints(datum.model_input.to_ints()), inputs)


def _parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text
