"""Codes of what goes wrong, by which the page translates: they stay as they are, whatever the messages say."""

from typing import Final, Literal

from samovar.errors import BadRequest, PromptTooLong
from samovar.serving.failures import Failure, Refused

FileCode = Literal["file_unreadable", "file_empty", "file_kind", "file_too_large"]
TOO_LONG, LOOP = "too_long", "loop"
_RENAMED: Final = {"context_length_exceeded": TOO_LONG}


class FileRefused(Refused, BadRequest):
    """A file of which nothing can be made here."""

    def __init__(self, message: str, code: FileCode) -> None:
        super().__init__(message, status=413 if code == "file_too_large" else 400, code=code)


class ImageNotTaken(Refused, BadRequest):
    """A chat has a picture, and its model reads text alone."""

    def __init__(self, name: str) -> None:
        message = f"{name} is a picture, which this model does not take: send it without"
        super().__init__(message, status=400, code="image_not_taken")


def code_of(failure: Failure) -> str:
    """The code of a failure."""
    code = failure.code or failure.kind
    return _RENAMED.get(code, code)


def message_of(error: Exception, failure: Failure) -> str:
    """What to say of it to a person in a chat."""
    if isinstance(error, PromptTooLong):
        return (
            f"this chat has {error.n_prompt:,} tokens (a word is one or two), and the model reads at most {error.n_max:,} with "
            "its answer: begin a new chat, go on from an earlier message, or shorten the text or the file"
        )
    return failure.message
