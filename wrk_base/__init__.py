"""What every process of the mesh is made of: workers, RPC, discovery, settings, log and state.

Knows nothing of orchestrators, racks or HTTP. Nothing is imported here, so that a process pays only
for the modules that it uses.
"""

__version__ = "0.1.0"
