"""Options that several commands share, and their way from argparse into typed values.

What can be judged without the model is judged here, before it is loaded; such mistakes end with exit code 2.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias, cast, get_args

from samovar.cli.help_text import HelpFormatter
from samovar.cli.terminal import fitted
from samovar.engine.request import SamplingParams
from samovar.errors import BadRequest, SamovarError
from samovar.kernels import KV_DTYPES, KvType, WeightForm
from samovar.llm.model_settings import LongContextMode
from samovar.llm.options import Options
from samovar.llm.setup import MAX_THREADS
from samovar.llm.speculation import SpeculationMode, check_speculation

MAX_UNWATCHED_TOKENS = 4096  # an answer can go round in circles, and outside a dialogue nobody watches
MODEL_HELP = "a GGUF file, a Hugging Face folder, or the name of a model in the store (default: smollm2:135m)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """Which model to load and how. None leaves the choice to `LLM`."""

    name: str | None
    n_threads: int | None
    max_context: int | None
    kv_type: KvType | None
    draft: str | None
    speculation: SpeculationMode
    weights: WeightForm = "stored"
    cache: bool = True
    memory: int | None = None
    max_streams: int = 64
    max_waiting: int = 1024
    chat_template: str | None = None
    long_context: LongContextMode = "auto"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line, and never guesses at shortened options."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        said = f"samovar: error: {' '.join(message.split())} (see: {self.prog} --help)"
        self.exit(2, f"{fitted(said, sys.stderr, os.environ)}\n")


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_model_options(parser: argparse.ArgumentParser, *, many: bool = False) -> None:
    """MODEL, or several of them, and how to run it."""
    parser.add_argument("model", nargs="*" if many else "?", metavar="MODEL", help=MODEL_HELP)
    group = parser.add_argument_group("engine")
    group.add_argument("--threads", type=int, metavar="N", help="compute threads (default: the cores this process may use)")
    group.add_argument("--ctx-size", type=int, metavar="N", help="most tokens of prompt and answer together")
    group.add_argument(
        "--long-context",
        choices=get_args(LongContextMode),
        default="auto",
        help="let requests that do not fit into the native context go beyond it by YaRN, where the model is made for it (auto, "
        "the default), or keep all within it (off)",
    )
    group.add_argument(
        "--memory",
        type=size_bytes,
        metavar="SIZE",
        help="most memory to use in all, as in 6GiB; the context is as long as it allows",
    )
    group.add_argument(
        "--draft",
        metavar="MODEL",
        help="a smaller model of the same family that guesses ahead, to save time; --weights and --kv-type hold for it too",
    )
    group.add_argument(
        "--speculation",
        choices=get_args(SpeculationMode),
        default="auto",
        help="what may guess ahead: what was said before (ngram), the draft model, whatever pays (auto, the default), or "
        "nothing (off); the answer is the same",
    )
    group.add_argument("--no-cache", action="store_true", help="pack the weights anew, and do not keep them for the next start")
    group.add_argument("--kv-type", choices=tuple(KV_DTYPES), help="number format of the stored keys and values")
    add_weights_option(group)


def add_weights_option(group: "argparse._ArgumentGroup") -> None:
    """What the layers compute in."""
    group.add_argument(
        "--weights",
        choices=get_args(WeightForm),
        default="stored",
        help="compute in the types of the file (stored, the default), or round all layers but the output head to int4: "
        "smaller and quicker, less exact",
    )


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
    group.add_argument(
        "--logit-bias",
        action="append",
        type=logit_bias,
        metavar="ID=X",
        help="add X, -100 to 100, to a token's score; repeatable",
    )
    group.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    limit = f"default: {MAX_UNWATCHED_TOKENS}, in a dialogue when the context is full"
    group.add_argument("--max-tokens", type=int, metavar="N", help=f"stop after N tokens ({limit})")
    group.add_argument(
        "--stop", action="append", type=utf8_text, metavar="TEXT", help="stop before this text; may be given several times"
    )
    group.add_argument("--stop-token-id", action="append", type=int, metavar="ID", help="stop at this token id; repeatable")


def read_model_arguments(args: argparse.Namespace) -> ModelArguments:
    """The options of `add_model_options`. Ends the program with code 2 where one is out of range."""
    check_ranges(args, {"threads": (1, MAX_THREADS)})
    if args.ctx_size is not None and args.ctx_size < 1:
        args.parser.error(f"--ctx-size is {args.ctx_size}; expected 1 or more")
    try:
        check_speculation(args.speculation, args.draft)
    except BadRequest as error:
        args.parser.error(option_message(error))
    return ModelArguments(
        name=args.model,
        n_threads=args.threads,
        max_context=args.ctx_size,
        kv_type=args.kv_type,
        draft=args.draft,
        speculation=args.speculation,
        weights=args.weights,
        cache=not args.no_cache,
        memory=args.memory,
        long_context=args.long_context,
    )


def check_ranges(args: argparse.Namespace, ranges: Mapping[str, tuple[int, int]]) -> None:
    """Hold options, by their names in `args`, against the lowest and the highest value of each. Ends the program with code 2
    where one is out of range."""
    for option, (low, high) in ranges.items():
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            args.parser.error(f"--{option.replace('_', '-')} is {value}; expected {low} to {high}")


def read_sampling_options(args: argparse.Namespace) -> Options:
    """The options of `add_sampling_options` that were given. Ends the program with code 2 where one is out of range."""
    given = {name: getattr(args, name) for name in _CHECKED if getattr(args, name) is not None}
    try:
        SamplingParams(**given, logit_bias=tuple(args.logit_bias or ()))
    except BadRequest as error:
        args.parser.error(option_message(error))
    if args.logit_bias is not None:
        given["logit_bias"] = dict(args.logit_bias)
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


_OPTIONS = {"n_threads": "--threads", "max_context": "--ctx-size", "stop_token_ids": "--stop-token-id"}


def option_message(error: SamovarError) -> str:
    """The error's message, with a parameter at its start named as the option that sets it."""
    message, param = str(error), error.param if isinstance(error, BadRequest) else None
    if param is None or not message.startswith(f"{param} is "):
        return message
    return _OPTIONS.get(param, "--" + param.replace("_", "-")) + message.removeprefix(param)


