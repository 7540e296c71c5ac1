"""From command-line choices to a loaded model, with what the user should know about it on stderr."""

from samovar.cli.arguments import ModelArguments
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams
from samovar.llm import LLM


def load_llm(arguments: ModelArguments, streams: Streams, progress: ProgressBar, *, process: bool = False) -> LLM:
    """Load the model, in a `process` of its own if asked. Each of its warnings is a line: why it will be slow, where it will.

    Weights may go on being packed behind the bar afterwards: the caller stops it before it writes to the terminal.
    """
    llm = LLM(
        arguments.name,
        n_threads=arguments.n_threads,
        max_context=arguments.max_context,
        kv_type=arguments.kv_type,
        weights=arguments.weights,
        isa=streams.isa,
        draft=arguments.draft,
        speculation=arguments.speculation,
        cache=arguments.cache,
        memory=arguments.memory,
        max_streams=arguments.max_streams,
        max_waiting=arguments.max_waiting,
        chat_template=arguments.chat_template,
        long_context=arguments.long_context,
        process=process,
        progress=progress,
    )
    if llm.warnings:
        progress.stop()
    for warning in llm.warnings:
        streams.note(f"warning: {warning}")
    return llm
