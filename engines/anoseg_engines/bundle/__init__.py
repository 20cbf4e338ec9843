"""Describes the engine bundle (`manifest`), and finds and verifies bundles (`read`). `seal.py` writes them."""