def add_thinking_options(parser: argparse.ArgumentParser, where: str = "") -> None:
    """Whether to think, and how long."""
    parser.add_argument("--think", action=argparse.BooleanOptionalAction, help=f"{where}let the model think first")
    parser.add_argument(
        "--thinking-budget",
        type=int,
        metavar="N",
        help=f"{where}most tokens of thoughts; they are brought to an end at a sentence, and the answer follows",
    )


def add_structure_options(parser: argparse.ArgumentParser) -> None:
    """What the text has to match."""
    group = parser.add_argument_group("form of the answer (thoughts are free)").add_mutually_exclusive_group()
    group.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON that the schema in this file allows")
    group.add_argument("--json-object", action="store_true", help="any JSON object")
    group.add_argument("--regex", type=utf8_text, metavar="PATTERN", help="a text that the pattern matches from end to end")
    group.add_argument("--choice", action="append", type=utf8_text, metavar="TEXT", help="one of these texts; repeatable")
    group.add_argument("--lark", type=Path, metavar="FILE", help="a text of the grammar in this file, in Lark's notation")
    group.add_argument("--gbnf", type=Path, metavar="FILE", help="the same in llama.cpp's notation")


def read_structure_options(args: argparse.Namespace) -> Options:
    """The options of `add_structure_options` that were given. Raises BadRequest for a file that cannot be read."""
    options: Options = {}
    if args.json_schema is not None:
        options["json_schema"] = read_text(args.json_schema, "a JSON schema")
    if args.json_object:
        options["json_object"] = True
    if args.regex is not None:
        options["regex"] = args.regex
    if args.choice is not None:
        options["choices"] = args.choice
    if args.lark is not None:
        options["lark"] = read_text(args.lark, "a Lark grammar")
    if args.gbnf is not None:
        options["ebnf"] = read_text(args.gbnf, "a GBNF grammar")
    return options


def read_text(path: Path, what: str) -> str:
    """The text of a file that should hold `what`. Raises BadRequest."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 text (at byte {error.start}); expected {what}") from None
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}; name a file with {what}") from None


def size_bytes(text: str) -> int:
    """An argument such as 6GiB, 500MiB, 2G or a number of bytes; units are powers of 1024."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected one as in 6GiB or 500MiB")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def logit_bias(text: str) -> tuple[int, float]:
    """An argument ID=X."""
    token_id, _, value = text.partition("=")
    try:
        return int(token_id), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ID=X, as in 42=-5") from None


def utf8_text(text: str) -> str:
    """An argument that is text for the model. The system passes on bytes that are no UTF-8 as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"not UTF-8 text (at character {error.start})") from error
    return text
