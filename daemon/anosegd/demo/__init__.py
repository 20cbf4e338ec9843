"""Simulates a production line whose parts have known defects, for the commands `demo` and `demo-images`."""
