"""Search: all scripts, words of any length, and no sign with a meaning of its own."""

import pytest

from samovar.app.search import snippet, words_of
from tests.app.app_client import served_app

TEXTS = {
    "english": 'The Quick brown fox jumps over 100% of lazy_dogs * and "quotes" OR nothing',
    "french": "Une crème brûlée à l'été, et naïvement",
    "chinese": "北京的春天非常美丽，适合旅行。",
    "japanese": "東京タワーでコーヒーを飲みます",
    "arabic": "كَتَبَ الطالبُ رسالةً إلى أستاذه",
    "russian": "Ёлка стоит в углу",
    "emoji": "party 🎉🎉🎉 time",
    "fox": "another fox",
}


@pytest.fixture(scope="module")
def library(hybrid, tmp_path_factory):
    with served_app({"hybrid": hybrid}, tmp_path_factory.mktemp("search")) as app:
        for name, text in TEXTS.items():
            chat = app.new_chat(title=f"About {name}")
            app.post(f"/chats/{chat['id']}/messages", parent_id=None, content=text, answer=False)
        app.new_chat(title="Ein Gespräch über Füchse")
        yield app


def found(app, query, **more):
    page = app.get("/chats", query=query, **more).json()
    assert {hit["chat_id"] for hit in page["hits"]} == {chat["id"] for chat in page["chats"]}
    return sorted(chat["title"].removeprefix("About ") for chat in page["chats"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("quick", ["english"]),
        ("QUICK fox", ["english"]),
        ("fox", ["english", "fox"]),
        ("fox other", ["fox"]),
        ("rown", ["english"]),
        ("brulee", ["french"]),
        ("BRÛLÉE", ["french"]),
        ("春天非常", ["chinese"]),
        ("春天", ["chinese"]),
        ("春", ["chinese"]),
        ("东京", []),
        ("東京", ["japanese"]),
        ("コーヒー", ["japanese"]),
        ("كتب", ["arabic"]),
        ("رسالة", ["arabic"]),
        ("استاذه", ["arabic"]),
        ("елка", ["russian"]),
        ("🎉", ["emoji"]),
        ("gesprach", ["Ein Gespräch über Füchse"]),
        ("100%", ["english"]),
        ("%", ["english"]),
        ("_", ["english"]),
        ("*", ["english"]),
        ("lazy_", ["english"]),
        ("lazy%dogs", []),
        ("fo*", []),
        ('"quotes"', ["english"]),
        ('"', ["english"]),
        ("fox OR crème", []),
        ("NOT lazy", ["english"]),
        ("NOT", ["english", "fox"]),
        ("content:fox", []),
        ("nowhere", []),
        ("'; DROP TABLE messages; --", []),
    ],
)
def test_what_is_written_is_found_and_nothing_else(library, query, names):
    assert found(library, query) == names


def test_a_search_of_blanks_is_no_search(library):
    assert "hits" not in library.get("/chats", query="  ").json()


@pytest.mark.parametrize("query", ["x" * 401, " ".join(map(str, range(33)))])
def test_a_query_that_is_too_long_is_refused(library, query):
    reply = library.get("/chats", query=query)
    assert (reply.status_code, "expected at most" in reply.json()["error"]["message"]) == (400, True)


def test_hits_name_the_message_and_mark_the_words(library):
    (hit,) = library.get("/chats", query="brulee ete").json()["hits"]
    assert hit["snippet"] == "Une crème \x02brûlée\x03 à l'\x02été\x03, et naïvement"
    assert hit["message_id"]
    (title,) = library.get("/chats", query="füchse").json()["hits"]
    assert (title["message_id"], title["snippet"]) == (None, "Ein Gespräch über \x02Füchse\x03")


def test_a_snippet_is_cut_around_the_first_word():
    text = "a " * 3000 + "Straße nach Łódź" + " b" * 3000
    shown = snippet(text, words_of("STRASSE"))
    assert "\x02Straße\x03 nach Łódź b" in shown
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert len(shown) < 200


def test_what_is_archived_is_found_and_what_is_deleted_is_not(library):
    chat = library.new_chat(title="archived one")
    library.post(f"/chats/{chat['id']}/messages", parent_id=None, content="Zanzibar", answer=False)
    library.patch(f"/chats/{chat['id']}", is_archived=True)
    assert found(library, "zanzibar", archived=0) == []
    assert found(library, "zanzibar", archived=1) == found(library, "zanzibar") == ["archived one"]
    assert library.get("/chats", query="zanzibar").json()["chats"][0]["is_archived"]
    library.delete(f"/chats/{chat['id']}")
    assert found(library, "zanzibar", archived=1) == []
    assert library.read("SELECT count(*) AS n FROM messages_fts WHERE content LIKE '%zanzibar%'") == [{"n": 0}]


def test_the_query_as_it_stands_is_found_before_its_words(library):
    chat = library.new_chat(title="Numbers")
    for n in (42, 1742, 3742, 4742, 5742):
        content = f"Message number {n}."
        library.post(f"/chats/{chat['id']}/messages", parent_id=None, content=content, answer=False)
    shown = library.get("/chats", query="message NUMBER 42.").json()["hits"]
    assert [hit["snippet"].replace("\x02", "").replace("\x03", "") for hit in shown] == [
        "Message number 42.",
        "Message number 5742.",
        "Message number 4742.",
    ]
    library.delete(f"/chats/{chat['id']}")


def test_files_are_found_by_name_and_text_with_their_message(library):
    chat = library.new_chat(title="Files")
    sent = library.client.post("/app/api/files", files={"file": ("Rechnung-März.txt", b"Paid to the samovar maker in Tula")})
    posted = library.post(f"/chats/{chat['id']}/messages", parent_id=None, content="", files=[sent.json()["id"]], answer=False)
    for query, marked in (("rechnung-marz", "\x02Rechnung-März\x03"), ("tula", "\x02Tula\x03")):
        (hit,) = library.get("/chats", query=query).json()["hits"]
        assert (hit["message_id"], marked in hit["snippet"]) == (posted.json()["message"]["id"], True)
    library.delete(f"/chats/{chat['id']}")
    assert found(library, "tula") == []
    assert library.read("SELECT count(*) AS n FROM files_fts WHERE content LIKE '%tula%'") == [{"n": 0}]


def test_another_users_messages_are_not_found(hybrid, tmp_path):
    with served_app({"hybrid": hybrid}, tmp_path) as app:
        _, bob, _ = app.with_accounts()
        chat = bob.post("/chats", json={"title": "Quetzalcoatl"}).json()
        told = {"parent_id": None, "content": "The quetzal is a bird", "answer": False}
        assert bob.post(f"/chats/{chat['id']}/messages", json=told).status_code == 200
        assert len(bob.get("/chats", params={"query": "quetzal"}).json()["hits"]) == 2
        for query in ("quetzal", "qu"):
            assert found(app, query) == []
