"""Captures images of parts, judges them, and publishes verdicts and anomaly maps over ZeroMQ."""
