"""Tiny random models in the form of Qwen3-Embedding and Qwen3-Reranker, and the code of their model cards.

Their tokenizer is Qwen3's own, cut after its first pieces: the whole of it takes seconds to write and to read, and they are
written and read in dozens of forms.
"""

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gguf
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.models.tiny_checkpoints import Variant, random_model
from tests.models.tiny_gguf import write_gguf
from tests.text.witnesses import QWEN3_CONFIG, as_gguf, qwen3_json

N_PIECES, VOCAB_SIZE, END = 12_000, 12_288, "<|endoftext|>"
END_ID, IM_END_ID = N_PIECES, N_PIECES + 2
YES_ID, NO_ID = 9693, 2152
TINY = Variant(
    model_type="qwen3",
    settings={
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "eos_token_id": END_ID,
        "bos_token_id": END_ID,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"
QUERIES = ["What is the capital of China?", "Explain gravity", "空気"]
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is responsible "
    "for the movement of planets around the sun.",
    "L'eau du samovar est chaude.\n\n",
]
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
PROMPTS = {"query": f"Instruct: {TASK}\nQuery:", "document": ""}
_OLD_POOLING = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


@cache
def _first_pieces() -> str:
    """Qwen3's tokenizer with its first pieces alone, and its control tokens after them."""
    tokenizer = json.loads(qwen3_json().read_text(encoding="utf-8"))
    vocabulary = {text: token_id for text, token_id in tokenizer["model"]["vocab"].items() if token_id < N_PIECES}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in tokenizer["model"]["merges"]]
    tokenizer["model"] |= {"vocab": vocabulary, "merges": [pair for pair in pairs if "".join(pair) in vocabulary]}
    for token_id, token in enumerate(tokenizer["added_tokens"], N_PIECES):
        token["id"] = token_id
    return json.dumps(tokenizer)


def write_tokenizer(folder: Path, *, appends: str | None) -> None:
    """The tokenizer; with `appends` its post-processor puts that token after each text, as Qwen3-Embedding's does."""
    tokenizer = json.loads(_first_pieces())
    if appends is not None:
        token_id = next(t["id"] for t in tokenizer["added_tokens"] if t["content"] == appends)
        template = {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": appends, "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {appends: {"id": appends, "ids": [token_id], "tokens": [appends]}},
        }
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [tokenizer["post_processor"], template]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(QWEN3_CONFIG))


def write_sentence_files(folder: Path, *, pooling: str = "lasttoken", prompts: dict[str, str] | None = PROMPTS) -> None:
    """What stands beside the published Qwen3-Embedding."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    config = {"word_embedding_dimension": 64, "include_prompt": True}
    config |= {f"pooling_mode_{mode}": mode == pooling for mode in _OLD_POOLING}
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    if prompts is not None:
        said = {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(said))


@cache
def model(*, is_tied: bool = True):
    """The causal model that all forms are made of."""
    return random_model(TINY, tie_word_embeddings=is_tied)


def write_embedder(folder: Path, *, appends: str | None = END, is_bare: bool = True, is_tied: bool = True) -> Path:
    """As published: tensors are named without `model.`, and there is no head. Without sentence-transformers' files."""
    folder.mkdir(parents=True)
    model(is_tied=is_tied).save_pretrained(folder)
    if is_bare:
        weights = load_file(folder / "model.safetensors")
        bare = {name.removeprefix("model."): values for name, values in weights.items() if name != "lm_head.weight"}
        save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, appends=appends)
    return folder


def write_reranker(folder: Path, *, is_tied: bool = True) -> Path:
    """As published: a causal model."""
    folder.mkdir(parents=True)
    model(is_tied=is_tied).save_pretrained(folder)
    write_tokenizer(folder, appends=None)
    return folder


def yes_no_rows(*, is_tied: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """The output head's rows for yes and no."""
    head = model(is_tied=is_tied).lm_head.weight.detach()
    tokenizer = card_tokenizer(appends=None)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    return head[yes].clone(), head[no].clone()


def write_classifier(folder: Path, *, n_labels: int, **config: object) -> Path:
    """A reranker as `Qwen3ForSequenceClassification`: one label, yes less no, or the rows of no and yes."""
    write_reranker(folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight", None)
    yes, no = yes_no_rows()
    weights["score.weight"] = (yes - no)[None] if n_labels == 1 else torch.stack([no, yes])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}} if n_labels == 1 else {}
    raw |= {"architectures": ["Qwen3ForSequenceClassification"], "pad_token_id": END_ID, **labels, **config}
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def write_embedder_gguf(path: Path, *, name: str, pooling: int | None = 3, end_id: int | None = END_ID) -> Path:
    """As llama.cpp's converter writes Qwen3-Embedding; `end_id` is what `add_eos_token` appends."""

    def describe(writer: gguf.GGUFWriter) -> None:
        describe_tokenizer(writer, IM_END_ID if end_id is None else end_id)
        writer.add_add_eos_token(end_id is not None)
        if pooling is not None:
            writer.add_pooling_type(gguf.PoolingType(pooling))
        writer.add_string("general.basename", name)

    path.parent.mkdir(parents=True, exist_ok=True)
    return write_gguf(model(), path, "F32", describe=describe)


