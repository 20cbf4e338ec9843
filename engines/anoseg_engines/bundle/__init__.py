"""The engine bundle on disk: its manifest, and how it is read and verified."""
