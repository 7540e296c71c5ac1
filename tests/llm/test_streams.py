"""Streams side by side, in threads and in asyncio: each as it would be alone, and each with one end."""

import _thread
import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from samovar.errors import BadRequest, EngineFailed
from samovar.llm import LLM
from tests.engine.scripted import by_position
from tests.llm.scripted import broken, is_idle, scripted, spelled

PROMPTS = ["The water", "Nobody remembers whose samovar it was", "S"]
SAMPLED = {"temperature": 1.0, "seed": 3, "max_tokens": 15}
ENDLESS = {"temperature": 1.0, "seed": 5, "max_tokens": 3500, "ignore_eos": True}


async def gathered(stream):
    return [delta async for delta in stream], stream.result


def test_streams_read_in_turns_say_what_each_says_alone(tiny_llm):
    alone = [tiny_llm.generate(p, **SAMPLED) for p in PROMPTS]
    streams = [tiny_llm.stream_generate(p, **SAMPLED) for p in PROMPTS]
    texts = [""] * len(streams)
    waiting = set(range(len(streams)))
    while waiting:
        for i in sorted(waiting):
            delta = next(streams[i], None)
            if delta is None:
                waiting.remove(i)
            else:
                texts[i] += delta.text
    assert texts == [r.text for r in alone]
    assert [s.result.token_ids for s in streams] == [r.token_ids for r in alone]
    assert is_idle(tiny_llm)


def test_async_streams_say_what_the_others_say(tiny_llm):
    async def main():
        raw = [gathered(tiny_llm.astream_generate(p, **SAMPLED)) for p in PROMPTS]
        chats = [gathered(tiny_llm.astream_chat(p, **SAMPLED)) for p in PROMPTS]
        return await asyncio.gather(*raw, *chats)

    found = asyncio.run(main())
    wanted = [*tiny_llm.generate(PROMPTS, **SAMPLED), *tiny_llm.chat(PROMPTS, **SAMPLED)]
    assert [result.token_ids for _, result in found] == [r.token_ids for r in wanted]
    assert ["".join(d.text for d in deltas) for deltas, _ in found] == [r.text for r in wanted]
    assert all(result.finish_reason in ("stop", "length") for _, result in found)


def test_a_cancelled_task_takes_its_answer_along(hybrid_llm):
    async def main():
        stream = hybrid_llm.astream_generate("The water", **ENDLESS)
        task = asyncio.create_task(gathered(stream))
        while not stream.result.token_ids:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        deltas = [delta async for delta in stream]  # whoever still reads finds the end
        return stream, deltas

    stream, _ = asyncio.run(main())
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.usage.n_completion < 3500
    assert is_idle(hybrid_llm)


def test_an_async_stream_can_be_closed(hybrid_llm):
    async def main():
        stream = hybrid_llm.astream_chat("The water", **ENDLESS)
        await anext(stream)
        await stream.aclose()
        await stream.aclose()
        return stream, [delta async for delta in stream]

    stream, rest = asyncio.run(main())
    assert rest == []
    assert (stream.result.finish_reason, stream.result.error) == ("cancelled", None)
    assert is_idle(hybrid_llm)


def test_a_loop_that_ends_before_its_stream_does_no_harm(hybrid_llm):
    async def main():
        return hybrid_llm.astream_generate("The water", **ENDLESS | {"max_tokens": 50})

    asyncio.run(main())
    gc.collect()
    assert is_idle(hybrid_llm)
    assert hybrid_llm.generate("The water", max_tokens=2).usage.n_completion == 2


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_dropped_stream_ends_and_gives_its_pages_back(hybrid_llm, has_begun):
    stream = hybrid_llm.stream_generate("The water", **ENDLESS)
    ticket = stream.ticket
    if has_begun:
        next(stream)
    del stream
    assert is_idle(hybrid_llm)
    assert ticket.sequence.finish_reason == "cancelled"
    assert ticket.sequence.n_generated < 3500


async def gathered_of(make):
    return await gathered(make())


def test_a_step_that_fails_is_an_error_for_all_and_the_model_goes_on(tiny_llm):
    with broken(tiny_llm, lambda _: True, failure=ZeroDivisionError("of all things")):
        results = tiny_llm.generate(PROMPTS, **SAMPLED)
        with pytest.raises(EngineFailed, match="of all things"):
            tiny_llm.chat("The water")
    assert {r.finish_reason for r in results} == {"error"}
    assert all("of all things" in r.error for r in results)
    assert is_idle(tiny_llm)
    assert tiny_llm.generate("S", **SAMPLED).finish_reason in ("stop", "length")


def test_a_failing_stream_shows_all_it_has_before_its_error(tiny_llm):
    text = "one two END"
    with scripted(tiny_llm, by_position(spelled(tiny_llm, text))):
        runner = tiny_llm._engine.decoding.runner

        def fails_at_the_end(prompt_ids, generated):
            if len(generated) >= len(text):
                raise ZeroDivisionError
            return wanted(prompt_ids, generated)

        wanted, runner.wanted = runner.wanted, fails_at_the_end
        stream = tiny_llm.stream_generate("S", stop="END.", temperature=0)
        shown = []
        with pytest.raises(EngineFailed):
            shown.extend(delta.text for delta in stream)
        assert list(stream) == []
    assert "".join(shown) == stream.result.text == text
    assert stream.result.finish_reason == "error"


