"""The models that chats may use."""

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from samovar.app.app import App, AppTable
from samovar.app.prompting import thinking_choice
from samovar.app.shapes import Model, sampling_defaults
from samovar.app.users import user_of
from samovar.llm import LLM
from samovar.serving.registry import Offered
from samovar.serving.replies import json_reply


async def list_models(app: App, request: Request) -> Response:
    """All models and adapters; those that are known to write no text are left out."""
    user_of(request)
    found: list[Model] = []
    for offered in app.server.registry.models.values():
        found += await _models(offered)
    return json_reply({"models": found, "default": app.model_of(None)})


async def _models(offered: Offered) -> list[Model]:
    names, llm = (offered.name, *offered.adapters), offered.llm
    if llm is None:
        return [Model(name=name, is_open=False) for name in names]
    if not llm.card.writes_text:
        return []
    return [await asyncio.to_thread(_opened, name, llm) for name in names]


def _opened(name: str, llm: LLM) -> Model:
    return Model(
        name=name,
        is_open=True,
        thinking=thinking_choice(llm),
        max_context=llm.max_context,
        defaults=sampling_defaults(llm.card.sampling),
    )


MODEL_ROUTES: Final[AppTable] = (("GET", "/models", list_models),)
