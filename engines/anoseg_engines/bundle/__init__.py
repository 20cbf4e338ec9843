"""The engine bundle: `manifest` is its description, `read` finds and verifies bundles. `seal.py` writes them."""
