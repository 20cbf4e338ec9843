"""Defines the AnoSeg network, its losses, checkpoints and export."""
