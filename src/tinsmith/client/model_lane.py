"""What one model is asked for, in order: passes over data and everything else.

Data is encoded when the call is made, without its sequence number; the number is added when the
call's turn has come. Main name: `ModelLane`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import itertools
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeVar, cast

import pydantic
import zstandard

from tinsmith.client.chunking import ChunkLimits, chunk_datums
from tinsmith.client.connection import Connection, json_request
from tinsmith.client.custom_loss import (
    CustomLossFn,
    SurrogateLoss,
    forward_data,
    surrogate_data,
    surrogate_of,
)
from tinsmith.client.errors import APIStatusError, RequestFailedError
from tinsmith.client.futures import APIFuture
from tinsmith.client.gathering import gather
from tinsmith.client.loop import run_in_daemon_thread
from tinsmith.client.metrics import combine_outputs
from tinsmith.client.polling import ResultKind
from tinsmith.client.queue_state import TRAINING_GRACE_S, PauseLogger
from tinsmith.client.retained import (
    EXTENSION,
    MAX_GRAPHS_A_NORM,
    MAX_NORM_BYTES,
    CustomCall,
    accumulated_norm,
    backward_path,
    forward_path,
    graphs_kept,
    max_positions,
    norm_path,
    without_graphs,
)
from tinsmith.client.transport import PROTOBUF, Request
from tinsmith.client.turns import TakeSeqIds, TurnOrder, undisturbed
from tinsmith.core.errors import DataError, TinsmithError, UserError
from tinsmith.regularizers.composition import ComposedLoss
from tinsmith.regularizers.outputs import ACCUMULATED_NORM, CustomLossOutput
from tinsmith.types import (
    AdapterTermsRequest,
    Datum,
    ForwardBackwardOutput,
    LoadWeightsRequest,
    OptimStepRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)
from tinsmith.types.codec import (
    datum_bytes,
    decode_forward_backward_output,
    encode_forward_backward_request,
    with_seq_id,
)

M = TypeVar("M", bound=pydantic.BaseModel)
R = TypeVar("R")
OrderedRequest = (
    AdapterTermsRequest
    | LoadWeightsRequest
    | OptimStepRequest
    | SaveWeightsExternalRequest
    | SaveWeightsForSamplerRequest
    | SaveWeightsRequest
)

_lane_of_loss: contextvars.ContextVar[ModelLane | None] = contextvars.ContextVar(
    "tinsmith_lane_of_loss", default=None
)
"""The lane whose turn lasts until the loss that runs in this context has returned."""
_WHOLE = ChunkLimits(max_datums=sys.maxsize, max_bytes=sys.maxsize)
_FORWARD = ResultKind("Forward", is_protobuf=True)
_FORWARD_BACKWARD = ResultKind("ForwardBackward", is_protobuf=True)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pass:
    """One forward or forward_backward, encoded in chunks."""

    bodies: list[bytes]
    """Without their sequence numbers."""
    starts: list[int]
    """Index of each chunk's first datum in the call."""
    kind: ResultKind
    paths: list[str]
    """Where each chunk goes."""

    def through(self, *paths: str) -> _Pass:
        """The same to other endpoints, one for all chunks or one each."""
        return dataclasses.replace(self, paths=[*paths] * (len(self.bodies) // len(paths)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Sent:
    """A pass that was submitted."""

    encoded: _Pass
    seq_ids: Sequence[int]
    request_ids: list[str]


class ModelLane:
    """Sends one model's requests in the order of the calls."""

    def __init__(self, connection: Connection, model_id: str, vocab_size: int | None) -> None:
        self._connection = connection
        self._model_id = model_id
        self._vocab_size = vocab_size
        self._order = TurnOrder()
        self._observe = PauseLogger(f"training of {model_id}", grace_s=TRAINING_GRACE_S)

    def request(
        self,
        request: OrderedRequest,
        kind: ResultKind,
        answer: type[M],
        *,
        was_sent: Callable[[], None] | None = None,
        extension: str | None = None,
    ) -> APIFuture[M]:
        """One JSON request; the validated result. `was_sent` is called in the request's turn.

        With `extension` nothing is sent to a service that does not announce it.
        """
        return self.request_then(
            request,
            lambda request_id: self._connection.result(request_id, kind, answer, self._observe),
            label=kind.request_type,
            was_sent=was_sent,
            extension=extension,
        )

    def request_then(
        self,
        request: OrderedRequest,
        collect: Callable[[str], Awaitable[R]],
        *,
        label: str,
        was_sent: Callable[[], None] | None = None,
        extension: str | None = None,
    ) -> APIFuture[R]:
        """One JSON request; `collect` makes the result of its request id."""
        self._refuse_inside_loss(label)

        async def post(take: TakeSeqIds) -> str:
            if extension is not None:
                await self._connection.require_extension(
                    extension, hint="leave it out: no other request stands in for it"
                )
            numbered = request.model_copy(update={"seq_id": take(1).start})
            request_id = (await self._connection.submit(json_request(numbered))).request_id
            if was_sent is not None:
                was_sent()
            return request_id

        return self._connection.watched(self._order.submit(post, collect, label=label))

    def run(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None,
        *,
        forward_only: bool,
    ) -> APIFuture[ForwardBackwardOutput]:
        """One pass over data.

        Raises:
            UserError: there is no data, or a datum cannot be sent.
        """
        label = "forward" if forward_only else "forward_backward"
        self._refuse_inside_loss(label)
        encoded = self._encoded(data, loss_fn, loss_fn_config, forward_only=forward_only)
        future = self._order.submit(
            lambda take: self._send(encoded, take), self._fetch, label=label
        )
        return self._connection.watched(future)

    def run_custom(
        self, data: Sequence[Datum], loss_fn: CustomLossFn
    ) -> APIFuture[ForwardBackwardOutput]:
        """A forward pass, the caller's loss of its logprobs, and a backward pass of its gradient.

        The turn lasts until the backward pass is submitted. If the loss fails or the future is
        cancelled before, there is no backward pass and the next call goes on.
        """
        return self._run_between(data, CustomCall(loss_fn, lambda output, _: output))

    def run_composed(
        self, data: Sequence[Datum], loss: ComposedLoss
    ) -> APIFuture[CustomLossOutput]:
        """The same with a loss and regularizers, which are told when their gradient was sent."""
        call = CustomCall(
            loss,
            loss.finished,
            loss.commit,
            loss.parameter_gradients,
            distribution=loss.distribution,
            distribution_terms=loss.distribution_terms,
        )
        return self._run_between(data, call)

    def _run_between(self, data: Sequence[Datum], call: CustomCall[R]) -> APIFuture[R]:
        label = "forward_backward_custom"
        self._refuse_inside_loss(label)
        data = _checked_datums(data)
        limits = dataclasses.replace(
            self._connection.config.chunk_limits,
            max_positions=max_positions(call.distribution, self._vocab_size),
        )
        forward = self._encoded(
            forward_data(data), "cross_entropy", None, forward_only=True, limits=limits
        )
        context = contextvars.copy_context()
        context.run(_lane_of_loss.set, self)

        async def post(take: TakeSeqIds) -> tuple[SurrogateLoss, _Sent, dict[str, _Sent]]:
            is_offered = await self._connection.offers(EXTENSION)
            base_url = (await self._connection.transport()).base_url
            call.check_offered(is_offered=is_offered, base_url=base_url)
            asked = forward.through(forward_path(call.distribution)) if is_offered else forward
            sent = await undisturbed(self._send(asked, take))
            output = await self._fetch(sent)
            graphs = sent.seq_ids if is_offered and graphs_kept(output) else None
            differentiate = functools.partial(
                surrogate_of,
                data,
                output.loss_fn_outputs,
                call.loss_fn,
                with_distributions=call.distribution is not None,
            )
            surrogate = await run_in_daemon_thread(lambda: context.run(differentiate))
            backward = self._encoded(
                surrogate.data, "cross_entropy", None, forward_only=False, like=forward
            )
            norms: dict[str, _Sent] = {}
            if graphs is not None:
                backward = backward.through(*map(backward_path, graphs))
                wanted = (
                    (name, surrogate_data(data, gradient, surrogate.distributions))
                    for name, gradient in call.gradients().items()
                )
                norms = await self._send_norms(wanted, graphs, take)
            sent = await undisturbed(self._send(backward, take))
            call.was_sent()
            return surrogate, sent, norms

        async def collect(posted: tuple[SurrogateLoss, _Sent, dict[str, _Sent]]) -> R:
            surrogate, sent, norms = posted
            found = {name: await self._fetch_norm(norm) for name, norm in norms.items()}
            answer = await self._fetch(sent)
            found[ACCUMULATED_NORM] = accumulated_norm(answer)
            return call.finished(surrogate.described(without_graphs(answer)), found)

        future = self._order.submit(post, collect, label=label, may_be_abandoned=True)
        return self._connection.watched(future)

    async def _send_norms(
        self, wanted: Iterable[tuple[str, Sequence[Datum]]], graphs: Sequence[int], take: TakeSeqIds
    ) -> dict[str, _Sent]:
        """Ask for the norms of gradients by the parameters, each through all graphs at once.

        One whose gradient is more than a request can hold is left out.
        """
        if len(graphs) > MAX_GRAPHS_A_NORM:
            return {}
        sent: dict[str, _Sent] = {}
        for name, weighted in wanted:
            if sum(map(datum_bytes, weighted)) > MAX_NORM_BYTES:
                continue
            encoded = self._encoded(
                weighted, "cross_entropy", None, forward_only=False, limits=_WHOLE
            )
            asked = encoded.through(norm_path(graphs))
            sent[name] = await undisturbed(self._send(asked, take))
        return sent

    async def _fetch_norm(self, sent: _Sent) -> float | None:
        """A norm; None if a graph was let go of meanwhile."""
        try:
            return (await self._fetch(sent)).metrics.get("grad_norm:unique")
        except RequestFailedError as error:
            if error.field != "graph":
                raise
            return None

    def _refuse_inside_loss(self, label: str) -> None:
        """Calls wait for the loss that is being computed, so the loss must not wait for them."""
        if _lane_of_loss.get() is self:
            raise UserError(
                f"{label}: called by the loss_fn that this client waits for",
                field="loss_fn",
                hint="call it before or after forward_backward_custom, or on another client",
            )

    def _encoded(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None,
        *,
        forward_only: bool,
        like: _Pass | None = None,
        limits: ChunkLimits | None = None,
    ) -> _Pass:
        """Encode a pass, cut by `limits`; `like` another one as that is, `is_whole` not at all."""
        _check_loss(loss_fn, loss_fn_config)
        data = _checked_datums(data)
        if like is not None:
            ends = [*like.starts[1:], len(data)]
            chunks = [data[i:j] for i, j in zip(like.starts, ends, strict=True)]
        else:
            chunks = chunk_datums(data, limits or self._connection.config.chunk_limits)
        starts = [0, *itertools.accumulate(map(len, chunks[:-1]))]
        bodies: list[bytes] = []
        for chunk, start in zip(chunks, starts, strict=True):
            with _counting_from(start):
                bodies.append(
                    encode_forward_backward_request(
                        self._model_id,
                        0,
                        chunk,
                        loss_fn,
                        loss_fn_config,
                        forward_only=forward_only,
                    )
                )
        kind = _FORWARD if forward_only else _FORWARD_BACKWARD
        return _Pass(bodies, starts, kind, ["forward_backward"] * len(bodies))

    async def _send(self, encoded: _Pass, take: TakeSeqIds) -> _Sent:
        """Send the chunks of one pass; the service puts them in order by their numbers."""
        is_compressed = self._connection.config.proto_compress_fwdbwd
        seq_ids = take(len(encoded.bodies))
        requests = [
            _pass_request(path, with_seq_id(body, seq_id), is_compressed=is_compressed)
            for path, body, seq_id in zip(encoded.paths, encoded.bodies, seq_ids, strict=True)
        ]

        async def submit(request: Request, start: int) -> str:
            async with self._connection.pass_budget.hold(len(request.body)):
                with _counting_from(start):
                    return (await self._connection.submit(request)).request_id

        # All are sent even if one is refused: a number that never arrives would hold up the rest.
        answers: list[str | BaseException]
        if self._connection.config.parallel_fwdbwd_chunks:
            answers = await asyncio.gather(
                *map(submit, requests, encoded.starts), return_exceptions=True
            )
        else:
            answers = []
            for request, start in zip(requests, encoded.starts, strict=True):
                try:
                    answers.append(await submit(request, start))
                except APIStatusError as error:
                    answers.append(error)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return _Sent(encoded, seq_ids, [answer for answer in answers if isinstance(answer, str)])

    async def _fetch(self, sent: _Sent) -> ForwardBackwardOutput:
        """The results of the chunks as one."""

        async def fetch(request_id: str, start: int) -> ForwardBackwardOutput:
            with _counting_from(start):
                content = await self._connection.result_bytes(
                    request_id, sent.encoded.kind, self._observe
                )
            return decode_forward_backward_output(content)

        return combine_outputs(await gather(map(fetch, sent.request_ids, sent.encoded.starts)))


def _checked_datums(data: object) -> list[Datum]:
    """The datums of a call, which a generator may give.

    Raises:
        UserError: there are none.
        DataError: one is something else.
    """
    hint, kind = "pass a list of Datum", type(data).__name__
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
        raise UserError(f"data: a {kind}; must be a list", field="data", hint=hint)
    datums = list(cast("Iterable[object]", data))
    if not datums:
        raise UserError("data=[]: No data provided", field="data", hint="pass a datum or more")
    for index, datum in enumerate(datums):
        if not isinstance(datum, Datum):
            what = f"data[{index}]: a {type(datum).__name__}; must be a Datum"
            raise DataError(what, field="data", datum_index=index, hint=hint)
    return cast("list[Datum]", datums)


def _check_loss(loss_fn: object, config: object) -> None:
    config_kind = type(config).__name__
    if not isinstance(loss_fn, str):
        raise UserError(
            f"loss_fn: a {type(loss_fn).__name__}; must be the name of a loss",
            field="loss_fn",
            hint="such as 'cross_entropy'; a function goes to forward_backward_custom",
        )
    if not isinstance(config, Mapping | None):
        raise UserError(
            f"loss_fn_config: a {config_kind}; must be a dict of settings",
            field="loss_fn_config",
        )


def _pass_request(path: str, body: bytes, *, is_compressed: bool) -> Request:
    if not is_compressed:
        return Request(path, body, content_type=PROTOBUF)
    headers = {"Content-Encoding": "zstd"}
    content = zstandard.ZstdCompressor().compress(body)
    return Request(path, content, content_type=PROTOBUF, headers=headers)


@contextlib.contextmanager
def _counting_from(start: int) -> Generator[None]:
    """Say where the datum indices in an error about a later chunk begin."""
    try:
        yield
    except TinsmithError as error:
        if start and error.category == "user":
            hint = f"datum indices here count from datum {start} of the call"
            error.hint = f"{error.hint}; {hint}" if error.hint else hint
            if isinstance(error, DataError) and error.datum_index is not None:
                error.datum_index += start
        raise
