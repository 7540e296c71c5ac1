"""Exports of other apps, in the forms that they have."""


def gpt_node(node_id, parent, role=None, text="", *, kind="text", time=None, children=(), metadata=None, **content):
    """A node of ChatGPT's `mapping`; one without a role has no message."""
    if kind in ("text", "multimodal_text"):
        content.setdefault("parts", [text])
    elif text:
        content["text"] = text
    message = {
        "id": node_id, "author": {"role": role, "name": None, "metadata": {}}, "create_time": time, "update_time": None,
        "content": {"content_type": kind, **content}, "status": "finished_successfully", "end_turn": None, "weight": 1.0,
        "metadata": metadata or {}, "recipient": "all", "channel": None,
    }  # fmt: skip
    return {"id": node_id, "message": message if role else None, "parent": parent, "children": list(children)}


def gpt_chat(*nodes, current, title="Tea and \U0001f600", chat_id="c-1", **more):
    """A conversation of ChatGPT's export."""
    return {
        "title": title, "create_time": 1700000000.5, "update_time": 1700000100.25, "mapping": {n["id"]: n for n in nodes},
        "moderation_results": [], "current_node": current, "plugin_ids": None, "conversation_id": chat_id, "id": chat_id,
        "conversation_template_id": None, "gizmo_id": None, "is_archived": False, "default_model_slug": "gpt-4o", **more,
    }  # fmt: skip


def gpt_branches():
    """A conversation with a hidden system prompt, an answer asked for twice, thoughts, code, a picture."""
    return gpt_chat(
        gpt_node("root", None),
        gpt_node("sys", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
        gpt_node("ctx", "sys", "user", kind="user_editable_context", user_profile="I like tea", parts=None),
        gpt_node("u1", "ctx", "user", "How much is sencha?", time=1700000001.0),
        gpt_node("a1", "u1", "assistant", "12 euros.", time=1700000002.0, metadata={"model_slug": "gpt-4o"}),
        gpt_node("th", "u1", "assistant", kind="thoughts", time=1700000003.0,
                 thoughts=[{"summary": "Look", "content": "They ask again."}]),
        gpt_node("cap", "th", "assistant", kind="reasoning_recap", content="Thought for 3 s", time=1700000003.5),
        gpt_node("code", "cap", "assistant", "print(6 * 2)", kind="code", language="python", time=1700000004.0),
        gpt_node("out", "code", "tool", "12\n", kind="execution_output", time=1700000005.0),
        gpt_node("a2", "out", "assistant", "It is 12.", time=1700000006.0, metadata={"model_slug": "o3"}),
        gpt_node("u2", "a2", "user", kind="multimodal_text", time=1700000007.0,
                 parts=[{"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}, "And this one?"]),
        gpt_node("a3", "u2", "assistant", "A teapot.", time=1700000008.0),
        current="a3",
    )  # fmt: skip


def webui_chat(messages, current, *, title="Kettle", chat_id="w-1", **more):
    """A chat of Open WebUI's export."""
    return {
        "id": chat_id, "user_id": "u", "title": title, "updated_at": 1700000100, "created_at": 1700000000, "share_id": None,
        "archived": False, "pinned": True, "meta": {"tags": ["tea"]}, "folder_id": None,
        "chat": {
            "id": "", "title": title, "models": ["qwen3:8b"], "params": {"system": "Be brief."}, "tags": [],
            "history": {"messages": messages, "currentId": current}, "messages": [], "timestamp": 1700000000000,
        },
        **more,
    }  # fmt: skip


def webui_message(message_id, parent, role, content, time, **more):
    """A message of it."""
    return {
        "id": message_id,
        "parentId": parent,
        "childrenIds": [],
        "role": role,
        "content": content,
        "timestamp": time,
        **more,
    }


def webui_branches():
    """A chat with two answers to a question, one of them with thoughts."""
    thought = (
        '<details type="reasoning" done="true" duration="5">\n<summary>Thought for 5 seconds</summary>\n'
        "&gt; Is 3 &lt; 4? Yes.\n> Good.\n</details>\nAbout 90 degrees."
    )
    messages = [
        webui_message("m1", None, "user", "How hot?", 1700000001, models=["qwen3:8b"], files=[{"type": "file"}]),
        webui_message("m2", "m1", "assistant", "Hot.", 1700000002, model="qwen3:8b", done=True),
        webui_message("m3", "m1", "assistant", thought, 1700000003, model="qwen3:8b", done=True),
    ]
    return webui_chat({message["id"]: message for message in messages}, "m2")
