"""The `samovar` program: finds the command, and turns what goes wrong into one line and an exit code.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted, 141 nobody reads the output any more; 128 + N where a
command tidied up before signal N ended it.
"""

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from samovar import __version__
from samovar.cli.arguments import Parser, option_message
from samovar.cli.terminal import Streams, one_line
from samovar.errors import SamovarError

# Name to module: only the one that is asked for is imported, since some take long to import.
_COMMANDS = {
    "chat": "chat",
    "generate": "generate",
    "inspect": "inspect_model",
    "doctor": "doctor",
    "tokenize": "tokenize_text",
    "pull": "pull",
    "list": "list_models",
    "show": "show_model",
    "rm": "remove_model",
    "cache": "cache",
    "convert": "convert",
    "bench": "bench",
    "plan": "plan",
    "quality": "quality",
    "serve": "serve",
    "app": "app",
    "keys": "keys",
    "quantize": "quantize",
}
_DESCRIPTION = "Run open-weight language models (the Qwen3 family, and others) on this computer's processor."
_EPILOG = """examples:
  samovar pull qwen3:0.6b
  samovar app
  samovar chat ./qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
  echo "What is the capital of France?" | samovar chat

environment:
  SAMOVAR_HOME   folder of the model store
  SAMOVAR_ISA    kernels to use: numpy, scalar, avx2, avx512, amx, neon, neon_dot (default: the best that this
                 processor has)
  NO_COLOR       no colours
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program on `argv` (default: the process's arguments). Returns the exit code."""
    if sys.stderr is None:  # closed by the caller: what would be said there is lost, as the caller wants it
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stderr.write("samovar: error: standard output is closed; expected a terminal, a pipe or a file\n")
        return 1
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character the locale lacks must not end an answer
    streams = Streams(stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr, environ=os.environ)
    code = run(argv, streams)
    gc.freeze()  # the interpreter's last collections would look at all objects: 20 ms and more, for memory that goes anyway
    return code


def run(argv: Sequence[str] | None, streams: Streams) -> int:
    """As `main`, on given streams."""
    try:
        argv = sys.argv[1:] if argv is None else argv
        args = build_parser(argv[0] if argv else None).parse_args(argv)
        code: int = args.run(args, streams)
        streams.stdout.flush()
    except SystemExit as leaving:  # argparse has said why
        return leaving.code if isinstance(leaving.code, int) else 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _discard_output(streams)
        return 141
    except SamovarError as error:
        return _fail(option_message(error), streams)
    except MemoryError:
        return _fail("out of memory: choose a smaller model, or a smaller --ctx-size", streams)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", streams)
    return code


def build_parser(command: str | None = None) -> Parser:
    """The options of `command`; those of all commands where it is none of them."""
    parser = Parser(prog="samovar", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"samovar {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for module in [_COMMANDS[command]] if command in _COMMANDS else _COMMANDS.values():
        importlib.import_module(f"samovar.cli.{module}").add_parser(subparsers)
    return parser


def _fail(message: str, streams: Streams) -> int:
    streams.note(f"error: {one_line(message)}")
    return 1


def _discard_output(streams: Streams) -> None:
    """Point stdout at nothing, so that the interpreter's last flush stays quiet."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), streams.stdout.fileno())
    except (OSError, ValueError):  # not a real file: nothing will be flushed
        return
