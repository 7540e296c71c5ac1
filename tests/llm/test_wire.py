"""Messages between the processes: what goes in comes out, and what is no message ends the conversation."""

import contextlib
import inspect
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest

from samovar import errors
from samovar.engine.prefix_cache import Break
from samovar.engine.request import Ending, Event, Logprob, Request, SamplingParams, Thinking
from samovar.errors import BadRequest, EngineFailed, NoTokenLeft, Overloaded, PromptTooLong, SamovarError
from samovar.llm import LLM
from samovar.llm.model_settings import ModelSettings
from samovar.llm.wire import (
    MAX_FRAME_BYTES,
    Answered,
    Call,
    Cancel,
    Channel,
    Check,
    Forget,
    FromEngine,
    Happened,
    Open,
    Opened,
    Progress,
    Refused,
    StopThinking,
    Submit,
    ToEngine,
)
from samovar.text.grammar_spec import GrammarSpec
from tests.llm.remote_processes import LONG, PROMPT, pid, until
from tests.matrices import slow_but

SPECIAL = {
    BadRequest: BadRequest("no good", param="prompt"),
    PromptTooLong: PromptTooLong(9, 5),
    Overloaded: Overloaded(3, 1.5),
    NoTokenLeft: NoTokenLeft("none", row=2),
}
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SamovarError)]
REQUEST = Request(
    prompt_ids=(1, 2),
    sampling=SamplingParams(temperature=0.5, logit_bias=((3, 1.0),), seed=(1 << 63) - 1, stop_ids=(2,)),
    grammar=GrammarSpec.choice(["é", "b"]),
    thinking=Thinking(is_open=True, budget=5),
    logprobs=3,
    logit_ids=(4,),
    tenant="ann",
    adapter="one",
    priority=-3,
    deadline_s=1.5,
)


@pytest.fixture
def ends():
    """The model's end of a channel and the caller's, as channels, and the caller's socket."""
    ours, theirs = socket.socketpair()
    yield Channel(theirs, ToEngine), Channel(ours, FromEngine), ours
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "message",
    [
        Open(ModelSettings(path="é.gguf", kv_type="int8", memory=5)),
        Submit(1, REQUEST, None, is_idle_work=True),
        Submit(2, REQUEST, 1, is_idle_work=False),
        Check(3, REQUEST),
        Cancel(1),
        StopThinking(2),
        Forget(("ann", "one", 2), (1, 2, 3), 1),
        Call(5, "load_adapter", ("a", "b")),
    ],
)
def test_what_is_sent_to_the_engine_arrives(ends, message):
    ends[1].send(message)
    assert ends[0].receive() == message


@pytest.mark.parametrize(
    "message",
    [
        Progress(1, 2, "blk.0"),
        Opened(128, "f16", None, ("a", "b")),
        Happened(1, Event(sequence_id=3, token_ids=(1, 2), logprobs=(None, Logprob(-0.1, ((1, -0.1), (2, -9.0))))), 0.0),
        Happened(1, Event(sequence_id=3, ending=Ending(reason="loop", parting=Break(1, 2, 3), logits=(1.0, -2.5))), 2.5),
        Answered(4, 17, None),
    ],
)
def test_what_the_engine_sends_arrives(ends, message):
    ends[0].send(message)
    assert ends[1].receive() == message


def test_vectors_arrive_bit_for_bit(ends):
    vector = np.random.default_rng(0).normal(size=300).astype(np.float32)
    ends[0].send(Happened(1, Event(sequence_id=1, ending=Ending(reason="stop", vector=vector)), 0.0))
    found = ends[1].receive().event.ending.vector
    assert (found.dtype, found.tobytes()) == (np.float32, vector.tobytes())


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_arrives_with_its_class_its_message_and_its_fields(ends, kind):
    error = SPECIAL.get(kind) or kind("some file: what was found é")
    for message in (Refused(error), Answered(1, None, error)):
        ends[0].send(message)
        found = ends[1].receive().error
        assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    ends[0].send(Happened(1, Event(sequence_id=1, ending=Ending(reason="error", error=error)), 0.0))
    with pytest.raises(kind) as caught:
        raise ends[1].receive().event.ending.error
    assert str(caught.value) == str(error)


def test_numbers_of_other_libraries_arrive_as_plain_ones(ends):
    odd = SamplingParams(temperature=np.float32(0.5), top_p=Fraction(1, 2), seed=np.int64(3), top_k=np.uint8(4))
    ends[1].send(Submit(1, Request(prompt_ids=(np.int64(7),), sampling=odd), None, is_idle_work=False))
    found = ends[0].receive().request
    assert found.sampling == SamplingParams(temperature=0.5, top_p=0.5, seed=3, top_k=4)
    assert [type(v) for v in (*found.prompt_ids, found.sampling.seed, found.sampling.top_p)] == [int, int, float]


