"""The limits of the RPC layer as the settings have them; the reasons stand in `config.py`."""

from __future__ import annotations

from .config import Settings
from .rpc.line import PeerLimits
from .rpc.link import LinkOptions
from .rpc.runner import RunLimits
from .rpc.server import ServerLimits


def link_options(settings: Settings) -> LinkOptions:
    """What the settings say of links."""
    rpc = settings.rpc
    return LinkOptions(
        max_frames=rpc.max_frames,
        max_message=rpc.max_message_size,
        handshake_timeout=rpc.handshake_timeout,
        heartbeat=rpc.heartbeat,
        heartbeat_timeout=rpc.heartbeat_timeout,
    )


def peer_limits(settings: Settings) -> PeerLimits:
    """What the settings say of calls to peers."""
    rpc = settings.rpc
    return PeerLimits(
        connect_timeout=rpc.connect_timeout / 1000,
        greeting_timeout=rpc.handshake_timeout / 1000,
        redial_min=rpc.redial_min / 1000,
        redial_max=rpc.redial_max / 1000,
        max_message=rpc.max_message_size,
        max_pending=rpc.max_pending,
        link_window=rpc.link_window,
        max_body=rpc.max_body,
        peer_bytes=rpc.peer_bytes,
        max_streams=rpc.max_streams,
        stream_items=rpc.stream_items,
        stream_bytes=rpc.stream_bytes,
    )


def server_limits(settings: Settings) -> ServerLimits:
    """What the settings say of serving them."""
    rpc = settings.rpc
    return ServerLimits(
        max_message=rpc.max_message_size,
        link_window=rpc.link_window,
        max_body=rpc.max_body,
        peer_bytes=rpc.peer_bytes,
        process_bytes=rpc.process_bytes,
        max_streams=rpc.max_streams,
        run=RunLimits(
            max_in_flight=rpc.max_in_flight,
            max_waiting=rpc.max_waiting,
            threads=rpc.threads,
            processes=rpc.processes,
        ),
    )
