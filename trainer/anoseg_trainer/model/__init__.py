"""The AnoSeg network: its layers, losses, checkpoints and export."""
