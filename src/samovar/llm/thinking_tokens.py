"""What the engine is told of a vocabulary, so that it can watch over thoughts without a tokenizer."""

from typing import Final

from samovar.engine.thinking import ThinkingTokens
from samovar.text.output_parser import CLOSE, OPEN
from samovar.text.tokenizer import Tokenizer

# QwenLM/Qwen3, docs/source/getting_started/quickstart.md
STOP_TEXT: Final = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now."
    "\n</think>\n\n"
)
_TOOL_CALL: Final = "<tool_call>"
_ENDS: Final = (".", "!", "?", "。", "！", "？", "…", "।", "؟", "۔", "።", "។")
_CLOSERS: Final = " \"'”’)]*»」』）"


def thinking_tokens(tokenizer: Tokenizer) -> ThinkingTokens | None:
    """None where the vocabulary has no think tags of its own: thoughts cannot be watched there."""
    control = tokenizer.control_tokens
    if OPEN not in control or CLOSE not in control:
        return None

    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_bos=False))

    def ends_sentence(token_id: int) -> bool:
        text = tokenizer.token_bytes(token_id).decode("utf-8", "ignore")
        return "\n" in text or text.rstrip(_CLOSERS).endswith(_ENDS)

    return ThinkingTokens(
        open_id=control[OPEN],
        close_id=control[CLOSE],
        tool_call_id=control.get(_TOOL_CALL),
        close_text=encode(f"\n{CLOSE}\n\n"),
        stop_text=encode(STOP_TEXT),
        blank_text=encode(f"{OPEN}\n\n{CLOSE}\n\n"),
        after_close=encode("\n\n"),
        ends_sentence=ends_sentence,
        is_blank=lambda token_id: not tokenizer.token_text(token_id).strip(),
    )
