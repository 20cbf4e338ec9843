"""Makes a bundle from a folder of good images: learns what good looks like from good images alone (AnoSeg)."""
