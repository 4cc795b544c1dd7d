"""A proxy that makes a server of ours wrong in one way, as other servers of the protocol are."""

from __future__ import annotations

import http.server
import json
import threading
from array import array
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import httpx

from tinsmith.types.proto import tinsmith_pb2

PROTOBUF = "application/x-protobuf"
HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "host", "content-encoding"}


class Fault:
    """What goes wrong; each hook changes its message in place."""

    def json_request(self, endpoint: str, body: dict[str, Any]) -> None:
        """A JSON request before the server sees it."""

    def training_request(self, message: Any) -> None:
        """A protobuf ForwardBackwardRequest before the server sees it."""

    def training_result(self, message: Any) -> None:
        """A protobuf ForwardBackwardOutput before the client sees it."""

    def sample_result(self, message: Any) -> None:
        """A protobuf SampleResponse before the client sees it."""

    def num_bytes(self, content: bytes) -> int:
        """How much of an answer arrives before the connection is cut; all of it unless said."""
        return len(content)

    def status(self, status: int) -> int:
        """The status of an answer."""
        return status


class MeansForSums(Fault):
    """Losses are divided by the number of tokens."""

    def training_result(self, message: Any) -> None:
        message.metrics["loss:sum"] /= message.metrics["tokens:sum"]


class MeansForSummedGradients(Fault):
    """Gradients are the mean over the datums of a request."""

    def training_request(self, message: Any) -> None:
        for datum in message.data:
            weights = datum.loss_fn_inputs["weights"]
            values = memoryview(weights.dense).cast("f")
            weights.dense = array("f", [value / len(message.data) for value in values]).tobytes()


class ArrivalOrder(Fault):
    """Requests are numbered as they arrive: no retry is known, no order is kept."""

    def __init__(self) -> None:
        self.next: dict[str, int] = defaultdict(int)

    def _number(self, model_id: str) -> int:
        self.next[model_id] += 1
        return self.next[model_id]

    def json_request(self, endpoint: str, body: dict[str, Any]) -> None:
        if "model_id" in body and "seq_id" in body:
            body["seq_id"] = self._number(body["model_id"])

    def training_request(self, message: Any) -> None:
        message.seq_id = self._number(message.model_id)


class NewestWeights(Fault):
    """A sampling client gets the newest weights of its run, whichever it asked for."""

    def __init__(self) -> None:
        self.newest: dict[str, str] = {}

    def json_request(self, endpoint: str, body: dict[str, Any]) -> None:
        if endpoint == "save_weights_for_sampler" and "path" in body:
            self.newest[body["model_id"]] = body["path"]
        if endpoint == "create_sampling_session" and "model_path" in body:
            run_id = body["model_path"].removeprefix("tinker://").split("/")[0]
            body["model_path"] = f"tinker://{run_id}/sampler_weights/{self.newest[run_id]}"


