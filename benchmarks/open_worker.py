"""A worker on open links: what it would be without transport security, to show what that costs.

The product has no such switch; this is `boot` with a network that has no membership. Arguments are those
of `wrk worker`; its status file says where it listens.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from random import Random

import uvloop

from wrk_base import boot, log
from wrk_base.discovery import combine
from wrk_base.discovery.static import StaticDiscovery
from wrk_base.rpc.identity import Identity
from wrk_base.rpc.zmq_link import ZmqNetwork
from wrk_base.rpc_limits import link_options
from wrk_base.status import StatusFile
from wrk_base.worker import WorkerContext

LOOPBACK = "127.0.0.1"


async def live(argv: list[str]) -> None:
    arguments = boot.parse(argv, {})
    assert arguments.state_dir is not None
    kind = boot.find_class(arguments.wtype)
    loaded = boot.load_settings(kind, arguments, {})
    settings, quiet = loaded.settings, log.get_logger()
    network = ZmqNetwork(asyncio.get_running_loop(), link_options(settings))
    context = WorkerContext(
        settings=settings,
        section=loaded.section,
        identity=Identity(f"{arguments.rack}-open", 1, kind.role, arguments.rack),
        wtype=arguments.wtype,
        rack=arguments.rack,
        state_dir=arguments.state_dir,
        host=LOOPBACK,
        network=network,
        discovery=combine(StaticDiscovery(settings.discovery.peers), log=quiet),
        rng=Random(1),
        log=quiet,
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    worker = kind(context)
    await worker.start()
    StatusFile(arguments.state_dir / "status" / f"{arguments.rack}.json").write(worker.status())
    await stopped.wait()
    await worker.stop()
    network.close()


if __name__ == "__main__":
    log.configure(format="json", level="error")
    boot.be_quick()
    uvloop.run(live(sys.argv[1:]))
