"""The table of OpenAI's routes beside chat and responses, and of those that vLLM, llama.cpp, Jina and Cohere added to them."""

from typing import Final

from samovar.serving.openai_completions import completions
from samovar.serving.openai_models import load_lora_adapter, model, models, unload_lora_adapter
from samovar.serving.openai_scores import embeddings, rerank, score
from samovar.serving.openai_tokens import apply_template, detokenize, tokenize
from samovar.serving.server import Table

OPENAI_ROUTES: Final[Table] = (
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/embeddings", embeddings),
    ("POST", "/v1/rerank", rerank),
    ("POST", "/v2/rerank", rerank),
    ("POST", "/rerank", rerank),
    ("POST", "/v1/score", score),
    ("POST", "/score", score),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model:path}", model),
    ("POST", "/tokenize", tokenize),
    ("POST", "/detokenize", detokenize),
    ("POST", "/apply-template", apply_template),
    ("POST", "/v1/load_lora_adapter", load_lora_adapter),
    ("POST", "/v1/unload_lora_adapter", unload_lora_adapter),
)
