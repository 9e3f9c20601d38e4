"""The orchestrator: keeps the registry, balances, watches health and routes."""
