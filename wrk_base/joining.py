"""A machine asks to become a member: one question to the process that its invitation names.

It is the only thing that can be said without a certificate. The link is encrypted like every other, to
the very key that the invitation brings, so nobody in between learns the secret or answers in its place.
"""

from __future__ import annotations

import asyncio
import contextlib

from . import errors
from .rpc import wire
from .rpc.identity import BadGreeting
from .rpc.link import Link
from .rpc.zmq_link import ZmqNetwork
from .security.certificate import Member
from .security.curve_keys import CurveKeys, ephemeral
from .security.invitation import Invitation, JoinGrant, JoinRequest

JOIN_SECONDS = 5.0


async def ask_to_join(invitation: Invitation, request: JoinRequest) -> JoinGrant:
    """What the mesh grants; the addresses of the invitation are tried in their order.

    Raises `Unavailable` where nobody answers, `PermissionDenied` with the reason of a refusal, and
    `Untrusted` for an answer that cannot be read.
    """
    network = ZmqNetwork(asyncio.get_running_loop(), membership=_Guest(invitation.key))
    tried = []
    try:
        for address in invitation.addresses:
            question = _Question(request.pack())
            link = network.dial(address, question)
            question.link = link
            try:
                async with asyncio.timeout(JOIN_SECONDS):
                    return JoinGrant.unpack(await question.answer)
            except TimeoutError:
                tried.append(f"{address}: no answer within {JOIN_SECONDS:g} s")
            except errors.Unavailable as error:
                tried.append(f"{address}: {error.message}")
            finally:
                link.close()
    finally:
        network.close()
    raise errors.Unavailable(
        f"nobody could be asked to let this machine in ({'; '.join(tried)}): is an orchestrator running on "
        "the machine that printed the invitation, and reachable from here?",
        not_started=True,
    )


class _Question:
    """The events of one link; `answer` becomes the grant's bytes."""

    def __init__(self, body: bytes) -> None:
        self.link: Link | None = None
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._body = body

    def on_up(self) -> None:
        assert self.link is not None
        self.link.send(wire.encode([(wire.JOIN, 0, 0, self._body)], 0))

    def on_message(self, message: bytes, chunk: memoryview | None = None) -> None:
        with contextlib.suppress(wire.BadMessage):
            for envelope in wire.decode(message)[1]:
                if self.answer.done() or not wire.well_formed(envelope):
                    continue
                if envelope[0] == wire.JOIN:
                    self.answer.set_result(envelope[3])
                elif envelope[0] == wire.REJECT:
                    self.answer.set_exception(errors.PermissionDenied(envelope[3]))

    def on_drained(self) -> None:
        """Each message was acted on as it came."""

    def on_down(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(errors.Unavailable(reason, not_started=True))


class _Guest:
    """The membership of who has none yet: it can dial one key, and nobody can dial it."""

    proof = b""
    serial = 0

    def __init__(self, server_key: bytes) -> None:
        self._keys: CurveKeys = ephemeral()
        self._server_key = server_key

    @property
    def public_key(self) -> bytes:
        return self._keys.public

    @property
    def secret_key(self) -> bytes:
        return self._keys.secret

    def key_of(self, endpoint: str) -> bytes | None:
        return self._server_key

    def lets_in(self, key: bytes) -> bool:
        return False

    def admit(self, worker_id: str, role: str, proof: bytes, key: bytes) -> Member:
        raise BadGreeting("nobody is met before this machine is a member")

    def stays(self, member: Member) -> bool:
        return False

    def revocations(self) -> bytes:
        return b""

    def hear_revocations(self, packed: bytes) -> bool:
        return False
