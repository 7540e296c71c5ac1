"""The HTTP server: the OpenAI, Anthropic and Ollama dialects over one internal contract, `LLM.prepare_chat`."""
