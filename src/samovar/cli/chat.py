"""`samovar chat`: a dialogue in the terminal, or one answer where standard input is no terminal."""

import argparse

from rich.console import Console
from rich.text import Text

from samovar.cli.arguments import (
    MAX_UNWATCHED_TOKENS,
    Subparsers,
    add_model_options,
    add_sampling_options,
    add_thinking_options,
    option_message,
    read_model_arguments,
    read_sampling_options,
    utf8_text,
)
from samovar.cli.chat_commands import message_text, run_command
from samovar.cli.chat_input import ChatInput
from samovar.cli.chat_session import ChatSession
from samovar.cli.chat_view import AnswerView, StopKey, keys_unseen
from samovar.cli.loading import load_llm
from samovar.cli.progress import ProgressBar
from samovar.cli.reading import ReadingBar
from samovar.cli.terminal import Streams, one_line, printable
from samovar.errors import SamovarError
from samovar.formats.hub import EMBEDDED_DEFAULT, default_store, resolve
from samovar.text.output_parser import Delta

_EXAMPLES = """examples:
  samovar chat                                  the embedded default, smollm2:135m
  samovar chat qwen2.5-coder:0.5b --ctx-size 8192
  samovar chat ./my-model.gguf --system "Answer in one sentence." --no-think
  echo "What is the capital of France?" | samovar chat

In the dialogue, /help lists the commands. When standard input is no terminal, all of it is one message, the answer is
printed as plain text, the likeliest token is taken each time unless --temperature says otherwise, and the answer ends
after 4096 tokens unless --max-tokens says otherwise.
"""
_HISTORY_FILE = "chat_history"


def add_parser(subparsers: Subparsers) -> None:
    """The command's arguments."""
    parser = subparsers.add_parser("chat", help="talk to a model", description=__doc__, epilog=_EXAMPLES)
    add_model_options(parser)
    parser.add_argument("--system", type=utf8_text, metavar="TEXT", help="the system message")
    add_thinking_options(parser)
    add_sampling_options(parser)
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, streams: Streams) -> int:
    """Talk until the user leaves, or answer what stdin holds."""
    sampling, model = read_sampling_options(args), read_model_arguments(args)
    resolve(model.name or EMBEDDED_DEFAULT, default_store())  # a missing model is reported before a prompt is waited for
    is_interactive = streams.stdin is not None and streams.stdin.isatty()
    question = "" if is_interactive else streams.read_text().strip()
    if not is_interactive and not question:
        args.parser.error("standard input is empty; expected a prompt")
    if not is_interactive:
        sampling.setdefault("temperature", 0.0)
        sampling.setdefault("max_tokens", MAX_UNWATCHED_TOKENS)
    with ProgressBar(streams, "packing") as progress:
        llm = load_llm(model, streams, progress)
    llm.card.check_writes_text()
    if args.think is not None:
        llm.check_thinking(args.think)
    session = ChatSession(
        llm=llm, sampling=sampling, system=args.system, is_thinking=args.think, thinking_budget=args.thinking_budget
    )
    if is_interactive:
        _talk(session, streams)
    else:
        _answer_once(session, question, streams)
    return 0


def _answer_once(session: ChatSession, question: str, streams: Streams) -> None:
    """Print the answer alone, as it comes."""
    stream = session.llm.stream_chat(
        [*session.request(), {"role": "user", "content": question}],
        thinking=session.is_thinking,
        thinking_budget=session.thinking_budget,
        **session.sampling,
    )
    try:
        with ReadingBar(streams, session.llm) as reading:
            for delta in stream:
                reading.stop()
                if delta.field == "content":
                    streams.write_text(delta.text)
    finally:
        stream.close()
    streams.write_text("\n")
    if stream.result.finish_reason == "length":
        streams.note_cut(stream.result.usage.n_completion)


def _talk(session: ChatSession, streams: Streams) -> None:
    """The dialogue. Mistakes are reported and do not end it."""
    console = streams.console(streams.stdout)
    user_input = ChatInput(default_store() / _HISTORY_FILE)
    console.print(Text(f"{one_line(session.llm.path.name)}. /help lists the commands, Ctrl-D leaves.", style="dim"))
    while True:
        try:
            line = user_input.read()
        except EOFError:
            return
        if not line.strip():
            continue
        outcome = run_command(line, session)
        if outcome is None:
            with keys_unseen(streams.stdin):
                _answer(message_text(line), session, streams, console)
        elif outcome.is_end:
            return
        else:
            console.print(Text(printable(outcome.text), style="red" if outcome.is_error else "dim"))


def _answer(text: str, session: ChatSession, streams: Streams, console: Console) -> None:
    """One turn on the screen."""
    view = AnswerView(console)
    try:
        with StopKey() as stop, ReadingBar(streams, session.llm) as reading:

            def show(delta: Delta) -> None:
                stop.is_patient = True
                reading.stop()
                view.show(delta)

            try:
                result = session.ask(text, show, lambda: stop.is_pressed)
            finally:
                view.close()
    except SamovarError as error:
        console.print(Text(one_line(option_message(error)), style="red"))
        return
    if result.finish_reason == "cancelled":
        kept = "what there is of it is kept" if result.text.strip() else "there was no answer yet, so the question is dropped"
        console.print(Text(f"(stopped; {kept})", style="dim"))
    elif result.finish_reason == "length":
        console.print(Text("(cut off: --max-tokens or the context is used up)", style="dim"))
    console.print()
