"""Options that several commands share, and their way from argparse into typed values.

What can be judged without the model is judged here, before it is loaded; such mistakes end with exit code 2.
"""

import argparse
from dataclasses import dataclass
from typing import NoReturn, TypeAlias, cast

from samovar.engine.request import SamplingParams
from samovar.errors import BadRequest
from samovar.kernels import KvType
from samovar.llm.options import Options

MODEL_HELP = "a GGUF file, a Hugging Face folder, or the name of a model in the store (default: smollm2:135m)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """Which model to load and how. None leaves the choice to `LLM`."""

    name: str | None
    n_threads: int | None
    max_context: int | None
    kv_type: KvType | None


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, and never guesses at shortened options."""

    def __init__(self, **settings: object) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=formatter, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"samovar: error: {' '.join(message.split())} (see: {self.prog} --help)\n")


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """MODEL and how to run it."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("engine")
    group.add_argument("--threads", type=_whole, metavar="N", help="compute threads (default: the cores this process may use)")
    group.add_argument("--ctx-size", type=_whole, metavar="N", help="most tokens of prompt and answer together")
    group.add_argument("--kv-type", choices=("f32", "f16", "bf16"), help="number format of the stored keys and values")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen. Defaults come from the model."""
    group = parser.add_argument_group("sampling (defaults come from the model)")
    group.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token each time")
    group.add_argument("--top-k", type=int, metavar="N", help="choose among the N likeliest tokens (0: all)")
    group.add_argument("--top-p", type=float, metavar="X", help="choose among the likeliest tokens that sum to probability X")
    group.add_argument("--min-p", type=float, metavar="X", help="leave out tokens below X times the best one's probability")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 makes tokens already seen less likely")
    group.add_argument("--presence-penalty", type=float, metavar="X", help="lower generated tokens' scores by X, once")
    group.add_argument("--frequency-penalty", type=float, metavar="X", help="the same by X for each occurrence")
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    group.add_argument("--max-tokens", type=int, metavar="N", help="stop after N tokens (default: when the context is full)")
    group.add_argument("--stop", action="append", metavar="TEXT", help="stop before this text; may be given several times")
    group.add_argument("--stop-token-id", action="append", type=int, metavar="ID", help="stop at this token id; repeatable")


def read_model_arguments(args: argparse.Namespace) -> ModelArguments:
    """The options of `add_model_options`."""
    return ModelArguments(name=args.model, n_threads=args.threads, max_context=args.ctx_size, kv_type=args.kv_type)


def read_sampling_options(args: argparse.Namespace) -> Options:
    """The options of `add_sampling_options` that were given. Ends the program with code 2 where one is out of range."""
    given = {name: getattr(args, name) for name in _CHECKED if getattr(args, name) is not None}
    try:
        SamplingParams(**given)
    except BadRequest as error:
        option = "--" + (error.param or "").replace("_", "-")
        args.parser.error(str(error).replace(error.param or "", option, 1))
    if args.stop is not None:
        if not all(args.stop):
            args.parser.error("--stop is empty; expected the text to stop at")
        given["stop"] = args.stop
    if args.stop_token_id is not None:
        if min(args.stop_token_id) < 0:
            args.parser.error(f"--stop-token-id is {min(args.stop_token_id)}; expected a token id, 0 or more")
        given["stop_token_ids"] = args.stop_token_id
    return cast(Options, given)


_CHECKED = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "max_tokens",
)  # fmt: skip


def _whole(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 1 or more")
    return value
