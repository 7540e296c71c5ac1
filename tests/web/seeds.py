"""Chats that are there before a page opens: brought in the way a person would, as an export of ChatGPT's."""

import json
import uuid
from collections.abc import Iterable, Sequence

from tests.serving.processes import Running


def conversation(title: str, texts: Sequence[str]) -> dict:
    """A chat in the form of ChatGPT's export: `texts` are a person's and the model's in turn."""
    ids = [str(uuid.uuid4()) for _ in texts]  # an import knows chats again by these
    created_s = 1.7e9
    mapping = {"root": {"id": "root", "message": None, "parent": None, "children": ids[:1]}}
    for i, text in enumerate(texts):
        message = {
            "id": ids[i],
            "author": {"role": ("user", "assistant")[i % 2]},
            "create_time": created_s + i,
            "content": {"content_type": "text", "parts": [text]},
        }
        parent = ids[i - 1] if i else "root"
        mapping[ids[i]] = {"id": ids[i], "message": message, "parent": parent, "children": ids[i + 1 : i + 2]}
    return {
        "title": title,
        "create_time": created_s,
        "update_time": created_s + len(texts),
        "mapping": mapping,
        "current_node": ids[-1],
    }


def bring_in(server: Running, conversations: Iterable[dict]) -> dict:
    """Import them. Returns the server's account of it."""
    file = ("conversations.json", json.dumps(list(conversations)), "application/json")
    reply = server.client.post("/app/api/import", files={"file": file}, timeout=120)
    assert reply.status_code == 200, reply.text
    assert reply.json()["skipped"] == [], reply.text
    return reply.json()


def planted(server: Running, title: str, texts: Sequence[str]) -> str:
    """The address of a chat with these texts."""
    bring_in(server, [conversation(title, texts)])
    chats = server.client.get("/app/api/chats", params={"query": title}).json()["chats"]
    return f"{server.url}/#/c/{next(chat['id'] for chat in chats if chat['title'] == title)}"
