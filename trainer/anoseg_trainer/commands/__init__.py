"""The commands of `anoseg-train`, one module a command."""
