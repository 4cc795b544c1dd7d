"""A small real HTTP server that speaks the protocol, records what comes and misbehaves on request.

It computes nothing: every forward_backward answers with its datums' targets as logprobs, every
sample with its prompt reversed. `script(path, reply, ...)` puts replies before the usual ones,
`hold(kind)` keeps results of a kind back until `release(kind)`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tinsmith.types import ForwardBackwardOutput, SampledSequence, SampleResponse, TensorData
from tinsmith.types.codec import (
    decode_forward_backward_request,
    encode_forward_backward_output,
    encode_sample_response,
)

PROTOBUF = "application/x-protobuf"


@dataclass
class Recorded:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    time_s: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    status: int = 200
    body: Any = field(default_factory=dict)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    """Close the connection instead of answering."""
    delay_s: float = 0.0

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


DROP = Reply(drop=True)
TRY_AGAIN = Reply(408, {"type": "try_again", "request_id": "r", "queue_state": "active"})


class RecordingServer:
    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        self.config: dict[str, Any] = {}
        self.metrics: Callable[[Any], dict[str, float]] = lambda request: {"loss:sum": 1.0}
        self.sampled: Callable[[SampleResponse], SampleResponse] = lambda response: response
        self._scripts: dict[str, deque[Reply]] = defaultdict(deque)
        self._results: dict[str, tuple[str, Reply]] = {}
        self._held: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._num_promises = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self) -> None:
        for event in self._held.values():
            event.set()
        self._http.shutdown()
        self._http.server_close()

    def script(self, path: str, *replies: Reply) -> None:
        self._scripts[path].extend(replies)

    def hold(self, kind: str) -> None:
        self._held[kind] = threading.Event()

    def release(self, kind: str) -> None:
        self._held.pop(kind).set()

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def of(self, path: str) -> list[Recorded]:
        return [request for request in self.requests if request.path == path]

    def seq_ids(self) -> list[tuple[str, int]]:
        """(path, seq_id) of the training requests, in the order of arrival."""
        found: list[tuple[str, int]] = []
        for request in self.requests:
            if request.path == "forward_backward":
                found.append((request.path, decode_forward_backward_request(request.body).seq_id))
            elif request.path in ("optim_step", "save_weights", "save_weights_for_sampler"):
                found.append((request.path, request.json["seq_id"]))
        return found

    def wait_for(self, path: str, count: int = 1, timeout_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while len(self.of(path)) < count:
            assert time.monotonic() < deadline_s, f"{path} x {count} never came: {self.paths()}"
            time.sleep(0.005)

    def _answer(self, request: Recorded) -> Reply:
        with self._lock:
            self.requests.append(request)
            script = self._scripts[request.path]
            if script:
                return script.popleft()
        if request.path == "retrieve_future":
            return self._result_of(request.json["request_id"])
        return self._usual(request)

    def _result_of(self, request_id: str) -> Reply:
        kind, reply = self._results[request_id]
        held = self._held.get(kind)
        if held is not None and not held.wait(0.3):
            return TRY_AGAIN
        return reply

    def _promise(self, kind: str, result: Reply, **extra: Any) -> Reply:
        with self._lock:
            self._num_promises += 1
            request_id = f"r{self._num_promises}"
        self._results[request_id] = (kind, result)
        return Reply(body={"request_id": request_id, **extra})

    def _usual(self, request: Recorded) -> Reply:
        path = request.path
        if path == "client/config":
            return Reply(body=self.config)
        if path == "create_session":
            return Reply(body={"type": "create_session", "session_id": "S"})
        if path == "telemetry":
            return Reply(body={"status": "accepted"})
        if path == "healthz":
            return Reply(body={"status": "ok"})
        if path == "get_server_capabilities":
            return Reply(body={"supported_models": [{"model_name": "tinsmith/tiny"}]})
        if path == "get_info":
            return Reply(body=_info(request.json["model_id"]))
        if path == "forward_backward":
            return self._forward_backward(request)
        if path == "asample":
            return self._sample(request)
        if path == "create_sampling_session":
            return Reply(body={"type": path, "sampling_session_id": "S:sample:0"})
        if path.startswith("samplers/"):
            return Reply(body={"sampler_id": path[9:], "base_model": "tinsmith/tiny"})
        if path in ("session_heartbeat",) or path.startswith("sessions/"):
            return Reply(body={"type": path})
        return self._promise(path, Reply(body=_json_result(path, request.json)))

    def _forward_backward(self, request: Recorded) -> Reply:
        decoded = decode_forward_backward_request(request.body)
        outputs = [
            {"logprobs": TensorData.from_numpy(_targets(datum).astype(np.float32))}
            for datum in decoded.data
        ]
        output = ForwardBackwardOutput(
            loss_fn_output_type="ArrayRecord",
            loss_fn_outputs=outputs,
            metrics=self.metrics(decoded),
        )
        return self._promise(
            "forward_backward",
            Reply(body=encode_forward_backward_output(output), content_type=PROTOBUF),
        )

    def _sample(self, request: Recorded) -> Reply:
        body = request.json
        tokens = [token for chunk in body["prompt"]["chunks"] for token in chunk["tokens"]]
        ids = [f"q{i}" for i in range(body["num_samples"])]
        sequences = [
            SampledSequence(
                stop_reason="stop",
                sequence_id=sequence_id,
                tokens_np=np.array(tokens[::-1], np.int32),
                logprobs_np=np.zeros(len(tokens), np.float32),
            )
            for sequence_id in ids
        ]
        prompt_logprobs = np.full(len(tokens), -1.0, np.float32)
        prompt_logprobs[: max(1, len(tokens) - (body.get("prompt_logprobs_last_n") or 0))] = np.nan
        if not body.get("prompt_logprobs_last_n"):
            prompt_logprobs[1:] = -1.0
        response = self.sampled(
            SampleResponse(
                sequences=sequences,
                prompt_logprobs_np=prompt_logprobs if body.get("prompt_logprobs") else None,
            )
        )
        return self._promise(
            "asample",
            Reply(body=encode_sample_response(response), content_type=PROTOBUF),
            sample_sequence_ids=ids,
        )

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._respond()

            def do_POST(self) -> None:
                self._respond()

            def do_PUT(self) -> None:
                self._respond()

            def do_DELETE(self) -> None:
                self._respond()

            def _respond(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                path = self.path.partition("/api/v1/")[2]
                request = Recorded(self.command, path, headers, body, time.monotonic())
                reply = server._answer(request)
                if reply.delay_s:
                    time.sleep(reply.delay_s)
                if reply.drop:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.content)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.content)

            def log_message(self, *args: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except ConnectionError:
                    pass  # the client went away

        return Handler


def _targets(datum: Any) -> np.ndarray:
    return datum.loss_fn_inputs["target_tokens"].to_numpy()


def _info(model_id: str) -> dict[str, Any]:
    data = {"arch": "qwen3", "model_name": "tinsmith/tiny", "tokenizer_id": "tinsmith/tiny"}
    return {
        "type": "get_info",
        "model_id": model_id,
        "model_data": data,
        "is_lora": True,
        "lora_rank": 8,
        "model_name": "tinsmith/tiny",
    }


def _json_result(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if path == "create_model":
        return {"type": path, "model_id": f"{body['session_id']}:train:{body['model_seq_id']}"}
    if path == "optim_step":
        return {"metrics": {"grad_norm": 1.0}}
    if path == "save_weights":
        return {"type": path, "path": f"tinker://{body['model_id']}/weights/{body['path']}"}
    if path == "save_weights_external":
        return {
            "type": path,
            "path": f"tinker://{body['model_id']}/external_weights/{body['path']}",
        }
    if path == "save_weights_for_sampler":
        if "path" in body:
            return {"path": f"tinker://{body['model_id']}/sampler_weights/{body['path']}"}
        return {"sampling_session_id": f"S:sample:{body['sampling_session_seq_id']}"}
    if path == "create_custom_loss":
        return {"type": path, "loss_id": f"loss-{body['custom_loss_seq_id']}"}
    if path == "load_weights":
        return {"type": path, "path": body["path"]}
    raise AssertionError(f"unexpected request: {path}")


@contextmanager
def recording_server() -> Iterator[RecordingServer]:
    server = RecordingServer()
    try:
        yield server
    finally:
        server.close()
