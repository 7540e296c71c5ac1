"""Numbers for Prometheus, and the example dashboard that shows them."""

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from samovar.errors import EngineFailed
from samovar.llm import LLM
from samovar.serving.record import Record
from tests.llm.remote_processes import until
from tests.llm.scripted import scripted
from tests.serving.served import served
from tests.serving.test_openai_chat import ANSWER, QUESTION, said

DEPLOY = Path(__file__).parents[2] / "deploy"
CHAT = "/v1/chat/completions"


@pytest.fixture
def counted(hybrid):
    """A server that has counted nothing yet."""
    with served({"hybrid": hybrid}) as running:
        yield running


def samples(server):
    text = server.client.get("/metrics").text
    return {
        (s.name, *sorted(s.labels.items())): s.value for family in text_string_to_metric_families(text) for s in family.samples
    }


def value(found, name, **labels):
    return found.get((name, *sorted(labels.items())))


def test_requests_and_tokens_are_counted(counted, hybrid):
    with scripted(hybrid, said(hybrid, ANSWER)):
        usage = counted.post(CHAT, messages=QUESTION).json()["usage"]
        counted.events(CHAT, messages=QUESTION, stream=True)
        counted.post(CHAT, messages=QUESTION, foo=1)
        counted.client.get("/secret/path")
        until(lambda: not counted.server.drain.n_open)
        found = samples(counted)
    labels = {"method": "POST", "route": CHAT}
    assert value(found, "samovar_requests_total", **labels, status="200", model="hybrid") == 2
    assert value(found, "samovar_requests_total", **labels, status="400", model="") == 1
    assert value(found, "samovar_requests_total", method="", route="none", status="404", model="") == 1
    assert value(found, "samovar_tokens_total", model="hybrid", kind="prompt") == 2 * usage["prompt_tokens"]
    assert value(found, "samovar_tokens_total", model="hybrid", kind="completion") == 2 * usage["completion_tokens"]
    n_thinking = usage["completion_tokens_details"]["reasoning_tokens"]
    assert value(found, "samovar_tokens_total", model="hybrid", kind="reasoning") == 2 * n_thinking > 0
    assert value(found, "samovar_first_token_seconds_count", model="hybrid") == 2
    assert value(found, "samovar_inter_token_seconds_count", model="hybrid") > 10
    assert value(found, "samovar_request_seconds_count", route=CHAT) == 3
    assert value(found, "process_resident_memory_bytes") > 10**7


def test_the_engines_state_is_shown_while_it_works(counted, hybrid):
    idle = samples(counted)
    assert value(idle, "samovar_loaded_models") == value(idle, "samovar_model_up", model="hybrid") == 1
    assert value(idle, "samovar_running_streams", model="hybrid") == 0
    body = {"messages": QUESTION, "stream": True}
    with scripted(hybrid, said(hybrid, "word " * 3000)), counted.client.stream("POST", CHAT, json=body) as reply:
        lines = reply.iter_lines()
        for _ in range(10):
            next(lines)
        busy = counted.server.metrics.text(n_open=1, n_offered=1, stats={"hybrid": hybrid.stats()}).decode()
    assert 'samovar_running_streams{model="hybrid"} 1.0' in busy
    pages = {
        s: float(re.search(rf'samovar_pages{{model="hybrid",state="{s}"}} (\S+)', busy)[1]) for s in ("used", "cached", "free")
    }
    assert pages["used"] > 0
    assert sum(pages.values()) == hybrid._engine.pool.n_pages


@pytest.mark.slow
def test_a_model_in_a_process_of_its_own_tells_its_state_too(models):
    with contextlib.closing(LLM(models._folder, process=True, n_threads=1, cache=False)) as llm:
        stats = llm.stats(5)
        os.kill(llm._client.process_id, signal.SIGSTOP)
        with pytest.raises(EngineFailed):
            llm.stats(0.01)
        os.kill(llm._client.process_id, signal.SIGCONT)
    assert stats.n_free > 0
    assert (stats.n_running, stats.n_waiting, stats.n_used) == (0, 0, 0)
    assert stats.resident_bytes > 10**7


def test_clients_that_leave_are_counted(counted, hybrid):
    with scripted(hybrid, said(hybrid, "word " * 3000)):
        with counted.client.stream("POST", CHAT, json={"messages": QUESTION, "stream": True}) as reply:
            next(reply.iter_lines())
        until(lambda: value(samples(counted), "samovar_clients_gone_total", route=CHAT) == 1)


def test_the_dashboard_asks_for_metrics_and_labels_that_there_are(counted, hybrid):
    counted.server.metrics.observe(Record(request_id="r", method="GET", path="/", client="", is_client_gone=True, n_prompt=1))
    counted.server.metrics._first.labels("m")
    counted.server.metrics._between.labels("m")
    known = {}
    for name, *labels in samples(counted):
        known.setdefault(name, set()).update(label for label, _ in labels)
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) >= 10
    assert dashboard["title"]
    assert dashboard["uid"]
    for expression in expressions:
        used = re.findall(r"\b((?:samovar|process)_\w+)(?:\{([^}]*)\})?", expression)
        assert used, expression
        for name, selector in used:
            assert name in known, expression
            assert set(re.findall(r"(\w+)\s*=", selector)) <= known[name], expression
        grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", expression) for label in labels.split(",")}
        assert grouped <= set().union(*(known[name] for name, _ in used)), expression
