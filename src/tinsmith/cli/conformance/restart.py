"""What a server still knows after it was stopped and started again."""

from __future__ import annotations

from tinsmith.cli.conformance.delivery import accept
from tinsmith.cli.conformance.registry import NotAsked, check, expect, expect_close
from tinsmith.cli.conformance.server import Server
from tinsmith.cli.conformance.snapshots import TOKENS, sampled_logprobs, trained_logprobs


@check(
    "A restarted server has its checkpoints",
    proves="runs and checkpoints are listed, resumed from and sampled as before",
    points=3,
)
def keeps_checkpoints(server: Server) -> None:
    if server.restart is None:
        raise NotAsked("give --restart-command, or no URL")
    model = server.fork()
    expected = trained_logprobs(model, TOKENS)
    state = server.wait(model.trainer.save_state("before-restart")).path
    weights = server.wait(model.trainer.save_weights_for_sampler("before-restart")).path
    model_id = server.wire.load_model(state)
    promise = accept(server.wire.forward_backward(model_id, 1, server.data(2, seed=1)), "forward")
    loss = server.wire.output(promise).metrics["loss:sum"]
    server.restart()
    server.start_over()
    status, answer = server.wire.get(f"training_runs/{model.trainer.model_id}/checkpoints")
    expect(status == 200, f"the run's checkpoints: answered {status}")
    listed = {each["tinker_path"] for each in answer["checkpoints"]}
    expect({state, weights} <= listed, f"listed are only {sorted(listed)}")
    found = trained_logprobs(server.fork(state), TOKENS)
    expect_close(found, expected, atol=server.tolerance, what="logprobs of the resumed model")
    found = sampled_logprobs(server, server.sampler(weights), TOKENS)
    expect_close(found, expected, atol=server.tolerance, what="logprobs of the sampler weights")
    again = server.wire.output(promise).metrics["loss:sum"]
    expect(again == loss, "a future that was finished before the restart is answered otherwise")
