"""Record a Hugging Face Trainer by adding one callback; a tiny model on the CPU, in seconds.

Usage: python examples/trainer_run.py [FOLDER] [--resume]

Then: tinsmith runs list; tinsmith runs show RUN
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from tinsmith.telemetry.integrations.transformers import RecorderCallback


class Counting(Dataset[dict[str, torch.Tensor]]):
    """Sequences that count upwards, modulo the size of the vocabulary."""

    def __init__(self, first: int, number: int) -> None:
        self.first, self.number = first, number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(16) + self.first + index) % 64
        return {"input_ids": tokens, "labels": tokens}


def main(folder: Path, resume: bool) -> None:
    """Train for two epochs, evaluate after each, and go on from a checkpoint with `resume`."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=3 if resume else 2,
        per_device_train_batch_size=8,
        logging_steps=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Counting(0, 64),
        eval_dataset=Counting(64, 8),
        callbacks=[RecorderCallback("examples", "trainer", tags=["tiny"], seed=0)],
    )
    trainer.train(resume_from_checkpoint=resume)


if __name__ == "__main__":
    main(Path(next(iter(sys.argv[1:]), "trainer_output")), "--resume" in sys.argv)
