"""Runs the commands of `anosegd`. Each command has its own module, which is named like the command.

To add a command:

1. Write a module here with `main(options)`, which runs the command and returns its exit code.
2. Add its arguments and its name to `cli.py`.
3. If the command asks a running station for something new, add the request to `control/requests.py`, answer it in
   `control/server.py`, and send it from here with `send_request.py`.
"""
