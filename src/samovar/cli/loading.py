"""From command-line choices to a loaded model, with what the user should know about it on stderr."""

from samovar.cli.arguments import ModelArguments
from samovar.cli.progress import ProgressBar
from samovar.cli.terminal import Streams
from samovar.llm import LLM


def load_llm(arguments: ModelArguments, streams: Streams) -> LLM:
    """Load the model under a progress bar. Each of its warnings is a line: why it will be slow, where it will."""
    with ProgressBar(streams.console(streams.stderr), "loading") as progress:
        llm = LLM(
            arguments.name,
            n_threads=arguments.n_threads,
            max_context=arguments.max_context,
            kv_type=arguments.kv_type,
            isa=streams.isa,
            draft=arguments.draft,
            speculation=arguments.speculation,
            progress=progress,
        )
    for warning in llm.warnings:
        streams.note(f"warning: {warning}")
    return llm
