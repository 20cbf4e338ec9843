"""The commands of `anosegd`: one module a command, with its name; `main(options)` runs it. `send_request` has those that only send a request."""
