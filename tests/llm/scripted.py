"""A small model with Qwen3's own tokenizer and templates that says what a script wants, through the true engine."""

import dataclasses
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

import samovar.llm.local_model as llm_module
from samovar.formats import open_checkpoint
from samovar.llm import LLM
from samovar.llm.model_text import read_model_text
from tests.engine.scripted import ScriptedRunner
from tests.models.tiny_checkpoints import Variant, random_model
from tests.text.witnesses import QWEN3_CONFIG, qwen3_json, template

VOCAB_SIZE = 151_936
SMALL = Variant(
    model_type="qwen3",
    settings={
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "eos_token_id": 151_645,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
)


def always_thinks():
    """Qwen3's template as Thinking-2507 has it: the opening tag is part of the prompt, and there is no switch."""
    source = template("qwen3")
    start = source.index("{%- if enable_thinking is defined")
    return source[:start] + "{{- '<think>\\n' }}{%- endif %}"


TEMPLATES = {
    "hybrid": lambda: template("qwen3"),
    "always": always_thinks,
    "never": lambda: template("qwen3_instruct_2507"),
    "qwen2": lambda: template("qwen2_5"),
}


class ModelMaker:
    """Makes models that share weights and tokenizer, and differ in their templates."""

    def __init__(self, folder):
        self._folder = folder
        random_model(SMALL).save_pretrained(folder)
        shutil.copy(qwen3_json(), folder / "tokenizer.json")
        (folder / "tokenizer_config.json").write_text(json.dumps(QWEN3_CONFIG))
        self._text = read_model_text(open_checkpoint(folder, None))

    def text(self, source):
        """The tokenizer with a template."""
        return dataclasses.replace(self._text, template_source=source)

    def load(self, kind, **options):
        """A model with one of TEMPLATES, or a template of one's own."""
        text = self.text(TEMPLATES[kind]() if kind in TEMPLATES else kind)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(llm_module, "read_model_text", lambda *_: text)
            return LLM(self._folder, **{"n_threads": 1, "cache": False, "long_context": "off"} | options)


@contextmanager
def scripted(llm, wanted):
    """Let `wanted(prompt_ids, generated_ids)` decide what the model says."""
    llm.settle()
    llm._engine.cache.clear()
    decoding = llm._engine.decoding
    own = decoding.runner
    decoding.runner = ScriptedRunner(own, wanted)
    try:
        yield
    finally:
        llm.settle()
        decoding.runner = own
        llm._engine.cache.clear()


def is_idle(llm):
    """All pages are back, or kept for later; settles first."""
    llm.settle()
    engine = llm._engine
    return not engine.has_work and engine.cache.n_available == engine.pool.n_pages


@contextmanager
def broken(llm, is_broken, failure=None):
    """Give requests whose prompt is among these no sound logits; or let the step fail."""

    class Runner:
        def __init__(self, runner):
            self.runner, self.ops, self.adapters = runner, runner.ops, runner.adapters

        def run(self, slices):
            logits_SV = np.array(self.runner.run(slices))
            row = 0
            for piece in slices:
                if is_broken(piece.sequence.request.prompt_ids):
                    if failure is not None:
                        raise failure
                    logits_SV[row : row + piece.n_logits] = np.nan
                row += piece.n_logits
            return logits_SV

    llm.settle()
    decoding, own = llm._engine.decoding, llm._engine.decoding.runner
    decoding.runner = Runner(own)
    try:
        yield
    finally:
        llm.settle()
        decoding.runner = own


def spelled(llm, text):
    """A script that says a text, in as many tokens as it has bytes."""
    return [*(llm.tokenizer.encode(c)[0] for c in text), llm.tokenizer.eos_id]
