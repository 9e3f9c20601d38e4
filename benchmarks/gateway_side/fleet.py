"""Many mock racks in one process, each with its own id, key, links and beats.

    python -m benchmarks.gateway_side.fleet STATE_DIR RACKS

To an orchestrator they are as many machines. They find it by its status file, say so by one line on
standard output when all of them listen, and end when standard input does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random

import uvloop

from benchmarks.gateway_side.mock_rack import MockRack
from benchmarks.mesh import NAME, member
from benchmarks.side_by_side import cell
from wrk_base import boot, descriptors, log
from wrk_base.discovery import combine
from wrk_base.discovery.local import LocalDiscovery
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.rpc_limits import link_options
from wrk_base.worker import WorkerContext


def _rack(state: Path, number: int) -> MockRack:
    name = f"fleet-{number}"
    arguments = boot.Arguments(rack=name, state_dir=state, flags=[("interface", "127.0.0.1")])
    loaded = boot.load_settings(MockRack, arguments, {})
    membership, quiet = member(state, name, "rack"), log.get_logger()
    network = ZmqNetwork(asyncio.get_running_loop(), link_options(loaded.settings), membership)
    return MockRack(
        WorkerContext(
            settings=loaded.settings,
            section=loaded.section,
            identity=Identity(name, 1, "rack", name),
            wtype="mock",
            rack=name,
            state_dir=state,
            host="127.0.0.1",
            network=network,
            discovery=combine(LocalDiscovery(state, NAME), log=quiet, learn=membership.book.learn),
            rng=Random(number),
            log=quiet,
            membership=membership,
        )
    )


async def _live(state: Path, racks: int) -> None:
    for number in range(racks):
        await _rack(state, number).start()
    cell.ready("listening")
    await asyncio.Event().wait()


if __name__ == "__main__":
    log.configure(format="json", level="error")
    descriptors.raise_limit()
    boot.be_quick()
    uvloop.run(_live(Path(sys.argv[1]), int(sys.argv[2])))
