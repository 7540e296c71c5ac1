"""Compiles a grammar in a process of its own, within limits of processor time, memory and stack.

llguidance is native code. It bounds most of what a hostile grammar can ask of it, and not all: a chain of 5,000 references
overflows the stack, and the common multiple of four primes is looked for without end. Here that ends a process in which nothing
else runs. `python -m samovar.text.grammar_trial` reads a trial from standard input and writes its result to standard output.
"""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from samovar.errors import BadRequest, GrammarError
from samovar.text.grammar_source import N_HEADER_LINES, to_lark
from samovar.text.grammar_spec import GrammarSpec

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

MAX_CPU_S: Final = 1
MAX_WAIT_S: Final = 10.0  # for a processor to do it on
MAX_MEMORY_BYTES: Final = 256 << 20  # of addresses, Python's own included
MAX_STACK_BYTES: Final = 2 << 20  # a quarter of what a thread of the program has by default


def parser_limits() -> "LLParserLimits":
    """What a grammar may use, at compile time and in each step. Measured with `benchmarks.grammar_masks`."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        max_items_in_row=1000,  # alternatives open at a place, 4 for an optional property; time grows with the cube
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=100_000,
        step_max_items=200_000,
        max_lexer_states=20_000,  # up to 30 MB for a request
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def reason(matcher: "LLMatcher") -> str:
    """What a matcher in error says, on one line. Lines are counted as the author of the grammar wrote them."""
    text = matcher.get_error().replace("<non-verbose/>", "")
    if text.startswith("NoExtensionBias"):
        return "no text that the model's tokens spell satisfies it"
    text = re.sub(r"(?m)^ *(\d+ \| .*|\^+)$", "", text)  # the grammar's own lines, and marks below them
    text = re.sub(r"^(?:at )?(\d+)\((\d+)\):", lambda at: f"line {int(at[1]) - N_HEADER_LINES}, column {at[2]}:", text)
    return " ".join(text.split("failed to compile JSON schema: ")[-1].split())[:500]


def try_to_compile(spec: GrammarSpec, control_tokens: Iterable[str]) -> str:
    """The text to compile, once it has compiled elsewhere. Takes some 0.1 s, and at worst MAX_CPU_S of processor time.

    Raises BadRequest with the reason for a grammar that is refused, GrammarError where no processor or process was to be had.
    """
    trial = json.dumps([spec.kind, spec.source, list(control_tokens)])
    command = [sys.executable, "-P", "-m", "samovar.text.grammar_trial"]
    try:
        # The program is this one's own interpreter, and what a client sent goes to standard input alone.
        done = subprocess.run(command, input=trial.encode(), capture_output=True, timeout=MAX_WAIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise GrammarError(
            f"compiling a grammar got no second of a processor within {MAX_WAIT_S:g} s: try again later"
        ) from None
    except OSError as error:
        raise GrammarError(f"no process could be started to compile a grammar in: {error}") from None
    if done.returncode < 0:
        bounds = f"{MAX_CPU_S} s of processor time, {MAX_MEMORY_BYTES >> 20} MB and a stack of {MAX_STACK_BYTES >> 20} MB"
        raise BadRequest(f"compiling it takes more than {bounds}: make it smaller, with fewer and shorter chains of references")
    if done.returncode:
        raise GrammarError(f"compiling a grammar failed: {done.stderr.decode('utf-8', 'replace').strip()[-500:]}")
    is_sound, text = json.loads(done.stdout)
    if not is_sound:
        raise BadRequest(text)
    assert isinstance(text, str)
    return text


def _main() -> None:
    trial = sys.stdin.buffer.read()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_STACK, (MAX_STACK_BYTES, MAX_STACK_BYTES))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        result = _compile(*json.loads(trial))
    except (MemoryError, RecursionError):
        result = False, f"it is nested too deep, or needs more than {MAX_MEMORY_BYTES >> 20} MB: make it smaller"
    except BadRequest as error:
        result = False, str(error)
    sys.stdout.write(json.dumps(result))


class _Bytes:
    """A vocabulary of single bytes, an end and control tokens, as LLTokenizer wants it. It is never asked to encode."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = 256

    def __init__(self, control_tokens: list[str]) -> None:
        self.tokens = [*(bytes([i]) for i in range(256)), b"<end>", *(text.encode() for text in control_tokens)]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError


def _compile(kind: str, source: str | list[str], control_tokens: list[str]) -> tuple[bool, str]:
    from llguidance import LLMatcher, LLTokenizer

    lark = to_lark(kind, source)  # type: ignore[arg-type]
    tokenizer = LLTokenizer(_Bytes(control_tokens), eos_token=256, slices=[])  # type: ignore[arg-type]
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(lark), log_level=0, limits=parser_limits())
    return (False, reason(matcher)) if matcher.is_error() else (True, lark)


if __name__ == "__main__":
    _main()
