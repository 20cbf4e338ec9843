"""Reads bundles of trained networks, runs the networks, and judges parts."""