def test_a_deadline_ends_an_answer_and_leaves_what_there_was(hybrid_llm):
    result = hybrid_llm.generate("The water", deadline_s=0.05, **ENDLESS)
    assert (result.finish_reason, result.error) == ("deadline", None)
    assert len(result.token_ids) < 3500
    assert hybrid_llm.generate("S", deadline_s=60, max_tokens=2).finish_reason in ("stop", "length")
    assert is_idle(hybrid_llm)


def test_an_interrupted_call_leaves_the_model_ready(hybrid_llm):
    for call in (hybrid_llm.generate, hybrid_llm.chat):
        timer = threading.Timer(0.1, _thread.interrupt_main)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call("The water", **ENDLESS)
        timer.join()
        assert is_idle(hybrid_llm)
        assert call("S", max_tokens=2, temperature=0).usage.n_completion <= 2


def test_a_closed_model_refuses_every_call_and_names_the_reason(tiny_folder):
    llm = LLM(tiny_folder)
    llm.generate("S", max_tokens=2)
    llm.close()
    llm.close()
    llm.settle()
    calls = [
        lambda: llm.generate("S"),
        lambda: llm.generate(["S", "T"]),
        lambda: llm.chat("S"),
        lambda: llm.stream_chat("S"),
        lambda: llm.stream_generate("S"),
        lambda: llm.logits([1, 2]),
        lambda: asyncio.run(gathered_of(lambda: llm.astream_chat("S"))),
    ]
    for call in calls:
        with pytest.raises(EngineFailed, match="closed"):
            call()


def test_answers_that_are_open_when_the_model_closes_end_with_an_error(models):
    llm = models.load("hybrid")
    stream, unread = (llm.stream_generate("The water", **ENDLESS) for _ in range(2))
    next(stream)
    failures = []

    def wait():
        try:
            llm.chat("The water", **ENDLESS)
        except EngineFailed as error:
            failures.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    while len(llm._engine.scheduler.running) < 3:
        time.sleep(0.001)
    llm.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in failures[0]
    for left in (stream, unread):
        with pytest.raises(EngineFailed, match="closed"):
            list(left)
        assert left.result.finish_reason == "error"
        left.close()


def test_an_async_answer_that_is_open_when_the_model_closes_ends_too(models):
    llm = models.load("hybrid")

    async def main():
        stream = llm.astream_generate("The water", **ENDLESS)
        await anext(stream)
        await asyncio.to_thread(llm.close)
        return [delta async for delta in stream]

    with pytest.raises(EngineFailed, match="closed"):
        asyncio.run(asyncio.wait_for(main(), 10))


def test_a_stream_that_is_read_late_took_no_longer_for_it(hybrid_llm):
    started = time.perf_counter()
    stream = hybrid_llm.stream_generate("The water", max_tokens=30, ignore_eos=True)
    hybrid_llm.settle()
    seconds = time.perf_counter() - started
    list(stream)
    timing = stream.result.timing
    assert 0 < timing.prefill_s < timing.prefill_s + timing.decode_s <= seconds


def test_a_stream_is_one_answer(tiny_llm):
    for call in (tiny_llm.stream_generate, tiny_llm.stream_chat):
        with pytest.raises(BadRequest, match="one answer"):
            call("S", n=2)
        assert next(call("S", n=1, max_tokens=3), None) is not None


def test_a_program_may_end_with_streams_open(tiny_folder):
    program = """
        import asyncio, sys
        from samovar import LLM
        llm = LLM(sys.argv[1], cache=False)
        stream = llm.stream_chat("S", ignore_eos=True)
        next(stream)
        async def main():
            global other
            other = llm.astream_generate("S", ignore_eos=True)
        asyncio.run(main())
        keep = llm.stream_generate("T", ignore_eos=True)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tiny_folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_async_stream_that_is_dropped_or_left_stops_at_once(tiny_llm):
    async def first_piece(stream):
        async for _ in stream:
            return

    async def leave():
        dropped = tiny_llm.astream_generate("tea", max_tokens=100, ignore_eos=True)
        await first_piece(dropped)
        ticket = dropped.ticket
        del dropped
        gc.collect()
        async with tiny_llm.astream_generate("tea", max_tokens=100, ignore_eos=True) as left:
            await first_piece(left)
        assert left.result.finish_reason == "cancelled"
        await asyncio.to_thread(tiny_llm.settle)
        return ticket.sequence

    assert asyncio.run(leave()).finish_reason == "cancelled"


def test_a_stream_can_be_opened_by_with(tiny_llm):
    with tiny_llm.stream_generate("tea", max_tokens=100, ignore_eos=True) as stream:
        next(stream)
    assert stream.result.finish_reason == "cancelled"
