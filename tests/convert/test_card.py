"""What a model's card says goes along, in both directions."""

import pytest
import yaml
from gguf import GGUFReader
from huggingface_hub import ModelCard

from samovar.convert.card import keys_of_card
from samovar.convert.to_folder import write_folder as write_converted_folder
from samovar.convert.to_gguf import write_gguf_file
from samovar.formats.gguf import read_gguf
from samovar.formats.hf_folder import read_hf_folder
from samovar.kernels.reference import ReferenceOps
from tests.models.tiny_checkpoints import VARIANTS, random_model, write_folder

CARD = """---
license: other
license_name: qwen
license_link: https://example.org/LICENSE
language:
- en
- no
tags: [chat, code]
base_model: Qwen/Qwen3-0.6B
---
# A model
"""


def test_licence_languages_and_tags_go_to_gguf_and_back(tmp_path):
    folder = write_folder(random_model(VARIANTS["qwen3-untied"]), tmp_path / "folder")
    (folder / "README.md").write_text(CARD)
    write_gguf_file(read_hf_folder(folder), tmp_path / "m.gguf", ReferenceOps(), lambda *_: None)
    fields = {field.name: field.contents() for field in GGUFReader(tmp_path / "m.gguf").fields.values()}
    assert fields["general.license"] == "other"
    assert fields["general.license.name"] == "qwen"
    assert fields["general.license.link"] == "https://example.org/LICENSE"
    assert fields["general.languages"] == ["en", "no"]
    assert fields["general.tags"] == ["chat", "code"]

    write_converted_folder(read_gguf(tmp_path / "m.gguf"), tmp_path / "back", lambda *_: None)
    card = ModelCard.load(tmp_path / "back" / "README.md").data.to_dict()
    wanted = yaml.safe_load(CARD.split("---")[1]) | {"language": ["en", "no"]}
    assert card == {name: value for name, value in wanted.items() if name != "base_model"}


@pytest.mark.parametrize(
    "text",
    [
        None, b"", b"# No front matter", b"---\nlicense: mit\n", b"---\n- a list\n---\n", b"---\nlicense: [\n---\n",
        b"---\nlicense: {a: b}\nlanguage: [[en]]\n---\n", b"---\nlicense: !!python/object:os.system {}\n---\n",
        b"---\n" + b"[" * 60_000 + b"\n---\n", b"\xff\xfe---\n", b"---\nlicense: \xff\n---\n",
    ],
)  # fmt: skip
def test_a_card_that_is_odd_says_nothing(text, tmp_path):
    if text is not None:
        (tmp_path / "README.md").write_bytes(text)
    assert keys_of_card(tmp_path) == {}
