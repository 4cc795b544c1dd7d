"""Two people with keys of their own on one real service, across a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.service_process import ServiceProcess, WireClient, make_data

pytestmark = pytest.mark.integration


def test_each_key_trains_its_own_and_shares_what_is_published(
    tmp_path: Path, tiny_dir: Path
) -> None:
    data = make_data()
    with ServiceProcess(tmp_path) as first:
        operator = WireClient(first.ready)
        made = [operator.post("ext/keys", name=name) for name in ("Ada", "Ben")]
        readies = [{**first.ready, "api_key": key["key"]} for key in made]
        ada, ben = (WireClient(ready) for ready in readies)
        models = [client.create_model() for client in (ada, ben)]
        assert [model.train_step(data) > 0 for model in models] == [True, True]
        path = models[0].save("save_weights", "mine")
        sampler_path = models[0].save("save_weights_for_sampler", "mine")
        expected = models[0].loss(data)
        runs = [
            [
                run["training_run_id"]
                for run in client.http.get("training_runs").json()["training_runs"]
            ]
            for client in (ada, ben)
        ]
        assert runs == [[model.model_id] for model in models]
        body = {"session_id": ben.session_id, "model_seq_id": 1, "path": path}
        assert ben.post("load_weights", expect=404, **body)["field"] == "path"
        sampling = {"session_id": ben.session_id, "sampling_session_seq_id": 0}
        sampling["model_path"] = sampler_path
        assert ben.post("create_sampling_session", expect=404, **sampling)["field"] == "model_path"
        for kind in ("weights", "sampler_weights"):
            place = f"training_runs/{models[0].model_id}/checkpoints/{kind}/mine/publish"
            assert ada.http.post(place).status_code == 204
        assert ben.load_model(path, 1).loss(data) == pytest.approx(expected)
        sampler = ben.create_sampler(0, model_path=sampler_path)
        assert ben.samples(ben.asample(sampler, [50], seq_id=0)["request_id"]).sequences
        assert ada.http.delete("auth/apikey/me").status_code == 204
        assert ada.http.get("training_runs").status_code == 401
        assert first.stop() == 0
    with ServiceProcess(tmp_path, "--api-key", first.ready["api_key"]) as second:
        ben = WireClient({**second.ready, "api_key": made[1]["key"]})
        assert ben.load_model(path, 0).loss(data) == pytest.approx(expected)
        listed = ben.http.get("checkpoints").json()["checkpoints"]
        assert listed == []  # published things are found by their address
        ada_again = ben.http.get("training_runs", headers={"X-API-Key": made[0]["key"]})
        assert ada_again.status_code == 401
