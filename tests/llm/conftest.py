"""The tiny checkpoints of the models' tests, with a template that thinks beside the plain one."""

import json
from pathlib import Path

import pytest

from samovar.llm import LLM
from tests.llm.scripted import ModelMaker
from tests.models.conftest import tiny_checkpoints as tiny_checkpoints

THINKING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"
    "{% endif %}"
)


def with_template(folder: Path, template: str | None, target: Path) -> Path:
    """A copy of a checkpoint folder whose chat template is another, or none."""
    target.mkdir(parents=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "tokenizer_config.json").read_text())
    config.pop("chat_template")
    if template is not None:
        config["chat_template"] = template
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


@pytest.fixture(scope="session")
def tiny_folder(tiny_checkpoints) -> Path:
    return tiny_checkpoints.get("qwen3-untied")[0]


@pytest.fixture(scope="session")
def tiny_llm(tiny_folder) -> LLM:
    return LLM(tiny_folder)


@pytest.fixture(scope="session")
def thinking_llm(tiny_folder, tmp_path_factory) -> LLM:
    return LLM(with_template(tiny_folder, THINKING_TEMPLATE, tmp_path_factory.mktemp("thinking") / "model"))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> ModelMaker:
    return ModelMaker(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="session")
def hybrid_llm(models) -> LLM:
    return models.load("hybrid")


@pytest.fixture(scope="session")
def always_llm(models) -> LLM:
    return models.load("always")


@pytest.fixture(scope="session")
def never_llm(models) -> LLM:
    return models.load("never")
