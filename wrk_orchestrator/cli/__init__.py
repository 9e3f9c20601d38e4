"""The `wrk` command and the supervisor behind `wrk up`.

A client like any other: it reaches orchestrators and racks over RPC and holds no decision of theirs.
"""
