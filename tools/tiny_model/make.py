"""Build the bundled model: ``python tools/tiny_model/make.py --out src/tinsmith/bundled/tiny``.

The tokenizer is trained first, then the model; both are written to ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from pathlib import Path

from tokenizer import save_tokenizer, train_tokenizer
from train import TrainConfig, save_model, train


def main() -> None:
    """Parse the command line and build."""
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument(
        "--work", type=Path, default=Path("build/tiny_model"), help="folder of checkpoints"
    )
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument(
        "--extra-text",
        type=Path,
        nargs="*",
        default=[],
        help="plain texts to mix in (about 4 %% of the tokens)",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the state in --work")
    args = parser.parse_args()
    config = dataclasses.replace(
        defaults, steps=args.steps, threads=args.threads, extra_text=tuple(args.extra_text)
    )
    for path in args.extra_text:
        print(f"extra text {path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    tokenizer = train_tokenizer()
    save_tokenizer(tokenizer, args.out)
    save_model(train(tokenizer, config, args.work, args.resume), args.out)


if __name__ == "__main__":
    main()
