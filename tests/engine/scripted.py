"""A model that says what a script wants, through the true engine: its logits have 100 more on the token wanted next."""

import numpy as np

from samovar.engine.thinking import ThinkingTokens
from tests.engine.fakes import VOCAB, TinyModel, tiny_engine

OPEN, CLOSE, TOOL, LINE, BLANK, END, DOT = 90, 91, 92, 93, 94, 95, 96
STOP_TEXT = (BLANK, *range(60, 80), LINE, CLOSE, BLANK)  # 24 tokens, as Qwen's own
TOKENS = ThinkingTokens(
    open_id=OPEN,
    close_id=CLOSE,
    tool_call_id=TOOL,
    close_text=(LINE, CLOSE, BLANK),
    stop_text=STOP_TEXT,
    blank_text=(OPEN, BLANK, CLOSE, BLANK),
    after_close=(BLANK,),
    ends_sentence=lambda token_id: token_id in (DOT, LINE, BLANK),
    is_blank=lambda token_id: token_id in (LINE, BLANK),
)


class ScriptedRunner:
    """Runs the slices as another runner does, then lets `wanted(prompt_ids, generated_ids)` decide."""

    def __init__(self, runner, wanted):
        self.runner, self.wanted = runner, wanted

    @property
    def ops(self):
        return self.runner.ops

    @property
    def adapters(self):
        return self.runner.adapters

    def run(self, slices):
        logits_SV = np.array(self.runner.run(slices))
        row = 0
        for piece in slices:
            sequence, n_prompt = piece.sequence, piece.sequence.n_prompt
            text = [*sequence.token_ids[: piece.start], *piece.token_ids]
            for end in range(len(text) - piece.n_logits + 1, len(text) + 1):
                if end >= n_prompt:
                    logits_SV[row, self.wanted(tuple(text[:n_prompt]), text[n_prompt:end])] += 100
                row += 1
        return logits_SV


def by_position(script):
    """The token at its place, whatever was put there before."""
    return lambda _, generated: script[min(len(generated), len(script) - 1)]


def thinker(thoughts, answer, close_id=CLOSE, after_close=(BLANK,)):
    """Thinks by position, and begins its answer after the closing tag, however that came to be there."""

    def wanted(_, generated):
        if close_id not in generated:
            return thoughts[min(len(generated), len(thoughts) - 1)]
        tail = [*after_close, *answer]
        return tail[min(len(generated) - generated.index(close_id) - 1, len(tail) - 1)]

    return wanted


class QuickModel(TinyModel):
    """Logits of nothing, at once."""

    def __call__(self, ids_T, positions_T, attend, rows_S, adapted=()):
        return np.zeros((len(rows_S), VOCAB), np.float32)


def scripted_engine(wanted, **settings):
    engine = tiny_engine(**{"max_context": 4096, "n_pages": 256, "model": QuickModel(), "thinking_tokens": TOKENS} | settings)
    engine.decoding.runner = ScriptedRunner(engine.decoding.runner, wanted)
    return engine
