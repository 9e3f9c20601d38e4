"""The HTTP face of the standalone orchestrator; `app.py` is its entry, `server.py` runs it in our loop."""
