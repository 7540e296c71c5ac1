"""The load of `benchmarks.many_at_once`, on an engine that only waits, and its reading of llama.cpp's streams."""

import asyncio
import math
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from benchmarks.llama_server import LlamaServer
from benchmarks.many_at_once import ANSWER, N_CONTEXT, PROMPT, Request, Served, figures, percentile, requests, serve
from benchmarks.second_turn import Sizes, run_chat
from benchmarks.serving_peer import Place

PLACE = Place(model=Path("none.gguf"), n_slots=1, n_context=64, n_threads=1)


class WaitingPeer:
    """Gives each token after one turn of the loop, and remembers how many streams were open at once."""

    description = "waits"

    def __init__(self, place: Place = PLACE) -> None:
        self.n_open, self.most_open, self.prompts = 0, 0, []

    async def start(self) -> None:
        pass

    async def stream(self, prompt_ids: list[int], n_tokens: int) -> AsyncIterator[float]:
        self.prompts.append(prompt_ids)
        self.n_open += 1
        self.most_open = max(self.most_open, self.n_open)
        for _ in range(n_tokens):
            await asyncio.sleep(0)
            yield time.perf_counter()
        self.n_open -= 1

    async def complete(self, prompt_ids: list[int], n_tokens: int, *, n_thoughts: int = 0) -> list[int]:
        self.prompts.append(prompt_ids)
        return list(range(n_tokens))

    def peak_bytes(self) -> int:
        return 1 << 20

    async def stop(self) -> None:
        self.prompts.append([])


def test_requests_are_the_same_for_a_seed_and_have_the_lengths_that_are_documented():
    found = requests(20_000, seed=1)
    assert found[:50] == requests(50, seed=1) != requests(50, seed=2)
    prompts, answers = [len(r.prompt_ids) for r in found], [r.n_tokens for r in found]
    assert (min(prompts), max(prompts), min(answers), max(answers)) == (*PROMPT[2:], *ANSWER[2:])
    assert max(prompts) + max(answers) < N_CONTEXT
    assert statistics.median(prompts) == pytest.approx(64, rel=0.05)
    assert statistics.median(answers) == pytest.approx(100, rel=0.05)
    assert statistics.mean(prompts) == pytest.approx(90, rel=0.05)
    assert statistics.mean(answers) == pytest.approx(115, rel=0.05)


def test_each_request_is_served_once_and_as_many_as_there_are_streams_are_open_at_once():
    peer, wanted = WaitingPeer(), [Request(prompt_ids=[n], n_tokens=3 + n % 4) for n in range(17)]
    served = asyncio.run(serve(peer, wanted, 5))
    assert sorted(peer.prompts) == [[n] for n in range(17)]
    assert sorted(len(s.arrivals_s) for s in served) == sorted(r.n_tokens for r in wanted)
    assert peer.most_open == 5


def test_figures_of_known_arrivals():
    served = [
        Served(n_prompt=10, sent_s=0.0, arrivals_s=[1.0, 1.5, 2.0]),
        Served(n_prompt=20, sent_s=1.0, arrivals_s=[4.0, 6.0]),
    ]
    found = figures(served, peak_bytes=7)
    assert (found.tokens_per_s, found.answer_tokens_per_s) == (35 / 6, 5 / 6)
    assert (found.first_token_p50_s, found.first_token_p95_s) == (1.0, 3.0)
    assert (found.between_p50_s, found.between_p95_s, found.peak_bytes) == (0.5, 2.0, 7)


def test_a_percentile_is_one_of_the_values():
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (1, 50, 95, 100)] == [1, 50, 95, 100]
    assert percentile([3.0], 50) == 3.0
    assert math.isclose(percentile([1.0, 2.0], 95), 2.0)


def test_the_second_prompt_is_the_first_the_answer_without_thoughts_and_the_message():
    peer = WaitingPeer()
    asyncio.run(run_chat(lambda _: peer, PLACE, Sizes(n_prompt=5, n_thoughts=6, n_answer=4, n_message=3, pause_s=0.0), seed=1))
    _, first, again, second, end = peer.prompts
    assert first == again
    assert second[:9] == [*first, 6, 7, 8, 9]
    assert (len(first), len(second), end) == (5, 12, [])


EVENTS = [  # the second token was held back until its character was whole
    b'data: {"tokens":[5],"stop":false,"tokens_predicted":1}\n\n',
    b'data: {"tokens":[7],"stop":false,"tokens_predicted":3}\n\ndata: {"tokens":[8],"stop":fal',
    b'se,"tokens_predicted":4}\n\n',
    b'data: {"tokens":[],"stop":true,"tokens_predicted":4}\n\n',
]


async def stream_of(answer: bytes, n_tokens: int) -> tuple[list[float], bytes]:
    """What a server that sends `answer` makes of a request, and the request."""
    asked = bytearray()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.extend(await reader.readuntil(b"}"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = LlamaServer(PLACE)
    async with await asyncio.start_server(reply, "127.0.0.1", 0) as listening:
        server._port = listening.sockets[0].getsockname()[1]
        try:
            return [arrived async for arrived in server.stream([1, 2], n_tokens, slot=3)], bytes(asked)
        finally:
            await server.stop()


def test_tokens_of_llama_cpp_are_counted_however_its_events_are_cut():
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    arrivals, asked = asyncio.run(stream_of(answer, 4))
    assert len(arrivals) == 4
    assert arrivals == sorted(arrivals)
    assert arrivals[1] == arrivals[2]
    assert b'{"prompt": [1, 2], "n_predict": 4, "temperature": 0, "ignore_eos": true, "stream": true, "id_slot": 3}' in asked
    with pytest.raises(RuntimeError, match="after 4 of 5 tokens"):
        asyncio.run(stream_of(answer, 5))


def test_a_refusal_of_llama_cpp_ends_the_measurement_with_its_words():
    with pytest.raises(RuntimeError, match=r"400 bad request.*too long"):
        asyncio.run(stream_of(b'HTTP/1.1 400 Bad Request\r\n\r\n{"error": "too long"}', 4))
