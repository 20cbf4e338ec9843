"""Trains many products, each in a process of its own (`fleet`). Main thread of the driver, and one thread for each training.

`products_file` reads and checks the file, `plan` says what is to do, `training_run` runs one training in a process
(`training_child.py`), `on_this_machine` and `on_ray` say where, `supervision` starts trainings again and keeps the accounts,
`screen` shows them, `fleet_report` writes them. None of them imports PyTorch, and only `on_ray` needs Ray.
"""
