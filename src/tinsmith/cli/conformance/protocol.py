"""What every client does first: capabilities, sessions, facts about models, names of metrics."""

from __future__ import annotations

from tinsmith.cli.conformance.registry import check, expect
from tinsmith.cli.conformance.server import Server

REDUCTIONS = {"mean", "sum", "min", "max", "slack", "unique", "hash_unordered"}


@check("Capabilities name a model", proves="clients can ask what may be trained and sampled")
def names_its_models(server: Server) -> None:
    status, answer = server.wire.get("get_server_capabilities")
    expect(status == 200, f"get_server_capabilities: answered {status}")
    expect(
        any(model.get("model_name") for model in answer["supported_models"]),
        "supported_models names no model",
    )


@check("The client's configuration is answered", proves="the official client can start at all")
def answers_client_config(server: Server) -> None:
    status, answer = server.wire.post("client/config", sdk_version="0.38.0")
    expect(status == 200 and isinstance(answer, dict), f"client/config: answered {status}")


@check("Facts about a model", proves="a client finds base model, rank and tokenizer")
def tells_about_a_model(server: Server) -> None:
    model = server.new_model(rank=4)
    info = model.trainer.get_info()
    expect(info.model_id == model.trainer.model_id, f"get_info tells of model {info.model_id!r}")
    expect(info.lora_rank == 4, f"lora_rank is {info.lora_rank}, expected 4")
    expect(info.model_data.model_name, "model_data.model_name is missing")


@check(
    "Metrics have names that clients can join",
    proves="a call of many chunks is reported as one; no metric is dropped or crashes the client",
)
def names_metrics_by_their_reduction(server: Server) -> None:
    model_id = server.wire.load_model(server.warm_state)
    status, promise = server.wire.forward_backward(model_id, 1, server.data(2, seed=1))
    expect(status == 200, f"forward_backward: answered {status}")
    metrics = server.wire.output(promise).metrics
    expect("loss:sum" in metrics, f"no metric loss:sum among {sorted(metrics)}")
    for name in metrics:
        parts = name.split(":")
        expect(
            len(parts) == 2 and parts[1] in REDUCTIONS,
            f"metric {name!r} does not end in one of :{', :'.join(sorted(REDUCTIONS))}",
        )


@check("A finished session is told so", proves="clients of a closed session stop their heartbeats")
def heartbeats_until_the_session_is_finished(server: Server) -> None:
    session_id = server.wire.new_session()
    body = {"session_id": session_id, "type": "session_heartbeat"}
    status, _ = server.wire.post("session_heartbeat", **body)
    expect(status == 200, f"session_heartbeat: answered {status}")
    reason = {"type": "success"}
    status, _ = server.wire.post(f"sessions/{session_id}/finish", reason=reason, detail=None)
    expect(200 <= status < 300, f"finish: answered {status}")
    status, _ = server.wire.post("session_heartbeat", **body)
    expect(status == 410, f"session_heartbeat after finish: answered {status}, expected 410")


@check("Telemetry is taken or refused at once", proves="an error reaches the user without a wait")
def answers_telemetry(server: Server) -> None:
    status, answer = server.wire.post(
        "telemetry",
        events=[],
        platform="Linux",
        sdk_version="0.38.0",
        session_id=server.wire.session_id,
        process_uuid="00000000-0000-4000-8000-000000000000",
    )
    is_taken = status == 200 and answer.get("status") == "accepted"
    expect(is_taken or 400 <= status < 500, f"telemetry: answered {status}: {answer}")
