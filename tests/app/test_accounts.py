"""Who may come in: `local`, accounts and their sessions, admins; and what an API key and a session are of no use for."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY
from starlette.responses import Response

from samovar.app.dashboard import Dashboard
from samovar.app.login_limits import LoginLimits
from samovar.app.more_routes import more_routes
from samovar.app.mount import ROUTES
from samovar.app.passwords import Passwords
from samovar.app.sessions import set_cookie
from samovar.serving.guard import Guard
from samovar.serving.keys import KeyFile
from samovar.serving.limits import LimitReached
from tests.app.app_client import HEADER, PASSWORD, served_app


@pytest.fixture
def page(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path) as running:
        yield running


@pytest.fixture
def outside(hybrid, tmp_path):
    """A server that others can reach."""
    with served_app({"hybrid": hybrid}, tmp_path, is_private=False) as running:
        yield running


def code_of(page):
    return asyncio.run(page.app.callers.code_to_print())


def error_of(reply, status):
    assert reply.status_code == status, reply.text
    assert reply.json()["error"].keys() == {"code", "message"}
    return reply.json()["error"]["code"]


def test_on_this_machine_everybody_is_local_until_there_is_an_account(page):
    me = page.get("/me").json()
    assert (me["user"]["id"], me["user"]["is_admin"]) == ("local", True)
    assert (me["needs_login"], me["needs_setup"]) == (False, False)
    assert me["limits"] == {"file_bytes": 25 << 20, "message_chars": 1_000_000}
    assert code_of(page) is None
    assert page.get("/users").json() == {"users": []}


def test_the_first_account_is_an_admins_and_gets_what_local_had(page):
    chat = page.new_chat(title="Kept")
    assert error_of(page.post("/users", name="bob", password=PASSWORD), 400) == "invalid_value"
    assert page.post("/users", name="Ada", password=PASSWORD, is_admin=True).status_code == 201
    assert error_of(page.get("/chats"), 401) == "needs_login"
    me = page.get("/me").json()
    assert (me["user"], me["needs_login"], me["needs_setup"]) == (None, True, False)
    ada = page.logged_in("ADA")
    assert [one["id"] for one in ada.get("/chats").json()["chats"]] == [chat["id"]]
    assert ada.get("/me").json()["user"]["name"] == "Ada"


def test_a_database_with_accounts_that_is_lost_lets_nobody_in_without_the_code(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path) as page:
        page.with_accounts()
    (tmp_path / "app" / "app.sqlite3").write_bytes(b"no database at all" * 500)
    with served_app({"hybrid": hybrid}, tmp_path) as page:
        me = page.get("/me").json()
        assert (me["user"], me["needs_setup"], me["notice"]) == (None, True, None)
        assert page.get("/chats").status_code == 401
        assert page.post("/setup", name="Eve", password=PASSWORD).status_code == 403
        code = asyncio.run(page.app.callers.code_to_print())
        assert page.post("/setup", name="Ada", password=PASSWORD, code=code).status_code == 201
        (kept,) = (tmp_path / "app").glob("app.sqlite3.damaged-*")
        notice = page.get("/me").json()["notice"]
        assert (notice["code"], notice["path_name"]) == ("database_set_aside", kept.name)
        page.post("/users", name="bob", password=PASSWORD)
        assert page.logged_in("bob").get("/me").json()["notice"] is None, "it is for admins"
    with served_app({"hybrid": hybrid}, tmp_path) as page:
        assert page.logged_in("ada").get("/me").json()["notice"] is None, "a sound file has nothing to tell"


def test_local_is_told_of_a_damaged_database(hybrid, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.sqlite3").write_bytes(b"no database at all" * 500)
    with served_app({"hybrid": hybrid}, tmp_path) as page:
        me = page.get("/me").json()
    assert (me["user"]["id"], me["notice"]["code"]) == ("local", "database_set_aside")


def test_a_proxys_guest_is_not_local(page):
    with page.browser(**{"X-Forwarded-For": "10.1.2.3"}) as client:
        assert client.get("/me").json()["user"] is None
        assert error_of(client.get("/chats"), 401) == "needs_login"
        assert error_of(client.post("/setup", json={"name": "x", "password": PASSWORD}), 403) == "wrong_code"


def test_a_page_that_may_use_the_api_is_not_local(hybrid, tmp_path):
    origin = "https://pages.example"
    with served_app({"hybrid": hybrid}, tmp_path, guard=Guard(origins=(origin,))) as page:
        with page.browser(Origin=origin) as client:
            assert page.client.get("/v1/models", headers={"Origin": origin}).status_code == 200
            for reply in (client.get("/chats"), client.post("/chats", json={}), client.get("/backup")):
                assert error_of(reply, 401) == "needs_login"
        assert error_of(page.client.get("/app/api/chats", headers={"Origin": "http://["}), 401) == "needs_login"
        with page.browser(Origin=str(page.client.base_url).rstrip("/")) as client:
            assert client.post("/chats", json={"title": "own"}).status_code == 200


def test_beyond_loopback_the_first_account_takes_the_code_that_the_server_prints(outside):
    me = outside.get("/me").json()
    assert (me["user"], me["needs_login"], me["needs_setup"]) == (None, False, True)
    assert error_of(outside.get("/chats"), 401) == "needs_login"
    assert error_of(outside.post("/login", name="local", password=""), 401) == "wrong_login"
    code = code_of(outside)
    assert re.fullmatch(r"([A-Z2-9]{4}-){3}[A-Z2-9]{4}", code)
    for wrong in ("", code[:-1], code[:-1] + "é", "AAAA-AAAA-AAAA-AAAA"):
        assert error_of(outside.post("/setup", name="Ada", password=PASSWORD, code=wrong), 403) == "wrong_code"
    assert error_of(outside.post("/setup", name="Ada", password="short", code=code), 400) == "invalid_value"
    made = outside.post("/setup", name="Ada", password=PASSWORD, code=code.lower().replace("-", " "))
    assert made.json()["is_admin"]
    assert outside.get("/chats").status_code == 200
    assert code_of(outside) is None
    assert error_of(outside.post("/setup", name="Eve", password=PASSWORD, code=code), 409) == "has_accounts"


def test_local_is_no_admin_of_a_server_with_api_keys(page):
    assert page.post("/keys", name="one").status_code == 201
    assert page.get("/chats").status_code == 200
    assert not page.get("/me").json()["user"]["is_admin"]
    for reply in (page.get("/keys"), page.post("/keys", name="two"), page.post("/users", name="x", password=PASSWORD)):
        assert error_of(reply, 403) == "needs_admin"
        assert "the set-up code" in reply.json()["error"]["message"]
    assert error_of(page.post("/setup", name="x", password=PASSWORD), 403) == "wrong_code"
    assert page.post("/setup", name="x", password=PASSWORD, code=code_of(page)).status_code == 201


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(page):
    cookie = page.post("/setup", name="Ada", password=PASSWORD).headers["set-cookie"].lower()
    assert cookie.startswith("samovar_session=")
    for part in ("httponly", "samesite=strict", "path=/app", "max-age=2592000"):
        assert part in cookie
    assert "secure" not in cookie
    token = page.client.cookies["samovar_session"]
    assert len(token) > 40
    assert token not in str(page.read("SELECT * FROM sessions"))


def test_under_tls_the_cookie_never_goes_in_the_clear():
    reply = Response()
    set_cookie(reply, "token", is_secure=True)
    assert "; Secure" in reply.headers["set-cookie"]


def test_without_the_apps_header_nothing_changes(page):
    for method, path in (("POST", "/users"), ("POST", "/setup"), ("POST", "/login"), ("POST", "/logout"), ("POST", "/files"),
                         ("POST", "/keys"), ("DELETE", "/keys/a"), ("PATCH", "/users/a"), ("DELETE", "/users/a"),
                         ("POST", "/password")):  # fmt: skip
        for headers in ({"X-Samovar-App": ""}, {"X-Samovar-App": "0"}):
            reply = page.client.request(method, f"/app/api{path}", json={}, headers=headers)
            assert error_of(reply, 403) == "csrf"
    foreign = page.client.post("/app/api/logout", headers={"Origin": "https://evil.example"})
    assert error_of(foreign, 403) == "forbidden"


def test_every_route_but_four_takes_a_login(outside):
    routes = [*ROUTES, *more_routes(outside.app.callers, KeyFile(Path("none")), Dashboard())]
    assert len(routes) > 40
    for method, path, _ in routes:
        reply = outside.client.request(method, f"/app/api{path.replace('{id}', 'x').replace('{name}', 'x')}", json={})
        if path in ("/me", "/setup", "/login", "/logout"):
            assert reply.status_code != 401 or error_of(reply, 401) == "wrong_login", path
        else:
            assert error_of(reply, 401) == "needs_login", path


def test_a_session_opens_the_app_alone_and_a_key_the_api_alone(outside, tmp_path):
    outside.with_accounts()
    key = KeyFile(tmp_path / "keys.json").create("me", is_admin=True)
    cookies = {"cookie": f"samovar_session={outside.client.cookies['samovar_session']}"}
    with httpx.Client(base_url=outside.client.base_url, headers=cookies) as session:
        assert session.get("/app/api/chats").status_code == 200
        for path in ("/v1/models", "/api/tags", "/metrics"):
            assert session.get(path).status_code == 401
        body = {"model": "hybrid", "messages": [{"role": "user", "content": "x"}]}
        assert session.post("/v1/chat/completions", json=body).status_code == 401
    for name, value in (("Authorization", f"Bearer {key}"), ("x-api-key", key)):
        with httpx.Client(base_url=outside.client.base_url, headers={name: value, **HEADER}) as holder:
            assert holder.get("/v1/models").status_code == 200
            for path in ("/chats", "/users", "/keys", "/events"):
                assert error_of(holder.get(f"/app/api{path}"), 401) == "needs_login"
            assert error_of(holder.post("/app/api/chats", json={}), 401) == "needs_login"


def test_a_wrong_login_says_nothing_about_which_part_is_wrong(page):
    page.with_accounts()
    with page.browser() as client:
        replies = [client.post("/login", json={"name": name, "password": password})
                   for name, password in (("Ada", "x" * 9), ("nobody", PASSWORD), ("local", ""),
                                          ("Ada", "x" * 1000))]  # fmt: skip
    assert {error_of(reply, 401) for reply in replies} == {"wrong_login"}
    assert len({reply.text for reply in replies}) == 1


def test_a_name_that_does_not_exist_costs_the_same_work_as_a_wrong_password():
    checked = []

    class Watched(PasswordHasher):
        def verify(self, kept, password):
            checked.append(extract_parameters(kept))
            return super().verify(kept, password)

    passwords = Passwords(Watched())

    async def check():
        kept = await passwords.hash(PASSWORD)
        assert await passwords.fits(PASSWORD, kept)
        assert not await passwords.fits("something else", kept)
        assert not await passwords.fits("something else", None)

    asyncio.run(check())
    assert len(checked) == 3
    assert checked[0] == checked[1] == checked[2]
    assert checked[0] == RFC_9106_LOW_MEMORY


def test_passwords_are_the_same_however_their_letters_are_composed():
    passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))

    async def fits():
        return await passwords.fits("cafe\u0301 au lait", await passwords.hash("caf\u00e9 au lait"))

    assert asyncio.run(fits())


def test_guessing_is_slowed_down_by_name(page):
    page.with_accounts()
    with page.browser() as client:
        for _ in range(10):
            assert error_of(client.post("/login", json={"name": "bob", "password": "wrong one"}), 401) == "wrong_login"
        reply = client.post("/login", json={"name": " BOB"[1:], "password": PASSWORD})
        assert error_of(reply, 429) == "rate_limit_exceeded"
        assert 0 < int(reply.headers["retry-after"]) <= 60
        assert client.post("/login", json={"name": "ada", "password": PASSWORD}).status_code == 200


def test_nobody_is_locked_out_by_the_guesses_of_others():
    limits = LoginLimits(lambda: 1000.0)

    def fails(address, name="ada"):
        try:
            with limits.attempt(address, name):
                raise KeyError
        except KeyError:
            return False
        except LimitReached as error:
            return bool(re.search(r"try again in \d+ s", str(error)))

    with limits.attempt("10.0.0.1", "ada"):
        pass
    assert [fails("6.6.6.6") for _ in range(12)] == [False] * 10 + [True] * 2
    with limits.attempt("10.0.0.1", "ADA"):
        pass
    with limits.attempt("10.0.0.2", "ada"):
        pass
    fails("10.0.0.1")
    with limits.attempt("10.0.0.1", "ada"):  # a typing error where one has logged in before
        pass
    assert not fails("6.6.6.7"), "the first guess of an address is free"
    assert fails("6.6.6.7"), "and many addresses share what a name allows"


def test_guessing_the_code_is_slowed_down(outside):
    for _ in range(30):
        assert error_of(outside.post("/setup", name="x", password=PASSWORD, code="no"), 403) == "wrong_code"
    assert error_of(outside.post("/setup", name="x", password=PASSWORD, code=code_of(outside)), 429) == "rate_limit_exceeded"


def test_logging_out_ends_the_session_and_no_other(page):
    first, _, _ = page.with_accounts()
    second = page.logged_in("ada")
    token = first.cookies["samovar_session"]
    assert first.post("/logout").status_code == 200
    assert "samovar_session" not in first.cookies
    with page.browser(cookie=f"samovar_session={token}") as again:
        assert error_of(again.get("/chats"), 401) == "needs_login"
    assert second.get("/chats").status_code == 200


def test_a_session_ends_by_itself(page):
    page.with_accounts()
    assert page.get("/chats").status_code == 200
    page.write(lambda file: file.execute("UPDATE sessions SET expires_ms = 1"))
    assert error_of(page.get("/chats"), 401) == "needs_login"


def test_a_new_password_ends_all_other_sessions(page):
    _, bob, _ = page.with_accounts()
    other = page.logged_in("bob")
    assert error_of(bob.post("/password", json={"old": "not it at all", "new": "another password"}), 403) == "wrong_password"
    assert error_of(bob.post("/password", json={"old": PASSWORD, "new": "short"}), 400) == "invalid_value"
    assert other.get("/chats").status_code == 200
    assert bob.post("/password", json={"old": PASSWORD, "new": "another password"}).status_code == 200
    assert bob.get("/chats").status_code == 200
    assert error_of(other.get("/chats"), 401) == "needs_login"
    with page.browser() as client:
        assert error_of(client.post("/login", json={"name": "bob", "password": PASSWORD}), 401) == "wrong_login"
    page.logged_in("bob", "another password")


def test_local_has_no_password_to_change(page):
    assert error_of(page.post("/password", old="", new=PASSWORD), 409) == "no_account"


def test_an_admin_manages_users_and_nobody_else_does(page):
    ada, bob, bob_id = page.with_accounts()
    assert [one["name"] for one in ada.get("/users").json()["users"]] == ["Ada", "bob"]
    assert "password" not in ada.get("/users").text
    for method, path, body in (("GET", "/users", None), ("POST", "/users", {"name": "x", "password": PASSWORD}),
                               ("PATCH", f"/users/{bob_id}", {"is_admin": True}), ("DELETE", f"/users/{bob_id}", None),
                               ("GET", "/keys", None), ("POST", "/keys", {"name": "x"}),
                               ("DELETE", "/keys/x", None)):  # fmt: skip
        assert error_of(bob.request(method, path, json=body), 403) == "needs_admin"
    assert error_of(ada.post("/users", json={"name": "BOB", "password": PASSWORD}), 409) == "conflict"
    assert error_of(ada.post("/users", json={"name": "local", "password": PASSWORD}), 409) == "conflict"
    for name in ("", " ", "a\nb", "x" * 65):
        assert error_of(ada.post("/users", json={"name": name, "password": PASSWORD}), 400) == "invalid_value"
    assert error_of(ada.post("/users", json={"name": "x", "password": PASSWORD, "id": "local"}), 400) == "invalid_value"
    assert error_of(ada.patch(f"/users/{bob_id}", json={"name": "Ada"}), 409) == "conflict"
    assert ada.patch(f"/users/{bob_id}", json={"name": "Bobby", "is_admin": True}).json()["name"] == "Bobby"
    assert bob.get("/users").status_code == 200
    for user_id in ("local", "nobody"):
        assert error_of(ada.patch(f"/users/{user_id}", json={"is_admin": False}), 404) == "not_found"
        assert error_of(ada.delete(f"/users/{user_id}"), 404) == "not_found"


def test_whoever_is_disabled_or_gets_a_new_password_is_out_at_once(page):
    ada, bob, bob_id = page.with_accounts()
    assert ada.patch(f"/users/{bob_id}", json={"is_disabled": True}).json()["is_disabled"]
    assert error_of(bob.get("/chats"), 401) == "needs_login"
    with page.browser() as client:
        assert error_of(client.post("/login", json={"name": "bob", "password": PASSWORD}), 401) == "wrong_login"
    ada.patch(f"/users/{bob_id}", json={"is_disabled": False})
    assert error_of(bob.get("/chats"), 401) == "needs_login"
    bob = page.logged_in("bob")
    ada.patch(f"/users/{bob_id}", json={"password": "a password of ada's"})
    assert error_of(bob.get("/chats"), 401) == "needs_login"
    page.logged_in("bob", "a password of ada's")


def test_the_open_pages_of_a_user_who_is_disabled_are_told_nothing_more(page):
    ada, bob, bob_id = page.with_accounts()
    with bob.stream("GET", "/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "event: hello"
        ada.patch(f"/users/{bob_id}", json={"is_disabled": True})
        assert "event: chat" not in list(lines)


def test_the_pages_of_local_end_with_the_first_account(page):
    client = page.browser()
    with client.stream("GET", "/events") as events:
        lines = events.iter_lines()
        assert next(lines) == "event: hello"
        page.post("/setup", name="Ada", password=PASSWORD)
        page.new_chat(title="Of ada")
        assert "Of ada" not in "".join(lines)


def test_a_session_works_while_the_disk_is_full(page):
    page.with_accounts()
    page.write(lambda file: file.execute("UPDATE sessions SET last_seen_ms = 1"))
    page.write(lambda file: file.execute("CREATE TRIGGER full BEFORE UPDATE ON sessions BEGIN SELECT RAISE(ABORT, 'x'); END"))
    assert page.get("/chats").status_code == 200


def test_the_last_admin_stays(page):
    ada, _, bob_id = page.with_accounts()
    ada_id = ada.get("/me").json()["user"]["id"]
    for change in ({"is_admin": False}, {"is_disabled": True}):
        assert error_of(ada.patch(f"/users/{ada_id}", json=change), 409) == "conflict"
    assert error_of(ada.delete(f"/users/{ada_id}"), 409) == "conflict"
    ada.patch(f"/users/{bob_id}", json={"is_admin": True, "is_disabled": True})
    assert error_of(ada.delete(f"/users/{ada_id}"), 409) == "conflict"
    assert ada.get("/me").json()["user"]["is_admin"]
    ada.patch(f"/users/{bob_id}", json={"is_disabled": False})
    assert ada.delete(f"/users/{ada_id}").status_code == 200
    assert error_of(ada.get("/users"), 401) == "needs_login"


def test_a_deleted_user_is_gone_with_all_chats(page):
    ada, bob, bob_id = page.with_accounts()
    chat = bob.post("/chats", json={"title": "Secret of bob"}).json()
    bob.post(f"/chats/{chat['id']}/messages", json={"parent_id": None, "content": "quince jam", "answer": False})
    bob.post("/files", files={"file": ("a.txt", b"quince file")})
    assert ada.delete(f"/users/{bob_id}").status_code == 200
    assert error_of(bob.get("/chats"), 401) == "needs_login"
    for table in ("chats", "messages", "files", "sessions"):
        assert "bob" not in str(rows := page.read(f"SELECT * FROM {table}"))
        assert "quince" not in str(rows)


def test_keys_are_made_listed_and_revoked_over_the_file_that_the_command_uses(page, tmp_path):
    page.with_accounts()
    made = page.post("/keys", name="agent", days=2, requests_per_minute=5, max_streams=2)
    key = made.json()["key"]
    assert key.startswith("sk-samovar-")
    (shown,) = page.get("/keys").json()["keys"]
    assert shown["expires_ms"] - shown["created_ms"] == 2 * 86_400_000
    assert (shown["name"], shown["requests_per_minute"], shown["tokens_per_minute"]) == ("agent", 5, None)
    assert key not in page.get("/keys").text
    assert "sha256" not in page.get("/keys").text
    assert KeyFile(tmp_path / "keys.json").read()[0].name == "agent"
    assert page.client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    for body in ({"name": "agent"}, {"name": "a b"}, {"name": "x", "days": -1}, {"name": "x", "more": 1}):
        assert error_of(page.post("/keys", **body), 400) == "invalid_value"
    assert page.delete("/keys/agent").status_code == 200
    assert error_of(page.delete("/keys/agent"), 404) == "not_found"
