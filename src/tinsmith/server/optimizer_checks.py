"""Which optimizers the service has, and which settings a model's step may have."""

from __future__ import annotations

from tinsmith.server.errors import RequestError
from tinsmith.server.requests import OptimStepBody
from tinsmith.types import (
    AdamOptimizerConfig,
    AdamParams,
    DimuonOptimizerConfig,
    DimuonParams,
    OptimizerConfig,
    OptimParams,
)


def check_optimizer_config(config: OptimizerConfig) -> None:
    """Checks that the service has the family.

    Raises:
        RequestError: it has not.
    """
    if not isinstance(config, (AdamOptimizerConfig, DimuonOptimizerConfig)):
        raise RequestError(
            f"optimizer_config.type={config.type[:80]!r}: must be 'adamw' or 'dimuon'",
            field="optimizer_config.type",
            hint="leave optimizer_config out for AdamW",
        )


def check_optim_params(body: OptimStepBody, config: OptimizerConfig) -> OptimParams:
    """The settings of a step, which are those of the model's family.

    Raises:
        RequestError: they are missing, given twice, or another family's.
    """
    if body.adam_params is not None and body.optimizer_params is not None:
        raise RequestError(
            "optimizer_params: given beside adam_params; give one of them", field="optimizer_params"
        )
    is_dimuon = config.type == "dimuon"
    field = "optimizer_params" if is_dimuon else "adam_params"
    params = body.adam_params if body.optimizer_params is None else body.optimizer_params
    if params is None:
        raise RequestError(f"{field}: missing", field=field)
    wanted = DimuonParams if is_dimuon else AdamParams
    if not isinstance(params, wanted):
        given = "adam_params" if isinstance(params, AdamParams) else "optimizer_params"
        raise RequestError(
            f"{given}: of family {getattr(params, 'type', 'adamw')[:80]!r}, the model's optimizer "
            f"is {config.type!r}",
            field=given,
            hint=f"give {field}; the family was chosen when the model was created",
        )
    return params
