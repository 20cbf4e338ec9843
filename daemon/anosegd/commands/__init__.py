"""The commands of `anosegd`, one module a command."""
