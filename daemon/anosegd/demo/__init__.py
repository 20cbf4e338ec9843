"""The demo: a simulated production line whose parts have known defects."""
