"""The inspector: one thread that owns the engine and judges parts."""
