"""The page and its files: headers, caching, compression, and what is said before they are built."""

import gzip

import pytest

from tests.app.app_client import served_app

PAGE = b"<!doctype html><title>Samovar</title>" + b" " * 200
CODE = b"export const answer = 42;" * 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static")
    (folder / "assets").mkdir()
    (folder / "index.html").write_bytes(PAGE)
    (folder / "assets" / "main-1a2b.js").write_bytes(CODE)
    (folder / "assets" / "main-1a2b.js.gz").write_bytes(gzip.compress(CODE))
    (folder / "assets" / "main-1a2b.js.br").write_bytes(b"as brotli")
    (folder / "assets" / "style-3c4d.css").write_bytes(b"p {}")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def site(hybrid, folder, tmp_path_factory):
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("pages"), page_folder=folder) as app:
        app.client.headers["Accept"] = "text/html,*/*;q=0.8"
        yield app.client


def test_the_page_runs_nothing_of_others(site):
    reply = site.get("/")
    policy = reply.headers["content-security-policy"]
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, PAGE, "text/html; charset=utf-8")
    for rule in ("default-src 'self'", "script-src 'self'", "frame-ancestors 'none'", "object-src 'none'", "base-uri 'none'"):
        assert rule in policy.split("; ")
    assert "http" not in policy
    assert (reply.headers["x-content-type-options"], reply.headers["referrer-policy"]) == ("nosniff", "no-referrer")


def test_the_page_is_sent_again_only_when_it_has_changed(site, folder):
    first = site.get("/")
    assert first.headers["cache-control"] == "no-cache"
    same = site.get("/", headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'})
    assert (same.status_code, same.content) == (304, b"")
    (folder / "index.html").write_bytes(PAGE + b"!")
    try:
        assert site.get("/", headers={"If-None-Match": first.headers["etag"]}).status_code == 200
    finally:
        (folder / "index.html").write_bytes(PAGE)


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [("gzip, deflate, br", "br"), ("gzip", "gzip"), ("identity", None), ("br;q=0, gzip;q=0.5", "gzip"), ("", None)],
)
def test_files_are_kept_for_ever_and_come_compressed_as_the_browser_likes(site, accepts, coding):
    with site.stream("GET", "/assets/main-1a2b.js", headers={"Accept-Encoding": accepts}) as reply:
        data = b"".join(reply.iter_raw())
    assert reply.headers.get("content-encoding") == coding
    assert reply.headers["content-type"].startswith("text/javascript")
    assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert reply.headers["vary"] == "Accept-Encoding"
    expected = {"br": b"as brotli", "gzip": CODE, None: CODE}[coding]
    assert (gzip.decompress(data) if coding == "gzip" else data) == expected


@pytest.mark.parametrize(
    "path", ["/assets/none.js", "/assets/../secret.txt", "/assets/%2e%2e/secret.txt", "/assets//etc/passwd"]
)
def test_nothing_but_the_builds_files_is_sent(site, path):
    reply = site.get(path)
    assert reply.status_code == 404
    assert b"secret" not in reply.content.replace(b"secret.txt", b"")


def test_a_file_without_compressed_forms_comes_as_it_is(site):
    reply = site.get("/assets/style-3c4d.css")
    assert (reply.content, reply.headers["content-type"]) == (b"p {}", "text/css; charset=utf-8")
    assert site.head("/assets/style-3c4d.css").content == b""


def test_without_a_build_the_page_says_how_to_make_one_and_the_api_runs(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path, page_folder=tmp_path / "nothing") as app:
        reply = app.client.get("/", headers={"Accept": "text/html"})
        assert reply.status_code == 503
        assert "make web" in reply.text
        assert app.get("/chats").status_code == 200
        assert app.client.get("/v1/models").status_code == 200


def test_clients_of_ollama_still_hear_that_it_runs(site):
    assert site.get("/", headers={"Accept": "*/*"}).text == "Ollama is running"
    assert site.head("/", headers={"Accept": ""}).status_code == 200
