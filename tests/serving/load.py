"""What locust's users do in the load test: many chat at once, one asks for /health. Refusals are honest or failures."""

from locust import HttpUser, constant, task


class Talker(HttpUser):
    """Sends a short chat, reads the stream to its end, and begins again."""

    weight = 199
    wait_time = constant(0)

    @task
    def chat(self):
        """An answer, or a refusal that says when to come back."""
        body = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": 16, "stream": True}
        with self.client.post("/v1/chat/completions", json=body, stream=True, catch_response=True) as reply:
            text = reply.content
            if reply.status_code in (429, 503) and "retry-after" in reply.headers:
                reply.success()
            elif reply.status_code != 200 or not text.rstrip().endswith(b"[DONE]") or b'"error"' in text:
                reply.failure(f"{reply.status_code} {text[-200:]!r}")


class Watcher(HttpUser):
    """Asks whether the server is there."""

    fixed_count = 1
    wait_time = constant(0.1)

    @task
    def health(self):
        """Has to be quick."""
        self.client.get("/health")
