"""Hypothesis strategies for the types."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinsmith.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ForwardBackwardOutput,
    ImageChunk,
    ModelInput,
    PromptAltTokens,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
    TopkLogprobs,
)

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=12)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
FLOATS = st.floats(width=32)  # NaN and the infinities included


def arrays(shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float32, shapes, elements=FLOATS) | hnp.arrays(np.int64, shapes)


def dense_tensors() -> st.SearchStrategy[TensorData]:
    return arrays().map(TensorData.from_numpy)


@st.composite
def sparse_tensors(draw: st.DrawFn) -> TensorData:
    num_rows, num_columns = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    listed = draw(hnp.arrays(np.bool_, (num_rows, num_columns)))
    rows, columns = np.nonzero(listed)
    kind, elements = draw(st.sampled_from([(np.int64, None), (np.float32, FLOATS)]))
    values = draw(hnp.arrays(kind, rows.size, elements=elements))
    crow = np.concatenate([[0], np.cumsum(listed.sum(axis=1))])
    dtype = "int64" if kind is np.int64 else "float32"
    return TensorData(values, dtype, [num_rows, num_columns], crow, columns)


def tensors() -> st.SearchStrategy[TensorData]:
    return dense_tensors() | sparse_tensors()


CHUNKS = st.one_of(
    st.builds(EncodedTextChunk, tokens=TOKENS),
    st.builds(
        ImageChunk,
        data=st.binary(max_size=8),
        format=st.sampled_from(["png", "jpeg"]),
        expected_tokens=st.none() | st.integers(0, 9),
    ),
    st.builds(DmelChunk, dmel=st.binary(max_size=4).map(lambda values: b"\x00\x01\x05" + values)),
)
MODEL_INPUTS = st.builds(ModelInput, chunks=st.lists(CHUNKS, max_size=3))


@st.composite
def datums(draw: st.DrawFn) -> Datum:
    inputs = draw(st.dictionaries(NAMES, tensors(), max_size=3))
    if draw(st.booleans()):
        return Datum(draw(MODEL_INPUTS), inputs)
    tokens = draw(st.lists(st.integers(0, 99), min_size=1, max_size=9))
    inputs["target_tokens"] = TensorData(tokens, "int64")
    cut = draw(st.integers(0, len(tokens)))
    name = draw(NAMES)
    spans = [
        PromptProvenanceSpan(sequence_id=name, length=cut),
        SampledProvenanceSpan(sequence_id=name, length=len(tokens) - cut, offset=cut),
    ]
    datum = Datum(ModelInput.from_ints(tokens), inputs)
    return datum.with_provenance(model_input=spans, loss_fn_inputs=spans)


OUTPUTS = st.builds(
    ForwardBackwardOutput,
    loss_fn_output_type=st.just("ArrayRecord"),
    loss_fn_outputs=st.lists(
        st.dictionaries(
            st.sampled_from(["logprobs", "ratio", "x"]),
            # Rows of no values cannot be counted from the bytes, so the trailing sides are 1 up.
            st.tuples(
                st.integers(0, 4),
                hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3),
            )
            .map(lambda sides: (sides[0], *sides[1]))
            .flatmap(lambda shape: arrays(st.just(shape)))
            .map(TensorData.from_numpy),
            max_size=2,
        ),
        max_size=4,
    ),
    metrics=st.dictionaries(NAMES, st.floats(allow_nan=False), max_size=3),
)


@st.composite
def topk_tables(draw: st.DrawFn) -> TopkLogprobs:
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=4))
    ids = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 2**31 - 1)))
    return TopkLogprobs(ids, draw(hnp.arrays(np.float32, shape, elements=FLOATS)))


@st.composite
def sampled_sequences(draw: st.DrawFn) -> SampledSequence:
    tokens = draw(TOKENS)
    logprobs = None
    if tokens:  # the protocol reads empty log-probabilities as absent ones
        logprobs = draw(st.none() | hnp.arrays(np.float32, len(tokens), elements=FLOATS))
    return SampledSequence(
        stop_reason=draw(st.sampled_from(["stop", "length"])),
        tokens=tokens,
        logprobs=logprobs,
        topk_logprobs_np=draw(st.none() | topk_tables()),
    )


RESPONSES = st.builds(
    SampleResponse,
    sequences=st.lists(sampled_sequences(), max_size=3),
    prompt_logprobs_np=st.none() | hnp.arrays(np.float32, st.integers(1, 5), elements=FLOATS),
    topk_prompt_logprobs_np=st.none() | topk_tables(),
    target_prompt_logprobs=st.none() | tensors(),
    prompt_alt_tokens=st.none() | st.builds(PromptAltTokens, tokens=tensors(), logprobs=tensors()),
    prompt_cache_hit_tokens=st.integers(0, 2**31 - 1),
)

SAMPLING_PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(1, 2**31),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.none()
    | st.text(min_size=1)
    | st.lists(st.text(min_size=1), max_size=3)
    | st.lists(st.integers(0, 2**31 - 1), max_size=3),
    temperature=st.floats(0, 1e6),
    top_k=st.just(-1) | st.integers(1, 2**31),
    top_p=st.floats(0, 1, exclude_min=True),
)
