"""`samovar generate`: continue a prompt, or answer one message, without a dialogue."""

import argparse
import json
from pathlib import Path

from samovar.cli.arguments import (
    MAX_UNWATCHED_TOKENS,
    Subparsers,
    add_model_options,
    add_sampling_options,
    add_structure_options,
    add_thinking_options,
    read_model_arguments,
    read_sampling_options,
    read_structure_options,
    utf8_text,
)
from samovar.cli.loading import load_llm
from samovar.cli.progress import ProgressBar
from samovar.cli.reading import ReadingBar
from samovar.cli.terminal import Streams
from samovar.errors import BadRequest
from samovar.llm import LLM, Result
from samovar.llm.options import Options

_EXAMPLES = """examples:
  samovar generate -p "Once upon a time" --max-tokens 50
  samovar generate model.gguf --file prompt.txt --temperature 0
  samovar generate --chat -p "What is the capital of France?" --json
  samovar generate --chat -p "Name a city in Italy, with its population." --json-schema city.json
  git diff | samovar generate qwen2.5-coder:0.5b --chat --system "Write a commit message for this diff."

The prompt is given to the model as it is. With --chat it becomes the user's message in the model's chat template.
The text ends after 4096 tokens unless --max-tokens says otherwise.
"""


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("generate", help="continue a prompt", description=__doc__, epilog=_EXAMPLES)
    add_model_options(parser)
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", type=utf8_text, metavar="TEXT", help="the prompt (default: read from standard input)")
    prompt.add_argument("--file", type=Path, metavar="PATH", help="read the prompt from a file")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of streaming text")
    parser.add_argument("--chat", action="store_true", help="send the prompt as a message in the model's chat template")
    parser.add_argument("--system", type=utf8_text, metavar="TEXT", help="with --chat: the system message")
    add_thinking_options(parser, "with --chat: ")
    add_structure_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Generate, and print the text as it comes, or JSON."""
    sampling, model = read_sampling_options(args), read_model_arguments(args)
    sampling.setdefault("max_tokens", MAX_UNWATCHED_TOKENS)
    sampling.update(read_structure_options(args))
    of_chat = (args.system, args.think, args.thinking_budget)
    if not args.chat and any(value is not None for value in of_chat):
        args.parser.error("--system, --think, --no-think and --thinking-budget belong to the chat template; add --chat")
    prompt = _read_prompt(args, streams)
    if not prompt.strip():
        args.parser.error("the prompt is empty; give one with -p, --file or on standard input")
    with ProgressBar(streams, "packing") as progress:
        llm = load_llm(model, streams, progress)
        return _generate(llm, prompt, sampling, args, streams, progress)


def _generate(
    llm: LLM, prompt: str, sampling: Options, args: argparse.Namespace, streams: Streams, progress: ProgressBar
) -> int:
    if args.chat:
        messages: list[dict[str, object]] = [{"role": "user", "content": prompt}]
        if args.system is not None:
            messages.insert(0, {"role": "system", "content": args.system})
        stream = llm.stream_chat(messages, thinking=args.think, thinking_budget=args.thinking_budget, **sampling)
    else:
        stream = llm.stream_generate(prompt, **sampling)
    try:
        with ReadingBar(streams, llm, packing=progress) as reading:
            for delta in stream:
                progress.stop()
                reading.stop()
                if delta.field == "content" and not args.json:
                    streams.write_text(delta.text)
    finally:
        stream.close()
    result = stream.result
    if args.json:
        report = json.dumps(_report(result, llm.path.name), ensure_ascii=streams.stdout.isatty())
        streams.stdout.write(report + "\n")
    elif not result.text.endswith("\n"):
        streams.write_text("\n")
    if result.finish_reason == "length" and result.usage.n_completion != args.max_tokens:
        streams.note_cut(result.usage.n_completion)
    if result.is_grammar_complete is False:
        streams.note("error: the text ended before it had the form that was asked for; allow more with --max-tokens")
        return 1
    return 0


def _read_prompt(args: argparse.Namespace, streams: Streams) -> str:
    if args.prompt is not None:
        return str(args.prompt)
    if args.file is not None:
        try:
            return str(args.file.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise BadRequest(f"{args.file} is not UTF-8 text (at byte {error.start}); expected a prompt") from error
    if streams.stdin is not None and streams.stdin.isatty():
        args.parser.error("no prompt; give one with -p, --file or on standard input")
    return streams.read_text()


def _report(result: Result, model: str) -> dict[str, object]:
    """What --json prints."""
    usage, timing = result.usage, result.timing
    return {
        "model": model,
        "text": result.text,
        "reasoning": result.reasoning,
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason,
        "thinking_stopped": result.thinking_stopped,
        "is_grammar_complete": result.is_grammar_complete,
        "usage": {
            "n_prompt": usage.n_prompt,
            "n_completion": usage.n_completion,
            "n_thinking": usage.n_thinking,
            "n_cached": usage.n_cached,
            "n_drafted": usage.n_drafted,
            "n_accepted": usage.n_accepted,
            "yarn_factor": usage.yarn_factor,
        },
        "seed": result.seed,
        "timing": {"prefill_s": timing.prefill_s, "decode_s": timing.decode_s},
    }