def test_text_that_is_no_unicode_is_refused_and_nothing_is_sent(ends):
    with pytest.raises(BadRequest, match="half a surrogate pair"):
        ends[1].send(Call(1, "load_adapter", ("\ud800", "b")))
    ends[1].send(Cancel(1))
    assert ends[0].receive() == Cancel(1)


def test_many_threads_may_send_side_by_side(ends):
    def send(start):
        for i in range(start, start + 200):
            ends[1].send(Forget(("", "", 1), tuple(range(i)), i))

    threads = [threading.Thread(target=send, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    found = [ends[0].receive() for _ in range(800)]
    assert all(message.ids == tuple(range(message.n_keep)) for message in found)
    assert sorted(m.n_keep for m in found) == [1000 * n + i for n in range(4) for i in range(200)]


def frame(data: bytes, n_bytes: int | None = None) -> bytes:
    return struct.pack("<I", len(data) if n_bytes is None else n_bytes) + data


BAD = {
    "no msgpack": frame(b"\xc1\xff"),
    "an empty frame": frame(b""),
    "another type": frame(b"\xa5hello"),
    "an unknown message": frame(b"\x81\xa4type\xa5Dance"),
    "a field too few": frame(b"\x81\xa4type\xa8Happened"),
    "a field of another type": frame(b"\x84\xa4type\xa8Answered\xa2id\xa1x\xa5value\xc0\xa5error\xc0"),
    "an error without a kind": frame(b"\x84\xa4type\xa8Answered\xa2id\x01\xa5value\xc0\xa5error\x80"),
    "an error that is a number": frame(b"\x84\xa4type\xa8Answered\xa2id\x01\xa5value\xc0\xa5error\x05"),
    "too many bytes": frame(b"", MAX_FRAME_BYTES + 1),
    "brackets without end": frame(b"\x91" * 100_000),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_message_is_the_end(ends, name):
    for channel in ends[:2]:
        sender = ends[2] if channel is ends[0] else ends[0]._connection
        sender.sendall(BAD[name])
        with pytest.raises(EOFError):
            channel.receive()


def test_a_frame_that_breaks_off_is_the_end(ends):
    ends[2].sendall(frame(b"abc", 50))
    ends[2].shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        ends[0].receive()


def test_a_message_out_of_range_is_the_end_and_no_crash(ends):
    ends[1].send(Submit(1, REQUEST, None, is_idle_work=False))
    data = bytearray(ends[0]._connection.recv(1 << 16))
    at = data.index(b"temperature") + len("temperature")
    data[at + 1 : at + 9] = struct.pack(">d", -5.0)
    ends[2].sendall(data)
    with pytest.raises(EOFError, match="temperature"):
        ends[0].receive()


@pytest.mark.parametrize("name", slow_but(["no msgpack", "too many bytes"], BAD))
def test_a_process_that_gets_no_message_ends_quietly(name):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "samovar.llm.engine_worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True)
        theirs.close()
        ours.sendall(BAD[name])
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("name", slow_but(["no msgpack"], ["no msgpack", "an error without a kind", "too many bytes"]))
def test_neither_side_hangs_at_what_is_no_message(tiny_folder, name):
    llm = LLM(tiny_folder, process=True)
    wanted = llm.generate(PROMPT, **LONG).token_ids
    for is_ours in (True, False):
        before = pid(llm)
        stream = llm.stream_generate(PROMPT, **LONG)
        os.kill(before, signal.SIGSTOP)
        if is_ours:  # the child gets it
            llm._client._shared.child.channel._connection.sendall(BAD[name])
        else:  # the listener reads on from here
            llm._client._shared.child.channel._decoder = _Spoilt(name)
        os.kill(before, signal.SIGCONT)
        with contextlib.suppress(EngineFailed):  # unless all had been computed
            for _ in stream:
                pass
        assert stream.result.error is None or "started again" in stream.result.error
        if not is_ours:
            llm._client.cancel(stream.ticket)
            with pytest.raises(EngineFailed):
                llm.load_adapter("a", "/nowhere")
        until(lambda before=before: pid(llm) not in (before, None))
        assert llm.generate(PROMPT, **LONG).token_ids == wanted
    llm.close()


class _Spoilt:
    """Reads a message that is none in the place of whatever comes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def decode(self, _: object) -> object:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(BAD[self._name])
            return Channel(theirs, FromEngine).receive()
