"""Judges parts: `judge` decides PASS, FAIL or REVIEW, with `defects` and region `rules`.

`image_quality` refuses unusable images.
"""
