"""Keeps the verdicts of many stations in a PostgreSQL database: `anosegd archive CONFIG`, a client of stations like any other.

`reader.py` asks one station's journal for what is new, page by page. `writer.py` stores the pages of all stations: verdicts and
cursor in one transaction, so that every durable verdict is in the database exactly once, whatever is killed. `store.py` has the
statements, `schema.py` the tables and their versions, `retention.py` deletes what is old. `service.py` starts and ends it all.
"""
