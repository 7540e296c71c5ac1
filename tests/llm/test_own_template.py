"""A chat template of the caller's own."""

import pytest

from samovar.errors import BadRequest, TemplateError
from samovar.llm import LLM

OWN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"


def test_a_template_that_is_given_takes_the_place_of_the_models_own(tiny_folder):
    own, plain = LLM(tiny_folder, chat_template=OWN), LLM(tiny_folder)
    try:
        wanted = plain.generate("[user] tea", temperature=0, max_tokens=8)
        answer = own.chat("tea", temperature=0, max_tokens=8)
        assert answer.usage.n_prompt == wanted.usage.n_prompt
        assert answer.token_ids == wanted.token_ids
    finally:
        own.close()
        plain.close()


@pytest.mark.parametrize("process", [False, True])
def test_an_unsound_template_is_told_when_the_model_is_opened(tiny_folder, process):
    with pytest.raises(TemplateError, match="the chat template that was given"):
        LLM(tiny_folder, chat_template="{% for %}", process=process)
    with pytest.raises(BadRequest, match="chat_template is 7"):
        LLM(tiny_folder, chat_template=7, process=process)
