"""What the commands of `anoseg-engine` print."""
