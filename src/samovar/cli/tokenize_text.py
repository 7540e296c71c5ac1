"""`samovar tokenize`: a text as the model's tokenizer cuts it."""

import argparse
import json

from rich.console import Console
from rich.text import Text

from samovar.cli.arguments import Subparsers, utf8_text
from samovar.cli.terminal import Streams, printable
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_store, resolve
from samovar.llm.model_text import read_model_text
from samovar.text.tokenizer import Tokenizer

_EXAMPLES = """examples:
  samovar tokenize smollm2:135m "Hello, world"
  samovar tokenize model.gguf --ids < article.txt
  samovar tokenize model.gguf "<|im_start|>user" --plain

Control tokens in the text are recognised, and a beginning-of-text token is added where the model wants one, as in
`samovar generate`; with --plain they are ordinary text, as in a chat message, and nothing is added.
"""
_STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")
_CONTROL_STYLE = "bold white on red"


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("tokenize", help="show how a text is cut", description=__doc__, epilog=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="a GGUF file, a Hugging Face folder, or a name in the store")
    parser.add_argument("text", nargs="?", type=utf8_text, metavar="TEXT", help="the text (default: standard input, as it is)")
    parser.add_argument("--plain", action="store_true", help="take control tokens for ordinary text")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ids", action="store_true", help="print the ids alone, on one line")
    form.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Print the tokens."""
    if args.text is None and streams.stdin is not None and streams.stdin.isatty():
        args.parser.error("no text; give one as an argument or on standard input")
    text = streams.read_text() if args.text is None else args.text
    tokenizer = read_model_text(open_checkpoint(resolve(args.model, default_store()))).tokenizer
    ids = tokenizer.encode(text, parse_control=not args.plain, add_bos=False if args.plain else None)
    if args.ids:
        streams.stdout.write(" ".join(map(str, ids)) + "\n")
    elif args.json:
        tokens = [{"id": i, "text": _piece(tokenizer, i), "is_control": tokenizer.is_control(i)} for i in ids]
        streams.stdout.write(json.dumps({"n_tokens": len(ids), "tokens": tokens}) + "\n")
    else:
        _print_pieces(ids, tokenizer, streams.console(streams.stdout))
    return 0


def _print_pieces(ids: list[int], tokenizer: Tokenizer, console: Console) -> None:
    """One token a line: its id, and its text in quotes on alternating colours."""
    width = max((len(str(i)) for i in ids), default=1)
    for position, token_id in enumerate(ids):
        style = _CONTROL_STYLE if tokenizer.is_control(token_id) else _STYLES[position % len(_STYLES)]
        line = Text(f"{token_id:>{width}}  ").append(_visible(_piece(tokenizer, token_id)), style=style)
        console.print(line, soft_wrap=True)
    console.print(f"{len(ids)} tokens" if len(ids) != 1 else "1 token")


def _piece(tokenizer: Tokenizer, token_id: int) -> str:
    """The token's text; bytes that are no character by themselves as \\xNN."""
    return tokenizer.token_bytes(token_id).decode("utf-8", "backslashreplace")


def _visible(piece: str) -> str:
    """`piece` on one line."""
    return printable(piece.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r"))
