"""Trainer: learns what good looks like from good images alone (AnoSeg), and seals it into an engine bundle."""
