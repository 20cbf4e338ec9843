"""The commands of `anoseg-train`, one module each; `run` takes the parsed options."""
