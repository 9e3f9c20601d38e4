"""A stream that another rack began, as the one that goes on with it gets it.

What the caller has comes packed in the request's head; its rack alone unpacks it. The caller has room for no
more than it granted, so a stream that goes on has no items for free as one that begins has.
"""

from __future__ import annotations

from msgspec.structs import replace

from . import contract, errors
from .rpc import wire
from .rpc.request import Request


def taken_up(request: Request, head: contract.RackHead, offer: contract.Description) -> contract.RackHead:
    """The head with `resume_from` unpacked. Raises `BadRequest`, or `Unavailable` where others may go on."""
    if not offer.resumable or not request.wants_stream:
        what = (
            "goes on with no stream that another began" if request.wants_stream else "was asked for no stream"
        )
        raise errors.Unavailable(f"{head.model_id}: this rack {what}", not_started=True)
    progress = contract.parse(contract.Progress, head.options.resume_from, what="options.resumeFrom")
    try:
        items = [wire.unpack_body(item, progress.content_type) for item in progress.items]
    except ValueError as error:
        raise errors.BadRequest(f"options.resumeFrom: an item is malformed: {error}") from None
    request.granted = (progress.granted_items, progress.granted_bytes)
    return replace(head, options=replace(head.options, resume_from=items))
