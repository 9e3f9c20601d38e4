"""Who gets in over real sockets: pages, hosts, the admin key, API keys and TLS; and that no secret is logged.

The network is an address of this machine that is not loopback; where there is none, those tests say so.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from tests.fakes.aio import eventually, run
from tests.fakes.certificates import certificate_for
from tests.fakes.http_house import (
    REGISTER,
    ROUTE,
    SIMULATE,
    House,
    Raw,
    admin_key,
    house,
    network,
    running,
    service_of,
    settings_of,
)
from wrk_base import log as logging
from wrk_base.config import HttpSettings, RoutingSettings
from wrk_base.discovery.addresses import list_interfaces
from wrk_base.discovery.advert import is_loopback
from wrk_base.errors import StartError
from wrk_orchestrator.http import api_keys
from wrk_orchestrator.http.key_files import LOOK_S, KeyFile
from wrk_orchestrator.worker import OrchestratorService

OWN = [entry.address for entry in list_interfaces() if not is_loopback(entry.address)]
on_the_network = pytest.mark.skipif(not OWN, reason="this machine has no address but loopback")
CHAT = "/v1/chat/completions"
WORKER = {"workerId": "w9", "address": "tcp://127.0.0.1:9", "capabilities": {"models": ["m9"]}}


def made_key(state_dir: Path, name: str, **more: Any) -> str:
    """As `wrk key add NAME` does."""
    key = api_keys.made_of(name.encode().ljust(32, b"."))
    KeyFile(state_dir).add(api_keys.entry(key, name, 0, **more))
    return key


def bearer(key: str) -> dict[str, str]:
    """As in `curl -H "authorization: Bearer KEY"`."""
    return {"authorization": f"Bearer {key}"}


def lan(**changes: Any) -> HttpSettings:
    return HttpSettings(**{"interface": OWN[0], "without_tls": True, **changes})


# --- on this machine


def test_a_page_in_a_browser_here_reaches_nothing(tmp_path: Path) -> None:
    evil: list[dict[str, str]] = [
        {"host": "evil.example"},
        {"host": "evil.example:8003", "origin": "http://evil.example:8003"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ]
    asked = [
        ("GET", "/health", b""),
        ("GET", "/docs", b""),
        ("GET", "/api/workers", b""),
        ("GET", "/unheard", b""),
        ("OPTIONS", ROUTE, b""),
        ("POST", ROUTE, SIMULATE),
        ("POST", REGISTER, b"{}"),
        ("DELETE", "/api/workers/r1-1", b""),
    ]

    async def story() -> None:
        async with house(tmp_path) as h:
            for headers in evil:
                for method, path, body in asked:
                    plain = {"content-type": "text/plain", **headers}
                    said = await h.http.request(method, path, content=body, headers=plain)
                    status = 421 if "host" in headers else 403
                    assert (said.status_code, said.json()["error"]["code"]) == (
                        status,
                        "ERR_PERMISSION_DENIED",
                    )
                    assert not [name for name in said.headers if name.startswith("access-control")]
            assert h.rack.entered == 0
            assert (await h.http.get("/api/workers/r1-1")).status_code == 200

    run(story())


def test_a_form_sends_no_json_even_without_an_origin(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:
            for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
                said = await http.post(ROUTE, content=SIMULATE, headers={"content-type": kind})
                assert said.status_code == 415

    run(story())


def test_a_preflight_is_told_what_there_is_and_nothing_of_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:
            asks = {"access-control-request-method": "POST", "origin": service.http_endpoint}
            said = await http.options(ROUTE, headers=asks)
            assert said.status_code == 204
            assert not [name for name in said.headers if name.startswith("access-control")]

    run(story())


def test_further_names_are_set_and_its_own_address_is_one(tmp_path: Path) -> None:
    async def story() -> None:
        settings = HttpSettings(interface="127.0.0.5", allowed_hosts=["gpu-box.local"])
        async with running(tmp_path, http=settings) as service:
            assert service.http_endpoint.startswith("http://127.0.0.5:")
            async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
                for host, status in (("127.0.0.5", 200), ("gpu-box.local:8003", 200), ("other.local", 421)):
                    assert (await http.get("/health", headers={"host": host})).status_code == status

    run(story())


def test_a_key_that_every_client_of_its_kind_sends_is_ignored_here(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            said = await h.http.post(ROUTE, content=SIMULATE, headers=bearer("sk-no-needed"))
            assert said.status_code == 200

    run(story())


def test_the_registry_is_changed_with_the_admin_key_alone(tmp_path: Path) -> None:
    """curl -H "authorization: Bearer $(cat STATE_DIR/admin.key)" or -H "x-wrk-admin-key: $(cat ...)"."""

    async def story() -> None:
        async with running(tmp_path) as service, httpx.AsyncClient(base_url=service.http_endpoint) as http:
            key = admin_key(tmp_path)
            assert key not in str(service.status()) + str(service.service_status())
            for shown in ({}, bearer(key[:-1]), bearer("sk-wrk-" + key), {"x-wrk-admin-key": ""}):
                for said in (
                    await http.post(REGISTER, json=WORKER, headers=shown),
                    await http.delete("/api/workers/w9", headers=shown),
                ):
                    assert (said.status_code, said.json()["error"]["code"]) == (401, "ERR_UNAUTHENTICATED")
                    assert said.headers["www-authenticate"] == "Bearer"
                    assert "admin.key of the state directory of the orchestrator" in said.text
                    assert str(tmp_path) not in said.text
            assert (await http.get("/api/workers/w9")).status_code == 404
            for shown in (bearer(key), {"x-wrk-admin-key": key}):
                assert (await http.post(REGISTER, json=WORKER, headers=shown)).status_code == 200
                assert (await http.delete("/api/workers/w9", headers=shown)).status_code == 200
            for path in ("/api//workers/register", "/api/workers/register/", "/api/workers%2Fregister"):
                assert (await http.post(path, json=WORKER)).status_code in (401, 404, 405)

    run(story())


def test_an_admin_key_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        async with network() as net:
            (tmp_path / "admin.key").write_text("A" * 43)
            (tmp_path / "admin.key").chmod(0o644)
            with pytest.raises(StartError, match="chmod 600"):
                await service_of(net, tmp_path).start()

    run(story())


# --- on the network


@on_the_network
def test_it_does_not_start_there_without_keys_and_tls_and_says_what_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        async with network() as net:
            service = service_of(net, tmp_path, settings_of(http=HttpSettings(interface=OWN[0])))
            with pytest.raises(StartError) as caught:
                await service.start()
            assert "wrk key add NAME" in str(caught.value)
            assert "--http.tlsCertificate" in str(caught.value)
            assert service.endpoint == ""  # RPC did not listen either

    run(story())


@on_the_network
def test_what_was_waived_is_warned_of_at_every_start(tmp_path: Path) -> None:
    async def story() -> None:
        with capture_logs() as logs:
            async with running(tmp_path, http=lan(without_keys=True)) as service:
                assert service.http_endpoint.startswith(f"http://{OWN[0]}:")
                async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
                    assert (await http.get("/api/workers")).status_code == 200
                    assert (await http.get("/", headers={"host": "evil.example"})).status_code == 421
                    assert (await http.post(REGISTER, json=WORKER)).status_code == 401
        warned = {event["event"] for event in logs if event["log_level"] == "warning"}
        assert {"http.without_keys", "http.without_tls"} <= warned

    run(story())


@asynccontextmanager
async def keyed_house(tmp_path: Path, **changes: Any) -> AsyncIterator[House]:
    async with house(tmp_path, http=lan(**changes)) as h:
        h.http.headers.pop("x-wrk-admin-key")
        yield h


@on_the_network
def test_there_everything_but_being_watched_takes_a_key(tmp_path: Path) -> None:
    key = made_key(tmp_path, "alice")

    async def story() -> None:
        async with keyed_house(tmp_path) as h:
            for method, path in (("GET", "/health"), ("GET", "/ready"), ("HEAD", "/health")):
                assert (await h.http.request(method, path)).status_code == 200
            told = set()
            for shown in ({}, bearer(key + "x"), bearer(admin_key(tmp_path)), {"x-api-key": key}):
                for method, path in (
                    ("GET", "/docs"),
                    ("GET", "/unheard"),
                    ("POST", ROUTE),
                    ("OPTIONS", ROUTE),
                ):
                    said = await h.http.request(method, path, content=SIMULATE, headers=shown)
                    assert said.status_code == 401
                    told.add(said.json()["error"]["message"])
            assert len(told) == 1
            good = await h.http.post(ROUTE, json={"modelId": "m1", "inputData": 1}, headers=bearer(key))
            assert good.status_code == 200
            assert (await h.http.get("/openapi.json", headers=bearer(key))).status_code == 200
            assert (await h.http.post(REGISTER, json=WORKER, headers=bearer(key))).status_code == 401
            both = {**bearer(key), "x-wrk-admin-key": admin_key(tmp_path)}
            assert (await h.http.post(REGISTER, json=WORKER, headers=both)).status_code == 200
            admin = bearer(admin_key(tmp_path))
            assert (await h.http.delete("/api/workers/w9", headers=admin)).status_code == 200

    run(story())


@on_the_network
def test_a_key_has_its_models_and_its_rate(tmp_path: Path) -> None:
    some, few = made_key(tmp_path, "some", models=["m2"]), made_key(tmp_path, "few", rate=2)

    async def story() -> None:
        async with keyed_house(tmp_path) as h:
            for path, body in (
                (ROUTE, {"modelId": "m1", "inputData": 1}),
                ("/api/workers/find", {"modelId": "m1"}),
            ):
                said = await h.http.post(path, json=body, headers=bearer(some))
                assert (said.status_code, said.json()["error"]["code"]) == (403, "ERR_PERMISSION_DENIED")
                assert "'m1'" in said.json()["error"]["message"]
            assert h.rack.entered == 0
            statuses = [(await h.http.post(ROUTE, content=SIMULATE, headers=bearer(few))) for _ in range(3)]
            assert [said.status_code for said in statuses] == [200, 200, 429]
            assert 1 <= int(statuses[-1].headers["retry-after"]) <= 30

    run(story())


@on_the_network
def test_a_key_for_some_models_reaches_no_other_by_an_alias_or_a_fallback(tmp_path: Path) -> None:
    gone, one = made_key(tmp_path, "gone", models=["gone"]), made_key(tmp_path, "one", models=["gone", "m1"])
    routing = RoutingSettings(aliases={"alias": "m1"}, fallbacks={"gone": ["m1"]})

    async def story() -> None:
        async with house(tmp_path, http=lan(), routing=routing) as h:
            h.http.headers.pop("x-wrk-admin-key")
            for path, name in ((ROUTE, "modelId"), ("/api/workers/find", "modelId"), (CHAT, "model")):

                async def status(model: str, key: str, path: str = path, name: str = name) -> int:
                    body = {name: model, "inputData": 1}
                    return (await h.http.post(path, json=body, headers=bearer(key))).status_code

                assert [await status("alias", gone), await status("gone", gone)] == [403, 404]
                assert [await status("alias", one), await status("gone", one)] == [200, 200]
            assert h.rack.entered == 4
            for key, names in ((gone, []), (one, ["alias", "gone", "m1"])):
                listed = (await h.http.get("/v1/models", headers=bearer(key))).json()["data"]
                assert [model["id"] for model in listed] == names

    run(story())


@on_the_network
def test_a_removed_key_ends_nothing_that_is_under_way_and_opens_nothing_more(tmp_path: Path) -> None:
    key = made_key(tmp_path, "alice")

    async def story() -> None:
        async with keyed_house(tmp_path) as h:
            h.http.headers.update(bearer(key))
            held = h.hold()
            await h.held()
            KeyFile(tmp_path).remove("alice")
            await asyncio.sleep(2 * LOOK_S)
            assert (await h.http.get("/api/workers")).status_code == 401
            h.rack.go_on.set()
            assert (await held).status_code == 200
            another = made_key(tmp_path, "bob")
            await asyncio.sleep(2 * LOOK_S)
            assert (await h.http.get("/api/workers")).status_code == 401
            assert (await h.http.get("/api/workers", headers=bearer(another))).status_code == 200

    run(story())


@on_the_network
def test_a_large_body_without_a_key_is_not_waited_for(tmp_path: Path) -> None:
    made_key(tmp_path, "alice")

    async def story() -> None:
        async with keyed_house(tmp_path) as h:
            raw = await h.connect()
            raw.send(f"POST {ROUTE} HTTP/1.1\nhost: x\nexpect: 100-continue\ncontent-length: 1000000")
            status, headers, _ = await raw.answer()
            assert (status, headers["connection"]) == (401, "close")
            await raw.close()

    run(story())


@on_the_network
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_with_keys_and_tls_it_starts_there_without_a_warning(loop: Any, tmp_path: Path) -> None:
    key = made_key(tmp_path, "alice")
    files = certificate_for(OWN[0], tmp_path)

    async def story() -> None:
        with capture_logs() as logs:
            async with running(tmp_path, http=lan(without_tls=False, **files)) as service:
                assert service.http_endpoint.startswith(f"https://{OWN[0]}:")
                trust = ssl.create_default_context(cafile=files["tls_certificate"])
                async with httpx.AsyncClient(base_url=service.http_endpoint, verify=trust) as http:
                    for body in (SIMULATE, SIMULATE.replace(b"1", b'"%s"' % (b"x" * 3_000_000))):
                        said = await http.post(ROUTE, content=body, headers=bearer(key))
                        assert said.status_code == 200
                plain = await Raw.connect(service.http_endpoint.replace("https", "http"))
                plain.send("GET /health HTTP/1.1\nhost: x")
                assert b"HTTP/1.1" not in await plain.end()
                await plain.close()
        assert not [event for event in logs if event["event"].startswith("http.without")]

    run(story(), loop)


def test_whoever_begins_tls_and_goes_no_further_is_hung_up_on(tmp_path: Path) -> None:
    settings = HttpSettings(header_timeout=200, **certificate_for("127.0.0.1", tmp_path))

    async def story() -> None:
        async with running(tmp_path, http=settings) as service:
            raw = await Raw.connect(service.http_endpoint.replace("https", "http"))
            raw.writer.write(b"\x16\x03\x01\x02\x00")
            assert await raw.end() == b""
            await raw.close()

    run(story(), "uvloop")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_whoever_takes_nothing_is_cut_off_behind_tls_too(loop: Any, tmp_path: Path) -> None:
    files = certificate_for("127.0.0.1", tmp_path)
    trust = ssl.create_default_context(cafile=files["tls_certificate"])

    def ask_and_go_deaf(port: int) -> None:
        """Returns once the server is gone; in a thread, for a socket that nobody reads ahead of us."""
        with socket.create_connection(("127.0.0.1", port)) as plain:
            deaf = trust.wrap_socket(plain, server_hostname="127.0.0.1")
            body = b'{"modelId":"m1","inputData":"%s"}' % (b"x" * 8_000_000)
            head = f"POST {ROUTE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            deaf.sendall(head.encode() + body)
            try:
                while True:  # goes well until the kernel has heard that nobody is there
                    deaf.sendall(b"\r\n")
                    time.sleep(0.01)
            except OSError:
                pass

    async def story() -> None:
        async with house(tmp_path, http=HttpSettings(header_timeout=60_000, write_timeout=300, **files)) as h:
            port = int(h.service.http_endpoint.rpartition(":")[2])
            await asyncio.to_thread(ask_and_go_deaf, port)
            assert h.rack.entered == 1

    run(story(), loop)


# --- what is logged


class Failing(OrchestratorService):
    def load_balancing_stats(self) -> dict[str, Any]:
        raise ZeroDivisionError


@on_the_network
def test_no_prompt_and_no_key_is_ever_logged(tmp_path: Path) -> None:
    """Everything that fails, at the lowest level of the log, with secrets wherever a caller can put them."""
    key, prompt = made_key(tmp_path, "alice", models=["m1"]), "a-secret-prompt"
    log = io.StringIO()

    async def story() -> None:
        async with network() as net:
            service = service_of(net, tmp_path, settings_of(http=lan()), kind=Failing)
            await service.start()
            secrets = [key, prompt, admin_key(tmp_path)]
            async with httpx.AsyncClient(base_url=service.http_endpoint) as http:
                shown = {**bearer(key), "x-wrk-admin-key": secrets[2], "cookie": prompt}
                for headers in (shown, bearer(key + "x"), bearer(secrets[2]), {**shown, "x-api-key": key}):
                    for model in ("m1", "m2"):
                        body = {"modelId": model, "inputData": prompt, "options": {"simulate": model == "m1"}}
                        await http.post(ROUTE, json=body, headers=headers)
                        await http.post("/api/workers/find", json=body, headers=headers)
                        await http.post(REGISTER, json=body, headers=headers)
                    await http.post(ROUTE, content=f'{{"{prompt}'.encode(), headers=headers)
                    failed = await http.get(f"/api/load-balancer?{prompt}", headers=headers)
                    assert failed.status_code in (401, 500)
            for noise in (
                f"POST {ROUTE} HTTP/1.1\nhost: x\nauthorization: Bearer {key}\nbad header",
                f"{prompt}",
            ):
                raw = await Raw.connect(service.http_endpoint)
                raw.send(noise)
                await raw.end()
                await raw.close()
            await service.stop()
        text = log.getvalue()
        assert "http.failed" in text
        assert [secret for secret in secrets if secret in text] == []

    before = structlog.get_config()
    try:
        logging.configure(format="json", level="debug", stream=log)
        run(story())
    finally:
        structlog.configure(**before)


def test_a_connection_that_is_full_of_waiting_requests_comes_to_its_end(tmp_path: Path) -> None:
    async def story() -> None:
        async with house(tmp_path) as h:
            raw = await h.connect()
            raw.writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000)
            answers = (await raw.end()).count(b"HTTP/1.1 200 ")
            assert 1 <= answers < 1000
            await raw.close()
            await eventually(lambda: h.load() == 0)

    run(story(), "uvloop")
