"""Trains the network: the loop, one step, the state with its checkpoints, and when to end. Runs on the main thread."""

from anoseg_trainer.training.loop import Status, TrainingResult, train

__all__ = ["Status", "TrainingResult", "train"]
