"""What every process of the mesh is made of: workers, RPC, discovery, settings, log and state; and the
clients, for those that are no part of it.

Knows nothing of how orchestrators or racks do their work, nor of HTTP. Nothing is imported here before it
is asked for, so that a process pays only for the modules that it uses.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # the one in `typing` would be the most costly line here
if TYPE_CHECKING:
    from .client import Client
    from .rpc.request import Final
    from .sync_client import SyncClient

__all__ = ["Client", "Final", "SyncClient", "__version__"]
__version__ = "0.1.0"

_HOMES = {"Client": ".client", "Final": ".rpc.request", "SyncClient": ".sync_client"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name], __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
