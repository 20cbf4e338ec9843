"""The HTML reports of `fit`, `evaluate` and `ablate`, their charts, and the overlay pictures of `evaluate`."""
