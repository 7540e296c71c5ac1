"""Takes a config's keys one by one: each is read, known to be harmless, or refused by name."""

from samovar.errors import FormatError, UnsupportedModel

HARMLESS_KEYS = frozenset(
    {
        # bookkeeping of the files and of the library that wrote them
        "_name_or_path", "architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version",
        # ids: the tokenizer and generation_config.json are read for these
        "bos_token_id", "eos_token_id", "pad_token_id",
        # training and reporting only
        "attention_dropout", "initializer_range", "output_attentions", "output_hidden_states", "pretraining_tp",
        "return_dict", "use_cache", "chunk_size_feed_forward", "id2label", "label2id", "is_encoder_decoder", "problem_type",
        "_attn_implementation_autoset", "unsloth_version", "unsloth_fixed",
        # what the outputs mean, which `models.outputs` and `llm.recipe` read
        "num_labels", "classifier_from_token", "is_original_qwen3_reranker", "method", "use_sep_token",
        "sentence_transformers",
    }
)  # fmt: skip


class ConfigReader:
    """Takes keys out of a raw config one by one, checking each; what is left over at the end is refused."""

    def __init__(self, raw: dict[str, object], where: str) -> None:
        self._rest = {key: value for key, value in raw.items() if key not in HARMLESS_KEYS}
        self.where = where

    def size(self, key: str, *, default: int | None = None, maximum: int = 1 << 24) -> int:
        """A positive whole number. A missing or null key takes the default, where there is one."""
        value = self._rest.pop(key, None)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= maximum:
            raise FormatError(f"{self.where}: {key} is {value!r}; expected a whole number from 1 to {maximum}")
        return value

    def number(self, key: str, *, default: float) -> float:
        """A positive number."""
        value = self._rest.pop(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise FormatError(f"{self.where}: {key} is {value!r}; expected a positive number")
        return float(value)

    def switch(self, key: str, *, default: bool = False) -> bool:
        """True or false; null counts as the default."""
        value = self._rest.pop(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: {key} is {value!r}; expected true or false")
        return value

    def take(self, key: str) -> object:
        """Whatever stands there, or None."""
        return self._rest.pop(key, None)

    def finish(self) -> None:
        """Refuse what nobody read. Null values say nothing and pass."""
        if unread := sorted(key for key, value in self._rest.items() if value is not None):
            raise UnsupportedModel(
                f"{self.where}: keys that this architecture does not read: {unread}; "
                "a model that needs them would answer wrongly, so it is not loaded"
            )
