"""The commands of `anosegd`: one module a command, with its name; `main(options)` runs it. `requests` has the short ones."""
