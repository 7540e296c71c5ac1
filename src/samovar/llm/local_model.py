"""A model that is open in this process: its weights, its pages, its engine."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samovar import __version__
from samovar.engine.engine import Engine, Limits, StartDrafter
from samovar.engine.engine_thread import EngineThread
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.page_pool import PagePool
from samovar.errors import FormatError, StoreError, UnsupportedModel
from samovar.formats import open_checkpoint
from samovar.formats.cache import CacheStore
from samovar.formats.gguf import GgufCheckpoint
from samovar.formats.hub import default_cache, default_store, resolve
from samovar.kernels import PAGE_TOKENS, KvType
from samovar.llm.engine_stats import EngineStats, engine_stats
from samovar.llm.memory import Budget, available_bytes, size
from samovar.llm.model_card import read_card
from samovar.llm.model_settings import ModelSettings
from samovar.llm.model_text import ModelText, read_model_text, with_template
from samovar.llm.setup import choose_ops, kv_type_for
from samovar.llm.speculation import check_no_speculation, check_same_vocabulary
from samovar.llm.thinking_tokens import thinking_tokens
from samovar.models.blocks import Decoder
from samovar.models.config import DecoderConfig
from samovar.models.loader import load_model
from samovar.models.packing import BackgroundPacker

if TYPE_CHECKING:
    from samovar.text.grammar import GrammarCompiler

_PREFIXES: Final = "prefixes"
Progress = Callable[[int, int, str], None]


class LocalModel:
    """Opens the model that `settings` describe. Raises a SamovarError for whatever is wrong with them or its files."""

    def __init__(self, settings: ModelSettings, progress: Progress | None) -> None:
        self.path = resolve(settings.path, default_store())
        if settings.draft is not None:  # said before the larger model is loaded
            resolve(settings.draft, default_store())
        self._cache = default_cache() if settings.cache else None
        checkpoint = open_checkpoint(self.path, self._cache)
        self.ops, self.slow_reason = choose_ops(settings.isa, settings.n_threads)
        free_bytes = available_bytes()
        loaded = load_model(checkpoint, self.ops, self._cache, progress, settings.weights)
        self.model: Decoder = loaded.decoder
        self.packer = loaded.packer
        with _stopping(self.packer):
            self.text: ModelText = with_template(read_model_text(checkpoint, self._cache), settings.chat_template)
            self.card = read_card(checkpoint, self.model.config, self.text)
            self.kv_type: KvType = settings.kv_type or kv_type_for(self.model.embedding.type.name)
            self._long_context = self.model.config.long_context if settings.long_context == "auto" else None
            pool = self._make_pool(settings, Budget(settings.memory, free_bytes, self.model.packed_bytes))
            self.draft: LocalModel | None = None
            self.engine = Engine(
                self.model,
                self.ops,
                pool,
                self.model.config.vocab_size,
                self.max_context,
                Limits(max_running=settings.max_streams, max_waiting=settings.max_waiting),
                self._drafters(settings, progress),
                thinking_tokens=thinking_tokens(self.text.tokenizer),
                compile_grammar=lambda spec: self._grammars.compile(spec),
                keeps_prefixes=settings.prefix_cache,
                long_context=self._long_context,
            )
        self.client = EngineThread(self.engine)
        self._checkpoint, self._weights = checkpoint, settings.weights

    has_failed = False  # a step that fails ends the requests in it, and no more

    @property
    def config(self) -> DecoderConfig:
        """The model's sizes and switches."""
        return self.model.config

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know about how the model was loaded, a line each."""
        lines = [self.slow_reason] if self.slow_reason else []
        if not isinstance(self._checkpoint, GgufCheckpoint):
            lines.extend(self._checkpoint.warnings)
        if self._cache is not None and self._cache.problem:
            lines.append(self._cache.problem)
        if self._is_context_cut:
            lines.append(
                f"the context is {self.max_context} tokens, as far as the memory goes; "
                f"the model takes {self.model.config.max_context}"
            )
        if self._has_fewer_streams:
            lines.append(
                f"{self._n_streams} requests run at once, as far as the memory goes: each takes "
                f"{size(self.config.state_bytes)} for its recurrent state, however short it is"
            )
        return tuple(lines)

    def load_adapter(self, name: str, path: str) -> None:
        """Read a PEFT folder, and let requests name it. Raises ModelNotFound, FormatError or UnsupportedModel for
        what is none, BadRequest for a name in use."""
        from samovar.models.adapter_loader import load_adapter  # start-up waits for imports, and few ask for it

        adapter = load_adapter(Path(path), self.model.projections, self.ops)
        self.client.call(lambda engine: engine.load_adapter(name, adapter))

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises BadRequest for one that is not there, or in use."""
        self.client.call(lambda engine: engine.unload_adapter(name))

    def save_prefixes(self, folder: str) -> int:
        """Write what the prefix cache holds to a file in `folder`; the tokens. Raises StoreError where the disk refuses."""
        from samovar.engine.prefix_store import collect

        self._check_prefixes_alone()
        meta, sections = self.client.call(lambda engine: collect(engine.cache))
        store = CacheStore(Path(folder))
        if store.write(_PREFIXES, self._prefix_key(), meta, sections) is None:
            raise StoreError(store.problem or f"{folder}: the prefixes could not be written")
        nodes = meta["nodes"]
        assert isinstance(nodes, list)
        return sum(len(node["ids"]) for node in nodes)

    def load_prefixes(self, folder: str) -> int:
        """Take up what `save_prefixes` wrote, as far as pages are free; the tokens.

        Raises StoreError where the folder holds nothing sound for this model, FormatError where what it holds makes no sense.
        """
        from samovar.engine.prefix_store import restore

        self._check_prefixes_alone()
        store, key = CacheStore(Path(folder)), self._prefix_key()
        file = store.open(_PREFIXES, key)
        if file is None and store.has(_PREFIXES, key):
            raise StoreError(f"{folder}: the prefixes saved for this model are damaged; remove them, and save them again")
        if file is None:
            raise StoreError(
                f"{folder}: there are no prefixes for this model with weights and keys of these types; save some first"
            )
        vocab_size = self.config.vocab_size
        factors = (1,) if self._long_context is None else tuple(self._long_context.ropes)
        try:
            return self.client.call(lambda engine: restore(engine.cache, file.meta, file.sections, vocab_size, factors))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder}: the saved prefixes are unsound ({error}); remove the file") from error

    def stats(self, _: float | None = None) -> EngineStats:
        """Numbers of the engine."""
        return engine_stats(self.engine)

    def _check_prefixes_alone(self) -> None:
        if self.config.delta_net is not None:
            raise UnsupportedModel(
                f"{self.path}: prefixes of {self.config.architecture} models are not saved, since keys and values are of no "
                "use there without recurrent states; the prefix cache of a running model works"
            )

    def _prefix_key(self) -> str:
        """Stands for all that keys and values depend on beside the tokens."""
        parts = (__version__, PAGE_TOKENS, self._checkpoint.identity, self._weights, self.kv_type)
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()

    @cached_property
    def _grammars(self) -> "GrammarCompiler":
        from samovar.text.grammar import GrammarCompiler  # start-up waits for imports, and few ask for it

        return GrammarCompiler(self.text.tokenizer, end_ids=self.text.eos_ids)

    def _make_pool(self, settings: ModelSettings, budget: Budget) -> PagePool:
        """Room for the keys and values of as many tokens as are asked for, or fit."""
        config = self.model.config
        longest = config.max_context if self._long_context is None else self._long_context.longest
        self.max_context, n_pages = budget.choose(config, self.kv_type, settings.max_context, settings.max_streams, longest)
        self._is_context_cut = settings.max_context is None and self.max_context < config.max_context
        self._n_streams = budget.n_sequences(config, settings.max_streams)
        self._has_fewer_streams = self._n_streams < settings.max_streams
        return PagePool.of(config, self.kv_type, n_pages=n_pages, n_sequences=self._n_streams)

    def _drafters(self, settings: ModelSettings, progress: Progress | None) -> tuple[StartDrafter, ...]:
        """What guesses ahead; the draft model is opened for it."""
        if self.config.delta_net is not None:
            check_no_speculation(self.path, settings.speculation, settings.draft)
            return ()
        drafters: list[StartDrafter] = [lambda _: NgramDrafter()] if settings.speculation in ("auto", "ngram") else []
        if settings.draft is not None:
            from samovar.engine.draft_model import DraftModel  # start-up waits for imports, and few ask for it

            own = ModelSettings(
                path=settings.draft,
                n_threads=settings.n_threads,
                kv_type=settings.kv_type,
                weights=settings.weights,
                isa=settings.isa,
                cache=settings.cache,
                speculation="off",
                long_context=settings.long_context,
            )
            self.draft = LocalModel(own, progress)
            self.draft.card.check_writes_text()
            if self.draft.config.delta_net is not None:
                check_no_speculation(self.draft.path, "draft", settings.draft)
            check_same_vocabulary(self.text.tokenizer, self.draft.text.tokenizer, self.draft.path)
            drafters.append(DraftModel(self.draft.engine).start)
        return tuple(drafters)


@contextmanager
def _stopping(packer: BackgroundPacker | None) -> Iterator[None]:
    """Stop packing where what goes on beside it fails."""
    try:
        yield
    except BaseException:
        if packer is not None:
            packer.stop()
        raise
