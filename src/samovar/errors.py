"""Every exception that Samovar raises on purpose, on one page.

A message says where, what was found, what was expected and what to do. `assert` is for our own bugs only.
"""


class SamovarError(Exception):
    """Anything a user, a file, a network or a client can cause. Caught once, at the outermost edge."""


class FormatError(SamovarError):
    """A file is damaged, truncated, or not what its name says."""


class UnsupportedModel(SamovarError):
    """A file is sound, and holds something this version does not implement; the message names it."""


class ModelNotFound(SamovarError):
    """A path or name leads to no model on disk; the message says how to get one."""


class StoreError(SamovarError):
    """The disk refused: no space, no permission, a folder where a file should be."""


class DownloadError(SamovarError):
    """A fetch failed, or what came is not what was promised (size, sha256)."""


class OutOfMemory(SamovarError):
    """What was asked for does not fit; the message says what would."""


class BadRequest(SamovarError):
    """A request cannot be served as it stands. `param` names the field at fault, where one is."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLong(BadRequest):
    """The prompt alone, or with the tokens it asks for, exceeds the context."""

    def __init__(self, n_prompt: int, n_max: int) -> None:
        super().__init__(
            f"the prompt has {n_prompt} tokens, and the context holds {n_max}, the answer included: shorten it, start the "
            "conversation afresh, or load the model with a larger context if it takes more",
            param="messages",
        )
        self.n_prompt, self.n_max = n_prompt, n_max


class EngineFailed(SamovarError):
    """The engine broke down under a request, which may be sent again."""


class Overloaded(SamovarError):
    """The queue is full. `wait_s` is the time after which a place can be expected."""

    def __init__(self, n_waiting: int, wait_s: float) -> None:
        wait_s = max(1.0, wait_s)
        super().__init__(
            f"{n_waiting} requests are waiting, as many as the queue holds: try again in about {round(wait_s)} s, send "
            "fewer at once, or allow a longer queue"
        )
        self.n_waiting, self.wait_s = n_waiting, wait_s


class NoTokenLeft(SamovarError):
    """Logits leave no token to choose: all are forbidden, or they are no numbers. `row` of the batch is at fault."""

    def __init__(self, message: str, *, row: int) -> None:
        super().__init__(message)
        self.row = row


class GrammarError(SamovarError):
    """A grammar was compiled and cannot be followed further. It ends the request it belongs to, and no other."""


class TemplateError(BadRequest):
    """A chat template is unsound, refused these messages, or tried what the sandbox forbids."""
