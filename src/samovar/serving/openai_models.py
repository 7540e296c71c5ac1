"""`/v1/models`, and vLLM's routes to load and unload adapters."""

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from samovar.errors import BadRequest, FormatError, ModelNotFound, StoreError, UnsupportedModel
from samovar.serving.body import Fields, Unsupported, naming, read_body
from samovar.serving.registry import Offered
from samovar.serving.replies import json_reply
from samovar.serving.server import Server, require_admin

ADAPTER_UNSUPPORTED: Final[Mapping[str, Unsupported]] = {
    "lora_int_id": Unsupported("adapters go by their names"),
    "load_inplace": Unsupported("unload the adapter first", (False,)),
    "is_3d_lora_weight": Unsupported("adapters are PEFT folders", (False,)),
}


class LoadFields(Fields, kw_only=True, frozen=True):
    """Fields of `/v1/load_lora_adapter`: a PEFT folder on the server's disk, for a model (None: the first one)."""

    lora_name: str
    lora_path: str
    base_model_name: str | None = None


class UnloadFields(Fields, kw_only=True, frozen=True):
    """Fields of `/v1/unload_lora_adapter`."""

    lora_name: str


async def models(server: Server, _: Request) -> Response:
    """All models and adapters."""
    cards = [_card(offered, adapter) for offered in server.registry.models.values() for adapter in (None, *offered.adapters)]
    return json_reply({"object": "list", "data": cards})


async def model(server: Server, request: Request) -> Response:
    """One model or adapter."""
    return json_reply(_card(*server.registry.find(request.path_params["model"])))


async def load_lora_adapter(server: Server, request: Request) -> Response:
    """Load an adapter, which requests then name as their model. For admins alone."""
    require_admin(request)
    fields = read_body(LoadFields, await request.body(), ADAPTER_UNSUPPORTED)
    base, adapter = server.registry.find(fields.base_model_name)
    if adapter is not None:
        raise BadRequest(f"{adapter!r} is an adapter itself; expected a model", param="base_model_name")
    try:
        with naming(name="lora_name", path="lora_path"):
            await server.registry.load_adapter(fields.lora_name, fields.lora_path, base.name)
    except (FormatError, UnsupportedModel, ModelNotFound, StoreError) as error:
        raise BadRequest(str(error), param="lora_path") from None
    return PlainTextResponse(f"Success: LoRA adapter '{fields.lora_name}' added successfully.")


async def unload_lora_adapter(server: Server, request: Request) -> Response:
    """Forget an adapter. For admins alone."""
    require_admin(request)
    fields = read_body(UnloadFields, await request.body(), {"lora_int_id": ADAPTER_UNSUPPORTED["lora_int_id"]})
    with naming(name="lora_name"):
        await server.registry.unload_adapter(fields.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{fields.lora_name}' removed successfully.")


def _card(offered: Offered, adapter: str | None) -> dict[str, object]:
    """OpenAI's model object: an adapter's `parent` and `root` are the model that it changes. The context is known of models
    that are open."""
    return {
        "id": adapter or offered.name,
        "object": "model",
        "created": offered.created_s,
        "owned_by": "samovar",
        "root": offered.name,
        "parent": None if adapter is None else offered.name,
        "max_model_len": None if offered.llm is None else offered.llm.max_context,
    }
