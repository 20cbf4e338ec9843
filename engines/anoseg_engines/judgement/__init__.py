"""From an anomaly map and a score to a judgement."""
