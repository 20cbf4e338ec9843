"""The training: its loop, one step, its state with checkpoints, and when it ends. Runs on the main thread."""

from anoseg_trainer.training.loop import Status, TrainingResult, train

__all__ = ["Status", "TrainingResult", "train"]
