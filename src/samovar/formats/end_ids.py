"""The ids that end an answer, as config.json and generation_config.json name them."""

from collections.abc import Mapping

from samovar.errors import FormatError


def end_ids(config: Mapping[str, object], where: str, vocab_size: int | None = None) -> list[int]:
    """`eos_token_id` of a config.json or generation_config.json: none, one id or several.

    Raises FormatError for what is no id, and for one outside of a vocabulary of `vocab_size`.
    """
    found = config.get("eos_token_id")
    given: list[object] = found if isinstance(found, list) else [] if found is None else [found]
    ids = [i for i in given if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < (vocab_size or i + 1)]
    if len(ids) != len(given):
        span = "" if vocab_size is None else f" from 0 to {vocab_size - 1}"
        raise FormatError(f"{where}: eos_token_id is {found!r}; expected an id{span}, or a list of ids")
    return ids
