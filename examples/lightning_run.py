"""Record a Lightning Trainer by adding one callback; a tiny model on the CPU, in seconds.

Usage: python examples/lightning_run.py [FOLDER] [--resume]

Then: tinsmith runs list; tinsmith runs show RUN
"""

import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tinsmith.telemetry.integrations.lightning import RecorderCallback


class Line(L.LightningModule):
    """Fits a line to points."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error of a batch (x, y)."""
        x, y = batch
        return functional.mse_loss(self.layer(x), y)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: list[torch.Tensor], index: int) -> None:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def main(folder: Path, resume: bool) -> None:
    """Train for two epochs, and go on from the last checkpoint with `resume`."""
    L.seed_everything(0)
    x = torch.linspace(-1, 1, 64)[:, None]
    points = DataLoader(TensorDataset(x, 3 * x + 1), batch_size=8)
    trainer = L.Trainer(
        max_epochs=3 if resume else 2,
        default_root_dir=folder,
        logger=False,
        accelerator="cpu",
        log_every_n_steps=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(folder / "checkpoints", save_last=True, save_top_k=0),
            RecorderCallback("examples", "lightning", tags=["tiny"], seed=0),
        ],
    )
    model = Line()
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(model, points, points, ckpt_path=last if resume else None)
    trainer.test(model, points, verbose=False)


if __name__ == "__main__":
    main(Path(next(iter(sys.argv[1:]), "lightning_output")), "--resume" in sys.argv)
