"""Runtimes: what runs a bundle's network on this machine, and how one is chosen."""
