"""The lines of a dialogue that begin with a slash."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from samovar.cli.chat_session import ChatSession
from samovar.errors import SamovarError

_COMMAND = re.compile(r"/([a-z_]+|\?)(?:\s+(.*))?", re.DOTALL)

HELP = """\
/help            this list
/think on|off    let the model think before it answers, or not;
                 /think alone gives the choice back to the model
/system TEXT     set the system message;
                 /system alone shows it, /system - removes it
/save FILE       write the dialogue as JSON
/load FILE       go on with a saved dialogue
/stats           model, speed, and how full the context is
/clear           forget the dialogue so far
/exit            leave (also Ctrl-D)
Enter sends, Alt-Enter starts a new line,
\"\"\" opens and closes a text of several lines.
Ctrl-C stops the answer. A line that begins with // is sent with one slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to print after a command, and whether it ends the program."""

    text: str = ""
    is_error: bool = False
    is_end: bool = False


def run_command(line: str, session: ChatSession) -> Outcome | None:
    """Carry out `line` if it is a command; None if it is a message for the model."""
    match = _COMMAND.fullmatch(line.strip())
    if match is None:
        return None
    command = _COMMANDS.get(match[1])
    if command is None:
        known = " ".join(f"/{name}" for name in _COMMANDS if name.isalpha())
        return Outcome(text=f"/{match[1]} is no command; there are {known}. To send it as text, begin with //", is_error=True)
    try:
        return command((match[2] or "").strip(), session)
    except SamovarError as error:
        return Outcome(text=str(error), is_error=True)


def message_text(line: str) -> str:
    """The message in a line that is no command: without the doubled slash, or the quotes around several lines."""
    text = line.strip()
    if text.startswith("//"):
        return text[1:]
    if len(text) >= 6 and text.startswith('"""') and text.endswith('"""'):
        return text[3:-3].strip("\n")
    return text


def is_open(text: str) -> bool:
    """True while a text begun with three quotes waits for the closing three."""
    return text.lstrip().startswith('"""') and text.count('"""') % 2 == 1


def _help(argument: str, _session: ChatSession) -> Outcome:
    return _unexpected("help", argument) or Outcome(text=HELP)


def _think(argument: str, session: ChatSession) -> Outcome:
    choices = {"on": True, "off": False, "": None}
    if argument not in choices:
        return Outcome(text=f"/think {argument}: expected /think on or /think off", is_error=True)
    choice = choices[argument]
    if choice is not None:
        session.llm.check_thinking(choice)
    session.is_thinking = choice
    return Outcome(text=f"thinking: {argument or 'as the model does by default'}")


def _system(argument: str, session: ChatSession) -> Outcome:
    if not argument:
        return Outcome(text=f"system message: {session.system}" if session.system else "no system message of your own is set")
    session.system = None if argument == "-" else argument
    return Outcome(text="system message set" if session.system else "system message removed")


def _save(argument: str, session: ChatSession) -> Outcome:
    if not argument:
        return Outcome(text="/save needs the name of a file", is_error=True)
    return Outcome(text=f"{_count(session.save(Path(argument).expanduser()), 'message')} written to {argument}")


def _load(argument: str, session: ChatSession) -> Outcome:
    if not argument:
        return Outcome(text="/load needs the name of a file", is_error=True)
    return Outcome(text=f"{_count(session.load(Path(argument).expanduser()), 'message')} read from {argument}")


def _clear(argument: str, session: ChatSession) -> Outcome:
    if refusal := _unexpected("clear", argument):
        return refusal
    session.clear()
    return Outcome(text="the dialogue is forgotten")


def _exit(argument: str, _session: ChatSession) -> Outcome:
    return _unexpected("exit", argument) or Outcome(is_end=True)


def _stats(argument: str, session: ChatSession) -> Outcome:
    if refusal := _unexpected("stats", argument):
        return refusal
    llm = session.llm
    config = llm.model.config
    lines = [
        f"model      {llm.path.name} ({config.architecture}, {config.n_layers} layers of width {config.d_model})",
        f"kernels    {llm.ops.isa}, {llm.ops.n_threads} threads, keys and values in {llm.kv_type}",
        f"dialogue   {_count(len(session.messages), 'message')}, {_count(session.n_generated, 'token')} generated in "
        + _count(session.n_turns, "answer"),
    ]
    if (result := session.last) is not None:
        usage, timing = result.usage, result.timing
        read_rate = _rate(usage.n_prompt - usage.n_cached, timing.prefill_s)
        lines += [
            f"context    {usage.n_prompt + usage.n_completion:,} of {llm.max_context:,} tokens"
            + (f", with YaRN factor {usage.yarn_factor}" if usage.yarn_factor > 1 else ""),
            f"prompt     {usage.n_prompt:,} tokens, {usage.n_cached:,} of them kept from before; {read_rate}",
            f"answer     {usage.n_completion:,} tokens, {usage.n_thinking:,} of them thoughts; "
            + _rate(usage.n_completion - 1, timing.decode_s),
            f"guessed    {_count(usage.n_drafted, 'token')} ahead, {usage.n_accepted:,} of them right",
        ]
    return Outcome(text="\n".join(lines))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _rate(n_tokens: int, seconds: float) -> str:
    return f"{n_tokens / seconds:,.1f} tokens/s" if seconds > 0 and n_tokens > 0 else "no time measured"


def _unexpected(name: str, argument: str) -> Outcome | None:
    return Outcome(text=f"/{name} takes nothing after it, and got {argument!r}", is_error=True) if argument else None


_COMMANDS: dict[str, Callable[[str, ChatSession], Outcome]] = {
    "help": _help,
    "?": _help,
    "think": _think,
    "system": _system,
    "save": _save,
    "load": _load,
    "stats": _stats,
    "clear": _clear,
    "exit": _exit,
    "quit": _exit,
}
