"""`wrk` against a real mesh, as a person and as a script use it.

One orchestrator and one simulated rack serve the whole module; every command is a process of its own
that finds them as a user's would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.fakes.machine import Machine, Ran
from tests.fakes.processes import ProcessHandle, join_machine, start_worker, wait_until
from wrk_base.security.mesh_files import MeshFiles

NOBODY = "tcp://127.0.0.1:1"


class Mesh:
    """An orchestrator, the rack r1 with models m1 and m2, and a shell in which `wrk` is called."""

    def __init__(self, folder: Path, orchestrator: ProcessHandle, rack: ProcessHandle) -> None:
        self.folder, self.orchestrator, self.rack = folder, orchestrator, rack
        self._here = Machine(folder, orchestrator.state.name)
        self._machines = count()

    def wrk(self, *words: str, stdin: str = "", **environment: str) -> Ran:
        return self._here.wrk(*words, stdin=stdin, **environment)

    def another_machine(self) -> dict[str, str]:
        """The environment of a shell on a machine of the mesh where nothing runs."""
        name = f"machine-{next(self._machines)}"
        return {"WRK_STATE_DIR": str(join_machine(self.folder, name, "client", "operator"))}

    def is_complete(self) -> bool:
        listed = self.wrk("workers", "--json").json["workers"]
        return [(worker["state"], worker["foundBy"]) for worker in listed] == [("healthy", "mdns")]


def with_key(worker: ProcessHandle) -> str:
    """The address that anybody can dial who has heard of nothing."""
    return f"{worker.endpoint}#{worker.status['publicKey']}"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    rack = ["--wtype", "wrk-rack-sim", "--rack", "r1", "--models", "m1,m2", "--capacity", "4"]
    with (
        start_worker(["--wtype", "wrk-orchestrator", "--rpc.port", "0"], folder) as orchestrator,
        start_worker(rack, folder) as r1,
    ):
        made = Mesh(folder, orchestrator, r1)
        wait_until(made.is_complete, what="the rack is in the mesh")
        yield made


# --- workers and status


def test_a_table_lists_the_workers(mesh: Mesh) -> None:
    ran = mesh.wrk("workers")
    assert (ran.code, ran.err) == (0, "")
    (line,) = [line for line in ran.out.splitlines() if mesh.rack.worker_id in line]
    for fact in ("r1", "m1, m2", "healthy", mesh.rack.endpoint, "mdns", "0 of 4"):
        assert fact in line


def test_a_script_gets_the_same_as_json(mesh: Mesh) -> None:
    (worker,) = mesh.wrk("workers", "--json").json["workers"]
    assert (worker["workerId"], worker["address"]) == (mesh.rack.worker_id, mesh.rack.endpoint)
    assert worker["capabilities"]["models"] == ["m1", "m2"]


def test_the_status_is_consolidated(mesh: Mesh) -> None:
    told = mesh.wrk("status", "--json").json
    assert {"registry", "loadBalancer", "health", "rpcClients"} <= told.keys()
    assert told["workerId"] == mesh.orchestrator.worker_id
    shown = mesh.wrk("status").out
    for fact in (
        mesh.orchestrator.worker_id,
        mesh.orchestrator.endpoint,
        "1 registered, 1 healthy",
        "m1 (1)",
    ):
        assert fact in shown


# --- how the orchestrator is found


def test_it_is_found_by_mdns_where_no_status_file_tells(mesh: Mesh) -> None:
    assert mesh.wrk("workers", "--json", **mesh.another_machine()).json["total"] == 1


def test_it_is_found_as_a_static_peer_where_mdns_is_off(mesh: Mesh) -> None:
    quiet = {**mesh.another_machine(), "WRK_DISCOVERY__MDNS": "false"}
    peers = ",".join(with_key(worker) for worker in (mesh.rack, mesh.orchestrator))
    assert mesh.wrk("workers", "--json", WRK_DISCOVERY__PEERS=peers, **quiet).json["total"] == 1
    assert "mDNS is switched off" in mesh.wrk("workers", **quiet).refused()


def test_it_is_dialled_where_the_user_says(mesh: Mesh) -> None:
    address, quiet = mesh.orchestrator.endpoint, {**mesh.another_machine(), "WRK_DISCOVERY__MDNS": "false"}
    assert mesh.wrk("workers", "--json", "--peer", with_key(mesh.orchestrator), **quiet).json["total"] == 1
    refused = mesh.wrk("workers", "--peer", address, **quiet).refused()
    assert "its public key is not known here" in refused
    assert "`wrk mesh`" in refused
    assert mesh.wrk("workers", "--json", "--peer", address).json["total"] == 1  # a status file tells the key
    heard = mesh.wrk("workers", "--json", "--peer", address, **mesh.another_machine())
    assert heard.json["total"] == 1  # mDNS does
    assert "ERR_UNAVAILABLE" in mesh.wrk("workers", "--peer", NOBODY).refused()


def test_a_wrong_key_is_a_link_that_does_not_come_up(mesh: Mesh) -> None:
    quiet = {**mesh.another_machine(), "WRK_DISCOVERY__MDNS": "false"}
    wrong = f"{mesh.orchestrator.endpoint}#{mesh.rack.status['publicKey']}"
    assert "ERR_UNAVAILABLE" in mesh.wrk("workers", "--peer", wrong, **quiet).refused()


def test_a_status_file_of_a_crash_misleads_nobody(mesh: Mesh) -> None:
    """Its port may be anybody's by now: here it is the rack's."""
    machine = mesh.another_machine()
    left = {**mesh.orchestrator.status, "endpoint": mesh.rack.endpoint, "instanceId": "main-0"}
    status = Path(machine["WRK_STATE_DIR"]) / "status"
    status.mkdir()
    (status / "wrk-orchestrator-main.json").write_text(json.dumps(left))
    assert mesh.wrk("workers", "--json", **machine).json["total"] == 1


def test_on_a_mesh_where_nobody_is_a_person_is_told_what_to_do(mesh: Mesh) -> None:
    MeshFiles(mesh.orchestrator.state, "nobody-is-here").create("first", time.time())
    line = mesh.wrk("workers", "--mesh", "nobody-is-here").refused()
    assert line.startswith("wrk: ERR_UNAVAILABLE: no orchestrator of mesh 'nobody-is-here' answers")
    assert "wrk up" in line
    assert "--peer tcp://host:port" in line


def test_on_a_machine_without_the_mesh_a_person_is_told_what_to_do(mesh: Mesh) -> None:
    line = mesh.wrk("workers", "--mesh", "another").refused()
    assert line.startswith("wrk: ERR_UNAUTHENTICATED: this machine is in no mesh 'another'")
    for advice in ("start an orchestrator here", "`wrk join STRING`", "`wrk invite`"):
        assert advice in line


# --- infer


def test_infer_prints_the_text_and_says_beside_it_who_answered(mesh: Mesh) -> None:
    ran = mesh.wrk("infer", "m1", "hello")
    assert ran.code == 0
    assert len(ran.out.split()) == 8  # words of a simulated answer
    assert ran.err.startswith(f"simulated by {mesh.rack.worker_id} in ")


def test_infer_with_a_key_is_not_run_again_for_who_asks_again(mesh: Mesh) -> None:
    words = ("infer", "m1", "hello", "--idempotency-key", "order 7", "--json")
    first, again = mesh.wrk(*words).json, mesh.wrk(*words).json
    assert (first["idempotency"], again["idempotency"]) == ("ran", "stored")
    assert (again["result"], again["workerId"]) == (first["result"], first["workerId"])
    assert mesh.wrk("infer", "m1", "hello", "--idempotency-key", "order 7").err.rstrip().endswith("stored")
    elsewhere = mesh.wrk(*words, "--peer", with_key(mesh.orchestrator), **mesh.another_machine()).json
    assert elsewhere["idempotency"] == "ran"  # another machine is another caller
    other = mesh.wrk("infer", "m1", "goodbye", "--idempotency-key", "order 7", "--json")
    assert other.code == 1
    assert "ERR_IDEMPOTENCY_KEY_REUSED" in other.err


def test_infer_gives_a_script_the_whole_answer(mesh: Mesh) -> None:
    answer = mesh.wrk("infer", "m2", "hello", "--json").json
    assert (answer["workerId"], answer["attempts"]) == (mesh.rack.worker_id, 1)
    assert answer["result"]["model"] == "m2"
    assert answer["ms"] > 0


def test_the_input_may_come_from_a_file_from_standard_input_or_as_json(mesh: Mesh) -> None:
    plain = mesh.wrk("infer", "m1", "grün").out
    (mesh.folder / "prompt.txt").write_text("grün", "utf-8")
    assert mesh.wrk("infer", "m1", "@prompt.txt").out == plain
    assert mesh.wrk("infer", "m1", "-", stdin="grün").out == plain
    assert mesh.wrk("infer", "m1", '{"prompt": "grün"}', "--input-json").out == plain
    three = mesh.wrk("infer", "m1", "-", "--input-json", stdin='{"prompt": "a", "sim": {"words": 3}}')
    assert len(three.out.split()) == 3


def test_a_text_becomes_what_the_task_wants(mesh: Mesh) -> None:
    plain = mesh.wrk("infer", "m1", "hello").out
    for task in ("chat", "completion", "response"):
        assert mesh.wrk("infer", "m1", "hello", "--task", task).out == plain
    answer = mesh.wrk("infer", "m1", "hello", "--task", "embedding", "--json").json
    assert len(answer["result"]["data"]) == 1
    documents = json.dumps({"query": "a", "documents": ["b", "a"]})
    ranked = mesh.wrk("infer", "m1", documents, "--input-json", "--task", "rerank", "--json").json
    assert [found["index"] for found in ranked["result"]["results"]] == [1, 0]
    for task, advice in (("rerank", "--input-json"), ("speech", "there are raw, chat,")):
        ran = mesh.wrk("infer", "m1", "hello", "--task", task)
        assert ran.code == 2
        assert advice in ran.err


def test_an_unknown_model_is_refused_with_those_that_exist(mesh: Mesh) -> None:
    line = mesh.wrk("infer", "m9", "hello").refused()
    assert line.startswith("wrk: ERR_NO_WORKERS_AVAILABLE: model m9")
    assert line.endswith("; there are m1, m2\n")


def test_a_deadline_that_passes_is_said_by_the_mesh(mesh: Mesh) -> None:
    slow = json.dumps({"prompt": "a", "sim": {"hang": True}})
    ran = mesh.wrk("infer", "m1", slow, "--input-json", "--timeout", "0.2", "--json")
    assert (ran.code, ran.out) == (1, "")
    error = json.loads(ran.err)["error"]
    assert error["code"] == "ERR_DEADLINE_EXCEEDED"
    assert "--timeout" in error["advice"]


def test_what_a_rack_raises_is_told(mesh: Mesh) -> None:
    failing = json.dumps({"prompt": "a", "sim": {"fail": "out of memory"}})
    line = mesh.wrk("infer", "m1", failing, "--input-json").refused()
    assert "out of memory" in line
    assert mesh.rack.worker_id in line


# --- call


@pytest.mark.parametrize("way", ["id", "name", "address"])
def test_any_worker_can_be_called_peer_to_peer(mesh: Mesh, way: str) -> None:
    peer = {"id": mesh.rack.worker_id, "name": "r1", "address": mesh.rack.endpoint}[way]
    assert mesh.wrk("call", "getInstanceId", "--peer", peer).json == {"instanceId": mesh.rack.worker_id}
    assert mesh.wrk("call", "ping", '{"a": [1, "x"]}', "--peer", peer, "--json").json == {"a": [1, "x"]}


def test_without_a_peer_it_is_the_orchestrator_that_is_called(mesh: Mesh) -> None:
    assert mesh.wrk("call", "getInstanceId").json == {"instanceId": mesh.orchestrator.worker_id}
    by_id = mesh.wrk("call", "getInstanceId", "--peer", mesh.orchestrator.worker_id)
    assert by_id.json == {"instanceId": mesh.orchestrator.worker_id}


def test_a_rack_is_found_by_its_id_without_status_files(mesh: Mesh) -> None:
    ran = mesh.wrk("call", "getInstanceId", "--peer", mesh.rack.worker_id, **mesh.another_machine())
    assert ran.json == {"instanceId": mesh.rack.worker_id}


def test_inference_can_be_called_past_the_orchestrator(mesh: Mesh) -> None:
    body = json.dumps({"modelId": "m1", "inputData": "hello", "options": {}})
    answer = mesh.wrk("call", "runInference", body, "--peer", "r1").json
    assert answer["result"]["text"] == mesh.wrk("infer", "m1", "hello").out.strip()


def test_an_unknown_worker_or_method_is_refused(mesh: Mesh) -> None:
    assert "ERR_WORKER_NOT_FOUND" in mesh.wrk("call", "ping", "--peer", "r9-00000000").refused()
    assert "ERR_METHOD_NOT_FOUND" in mesh.wrk("call", "zork", "--peer", "r1").refused()
