"""The judgement: `judge` decides PASS or FAIL, `rules` are region rules, `image_quality` refuses unusable images."""
