"""`samovar serve` as a process: the set-up code, and accounts that are there after a restart."""

import httpx
import pytest

from tests.app.app_client import HEADER, PASSWORD
from tests.serving.processes import running

pytestmark = pytest.mark.slow
KEY = "an-environment-key-0123456789"


@pytest.fixture(scope="module")
def argv(models):
    """A small model; the server asks for keys, as one does that others can reach."""
    return (f"small={models._folder}", "--threads", "1", "--no-cache", "--require-key")


def started(tmp_path, argv):
    return running(tmp_path, *argv, environ={"SAMOVAR_API_KEY": KEY})


def setup_code(server):
    (line,) = [line for line in server.log_lines() if "url" in line]
    return line.get("setup_code")


def test_the_code_that_the_server_prints_makes_the_first_account_which_stays(argv, tmp_path):
    account = {"name": "Ada", "password": PASSWORD}
    with started(tmp_path, argv) as server, httpx.Client(base_url=f"{server.url}/app/api", headers=HEADER) as client:
        assert client.get("/me").json()["needs_setup"]
        assert client.get("/chats", headers={"x-api-key": KEY}).status_code == 401
        assert client.post("/setup", json=account).status_code == 403
        assert client.post("/setup", json={**account, "code": setup_code(server)}).status_code == 201
        assert client.post("/chats", json={"title": "Kept"}).status_code == 200
        cookies = dict(client.cookies)
        assert KEY not in server.log.read_text()
        assert PASSWORD not in server.log.read_text()
        assert cookies["samovar_session"] not in server.log.read_text()
        server.process.terminate()
        server.ended()
    with started(tmp_path, argv) as server:
        assert setup_code(server) is None
        with httpx.Client(base_url=f"{server.url}/app/api", headers=HEADER, cookies=cookies) as client:
            assert client.get("/me").json()["user"]["name"] == "Ada"
            assert [chat["title"] for chat in client.get("/chats").json()["chats"]] == ["Kept"]
    store = tmp_path / "store" / "app"
    assert store.stat().st_mode & 0o077 == 0
    assert not [path for path in store.iterdir() if path.stat().st_mode & 0o077]
    assert not [path for path in store.iterdir() if cookies["samovar_session"].encode() in path.read_bytes()]
