"""The kind `mqtt`: a mirror of results and state at a broker. `payloads.py` is what is published, `mirror.py` publishes it."""