class LastSettings(Fault):
    """A step uses the decay and the betas of whoever stepped before."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def json_request(self, endpoint: str, body: dict[str, Any]) -> None:
        if endpoint == "optim_step":
            mine = dict(body["adam_params"])
            body["adam_params"].update(self.last)
            self.last = {name: mine[name] for name in ("beta1", "beta2", "weight_decay")}


class Dropped(Fault):
    """A field of JSON requests is lost on the way."""

    def __init__(self, endpoint: str, part: str, field: str, instead: object = None) -> None:
        self.endpoint, self.part, self.field, self.instead = endpoint, part, field, instead

    def json_request(self, endpoint: str, body: dict[str, Any]) -> None:
        if endpoint == self.endpoint:
            settings = body[self.part] if self.part else body
            settings.pop(self.field, None)
            if self.instead is not None:
                settings[self.field] = self.instead


class ForwardTrains(Fault):
    """forward leaves a gradient behind."""

    def training_request(self, message: Any) -> None:
        message.forward_only = False


class OtherLoss(Fault):
    """One loss is taken for another that has the same inputs."""

    def training_request(self, message: Any) -> None:
        if message.loss_fn in ("ppo", "cispo"):
            message.loss_fn = "importance_sampling"
            message.loss_fn_config.clear()
            message.loss_fn_config_v2.clear()


class ShortPromptLogprobs(Fault):
    """The list of prompt logprobs is one short."""

    def sample_result(self, message: Any) -> None:
        message.prompt_logprobs = message.prompt_logprobs[4:]


class TemperedLogprobs(Fault):
    """Logprobs of samples are those of another temperature."""

    def sample_result(self, message: Any) -> None:
        for sequence in message.sequences:
            values = [1.1 * value for value in memoryview(sequence.logprobs).cast("f")]
            sequence.logprobs = array("f", values).tobytes()


class CrashesOnBadInput(Fault):
    """Refusals are 500s."""

    def status(self, status: int) -> int:
        return 500 if 400 <= status < 500 and status not in (408, 410) else status


class BareMetricNames(Fault):
    """Metrics carry no reduction."""

    def training_result(self, message: Any) -> None:
        message.metrics["loss"] = 1.0


class CutsAnswers(Fault):
    """Every nth answer is cut off in its middle, after the server did what was asked."""

    def __init__(self, every: int) -> None:
        self.every, self.num_answers, self.num_cut = every, 0, 0

    def num_bytes(self, content: bytes) -> int:
        self.num_answers += 1
        if self.num_answers % self.every or not content:
            return len(content)
        self.num_cut += 1
        return len(content) // 2


class BrokenProxy:
    """An HTTP server that passes everything on, through a fault; ended with the block."""

    def __init__(self, url: str, fault: Fault) -> None:
        self._fault = fault
        self._http = httpx.Client(base_url=url, timeout=90.0, trust_env=False)
        self._kinds: dict[str, str] = {}
        self._lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                status, media_type, content = proxy.pass_on(
                    self.command, self.path, dict(self.headers), self.rfile.read(length)
                )
                self.send_response(status)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                num_bytes = proxy.num_bytes(content)
                self.wfile.write(content[:num_bytes])
                self.close_connection = num_bytes < len(content)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def num_bytes(self, content: bytes) -> int:
        """How much of an answer is sent."""
        with self._lock:
            return self._fault.num_bytes(content)

    def pass_on(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        """Sends a request on; the status, the media type and the content of its answer."""
        endpoint = path.removeprefix("/api/v1/")
        kept = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
        with self._lock:
            body = self._changed_request(endpoint, headers, body)
        answer = self._http.request(method, path, headers=kept, content=body)
        media_type = answer.headers.get("content-type", "application/json")
        with self._lock:
            content = self._changed_answer(endpoint, body, media_type, answer.content)
        return self._fault.status(answer.status_code), media_type, content

    def _changed_request(self, endpoint: str, headers: dict[str, str], body: bytes) -> bytes:
        media_type = next((v for k, v in headers.items() if k.lower() == "content-type"), "")
        if endpoint == "forward_backward" and media_type.startswith(PROTOBUF):
            change: Callable[[Any], None] = self._fault.training_request
            return _changed(tinsmith_pb2.ForwardBackwardRequest, body, change)
        try:
            parsed = json.loads(body)
        except ValueError:
            return body
        if isinstance(parsed, dict):
            self._fault.json_request(endpoint, parsed)
        return json.dumps(parsed).encode()

    def _changed_answer(
        self, endpoint: str, request: bytes, media_type: str, content: bytes
    ) -> bytes:
        if endpoint != "retrieve_future":
            if b'"request_id"' in content:
                self._kinds[json.loads(content)["request_id"]] = endpoint
            return content
        if not media_type.startswith(PROTOBUF):
            return content
        if self._kinds.get(json.loads(request)["request_id"]) == "asample":
            return _changed(tinsmith_pb2.SampleResponse, content, self._fault.sample_result)
        return _changed(tinsmith_pb2.ForwardBackwardOutput, content, self._fault.training_result)


def _changed(message_type: Any, content: bytes, change: Callable[[Any], None]) -> bytes:
    try:
        message = message_type.FromString(content)
    except Exception:  # damaged on purpose by a check: the server shall see it as it is
        return content
    change(message)
    return message.SerializeToString()
