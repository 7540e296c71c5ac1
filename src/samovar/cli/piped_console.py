"""A rich console for streams that may be pipes."""

from rich.console import Console


class PipedConsole(Console):
    """Leaves a reader's departure to the program, where rich would end it with a code of its own."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich has caught."""
        raise BrokenPipeError
