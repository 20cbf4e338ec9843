"""The judgement: `judge` decides PASS or FAIL, with `defects` and region `rules`. `image_quality` refuses unusable images."""