def write_reranker_gguf(path: Path, *, labels: tuple[str, ...] = ("yes", "no"), prompt: str | None = None) -> Path:
    """As llama.cpp's converter writes Qwen3-Reranker: a classifier of the head's rows, in the order of the labels."""

    def describe(writer: gguf.GGUFWriter) -> None:
        describe_tokenizer(writer, IM_END_ID)
        writer.add_pooling_type(gguf.PoolingType.RANK)
        if labels:
            writer.add_classifier_output_labels(list(labels))
        if prompt is not None:
            writer.add_chat_template([{"name": "rerank", "template": prompt}])

    yes, no = yes_no_rows()
    rows = torch.stack([no, yes] if labels[:1] == ("no",) else [yes, no])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_gguf(model(), path, "F32", describe=describe, tensors={"cls.output.weight": rows.numpy()})


def describe_tokenizer(writer: gguf.GGUFWriter, eos_id: int) -> None:
    """The keys of the tokenizer, as llama.cpp's converter writes them."""
    told = as_gguf(json.loads(_first_pieces()))
    tokens, kinds = told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"]
    padding = range(len(tokens), VOCAB_SIZE)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *(f"[PAD{i}]" for i in padding)])
    writer.add_token_types([*kinds, *(5 for _ in padding)])
    writer.add_token_merges(told["tokenizer.ggml.merges"])
    writer.add_eos_token_id(eos_id)
    writer.add_pad_token_id(END_ID)
    writer.add_add_bos_token(False)


@cache
def card_tokenizer(*, appends: str | None):
    """`AutoTokenizer.from_pretrained(..., padding_side="left")` of the model cards."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), appends=appends)
        return PreTrainedTokenizerFast(
            tokenizer_file=f"{folder}/tokenizer.json", padding_side="left", pad_token=END, eos_token="<|im_end|>"
        )


def instruct(query: str, task: str = TASK) -> str:
    """get_detailed_instruct of the model card."""
    return f"Instruct: {task}\nQuery:{query}"


def card_embeddings(texts: list[str]) -> torch.Tensor:
    """The vectors [S, D] of Qwen3-Embedding's model card: left padding, the last position's state, normalised."""
    batch = card_tokenizer(appends=END)(texts, padding=True, truncation=True, max_length=1024, return_tensors="pt")
    base = copy.copy(model().model)
    assert isinstance(base, type(AutoModel.from_config(model().config)))
    with torch.inference_mode():
        states = base(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert batch["attention_mask"][:, -1].all()
    return torch.nn.functional.normalize(states[:, -1], p=2, dim=1)


@dataclass(frozen=True)
class CardReranker:
    """The code of Qwen3-Reranker's model card."""

    is_tied: bool = True

    def scores(self, pairs: list[tuple[str, str]], task: str = TASK) -> list[float]:
        tokenizer, causal = card_tokenizer(appends=None), model(is_tied=self.is_tied)
        assert isinstance(causal, type(AutoModelForCausalLM.from_config(causal.config)))
        prefix, suffix = (tokenizer.encode(text, add_special_tokens=False) for text in (PREFIX, SUFFIX))
        bodies = [f"<Instruct>: {task}\n<Query>: {query}\n<Document>: {document}" for query, document in pairs]
        ids = tokenizer(bodies, padding=False, truncation="longest_first", return_attention_mask=False, max_length=900)
        inputs = {"input_ids": [[*prefix, *one, *suffix] for one in ids["input_ids"]]}
        batch = tokenizer.pad(inputs, padding=True, return_tensors="pt")
        with torch.inference_mode():
            logits = causal(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1, :]
        yes, no = (logits[:, tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
        return torch.log_softmax(torch.stack([no, yes], dim=1), dim=1)[:, 1].exp().tolist()
