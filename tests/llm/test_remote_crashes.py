"""A model's process that ends: one error for each open request, another process, and nothing left over."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest

from samovar.errors import BadRequest, EngineFailed, SamovarError
from samovar.llm import LLM
from samovar.llm.remote_model import _MAX_CRASHES
from samovar.llm.wire import Progress
from tests.llm.remote_processes import LONG, PROMPT, children, crash, is_running, n_files, pid, until
from tests.llm.test_adapters import lora_folder
from tests.matrices import slow_but


@pytest.fixture
def remote(tiny_folder) -> Iterator[LLM]:
    llm = LLM(tiny_folder, process=True)
    yield llm
    llm.close()


@pytest.mark.parametrize("how", slow_but([signal.SIGKILL], [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]))
def test_a_crash_gives_each_open_request_one_error_and_then_it_works_again(remote, how, caplog):
    wanted = remote.generate(PROMPT, **LONG)
    events, lock = [], threading.Lock()
    streams = [remote.stream_generate(PROMPT, **LONG) for _ in range(5)]

    def read(stream):
        try:
            for _ in stream:
                pass
        except EngineFailed as error:
            with lock:
                events.append(str(error))
            assert next(stream, None) is None  # the error comes once

    next(streams[0])
    os.kill(pid(remote), signal.SIGSTOP)  # so that all are open when it ends
    readers = [threading.Thread(target=read, args=(stream,)) for stream in streams]
    for reader in readers:
        reader.start()
    crash(remote, how)
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()
    assert len(events) == 5
    assert set(events) == {f"the model's process ended (signal {int(how)}) and is started again; the request can be sent again"}
    assert f"ended (signal {int(how)}) with 5 requests open" in caplog.text
    assert all(stream.result.finish_reason == "error" for stream in streams)
    assert remote.generate(PROMPT, **LONG).token_ids == wanted.token_ids
    remote.settle()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_list_tells_which_answers_a_crash_took(remote):
    os.kill(pid(remote), signal.SIGSTOP)
    found = []
    caller = threading.Thread(target=lambda: found.extend(remote.generate([PROMPT] * 4, **LONG)))
    caller.start()
    until(lambda: len(remote._client._tickets) == 4)
    crash(remote)
    caller.join(30)
    assert [result.finish_reason for result in found] == ["error"] * 4
    assert "ended (signal 9)" in found[0].error


def test_requests_sent_while_it_is_down_are_answered_when_it_is_back(remote, tmp_path):
    wanted = remote.generate(PROMPT, max_tokens=9, temperature=0)
    os.kill(pid(remote), signal.SIGKILL)
    until(lambda: pid(remote) is None)
    streams = [remote.stream_generate(PROMPT, max_tokens=9, temperature=0) for _ in range(3)]
    chosen = remote.stream_generate(PROMPT, choices=["hot", "cold"])
    cancelled = remote.stream_generate(PROMPT, **LONG)
    assert pid(remote) is None
    cancelled.close()  # does not wait for the process
    assert pid(remote) is None
    assert (cancelled.result.finish_reason, cancelled.result.token_ids) == ("cancelled", ())
    with pytest.raises(EngineFailed, match="down"):
        remote.save_prefixes(tmp_path)
    for stream in streams:
        for _ in stream:
            pass
        assert stream.result.token_ids == wanted.token_ids
    assert "".join(delta.text for delta in chosen) in ("hot", "cold")
    remote.settle()


def test_adapters_are_there_again(remote, tiny_llm, tmp_path):
    folder = lora_folder(tmp_path / "a", tiny_llm, 1)
    for name in ("one", "two"):
        remote.load_adapter(name, folder)
    remote.unload_adapter("two")
    wanted = remote.generate(PROMPT, adapter="one", max_tokens=9, temperature=0)
    os.kill(pid(remote), signal.SIGKILL)
    until(lambda: pid(remote) is None)
    early = remote.stream_generate(PROMPT, adapter="one", max_tokens=9, temperature=0)
    for _ in early:
        pass
    assert early.result.token_ids == wanted.token_ids
    assert remote.generate(PROMPT, adapter="one", max_tokens=9, temperature=0).token_ids == wanted.token_ids
    with pytest.raises(BadRequest, match="loaded are: one"):
        remote.generate(PROMPT, adapter="two")


@pytest.mark.slow
def test_crashes_in_a_row_end_in_a_clear_error_and_no_hang(remote):
    for _ in range(_MAX_CRASHES):
        crash(remote)
    last = pid(remote)
    os.kill(last, signal.SIGSTOP)
    stream = remote.stream_generate(PROMPT, **LONG)
    os.kill(last, signal.SIGKILL)
    with pytest.raises(EngineFailed):
        next(stream)
    until(lambda: remote._client._shared.failure is not None)
    for call in (
        lambda: remote.generate(PROMPT),
        lambda: remote.embed("a", any_model=True),
        lambda: remote.load_adapter("a", "a"),
        lambda: remote.generate(PROMPT, choices=["a"]),
    ):
        with pytest.raises(EngineFailed, match=f"ended {_MAX_CRASHES + 1} times within a minute, and stays down"):
            call()
    remote.settle()
    remote.close()


def test_a_process_that_ends_while_it_opens_the_model_is_started_again(remote, monkeypatch):
    start, n_starts = remote._client._start, []

    def fail_twice():
        n_starts.append(1)
        if len(n_starts) < 3:
            raise EngineFailed("it ended while it opened the model")
        return start()

    monkeypatch.setattr(remote._client, "_start", fail_twice)
    crash(remote)
    assert len(n_starts) == 3
    assert remote.generate(PROMPT, max_tokens=3).token_ids


def test_a_model_that_is_gone_at_the_restart_ends_the_requests_that_wait(tiny_folder, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in tiny_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    llm = LLM(copy, process=True, cache=False)
    (copy / "config.json").write_text("{")
    os.kill(pid(llm), signal.SIGKILL)
    until(lambda: pid(llm) is None)
    with pytest.raises(SamovarError, match=r"config\.json"):
        llm.generate(PROMPT)
    until(lambda: llm._client._shared.failure is not None)
    with pytest.raises(SamovarError, match=r"config\.json"):
        llm.generate(PROMPT)
    llm.close()


def test_closing_ends_the_process_and_leaves_nothing_over(tiny_folder):
    gc.collect()
    before = (set(children()), n_files(), threading.active_count())
    llm = LLM(tiny_folder, process=True)
    crash(llm)
    llm.generate(PROMPT, max_tokens=3)
    process_id = pid(llm)
    llm.close()
    assert not is_running(process_id)
    del llm
    gc.collect()
    until(lambda: (set(children()), n_files(), threading.active_count()) == before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callers_progress_that_fails_closes_the_model_and_nobody_hangs(tiny_folder):
    calls = []

    def progress(*done):
        calls.append(done)
        if pid_at_first:
            raise RuntimeError("the caller's own")

    pid_at_first, threads = [], set(threading.enumerate())
    llm = LLM(tiny_folder, process=True, cache=False, progress=progress)
    pid_at_first.append(pid(llm))
    llm._client._shared.child.channel._decoder = _SaysProgress()
    stream = llm.stream_generate(PROMPT, **LONG)
    with pytest.raises(EngineFailed, match="closed"):
        for _ in stream:
            pass
    assert calls[-1] == (1, 2, "a tensor")
    until(lambda: threads >= set(threading.enumerate()))  # the listener's last word is its error
    until(lambda: not is_running(pid_at_first[0]))


class _SaysProgress:
    """Reads progress in the place of whatever comes."""

    def decode(self, _: object) -> Progress:
        return Progress(1, 2, "a tensor")


def test_a_model_that_is_forgotten_ends_its_process(tiny_folder):
    llm = LLM(tiny_folder, process=True)
    process_id = pid(llm)
    stream = llm.stream_generate(PROMPT, **LONG)
    next(stream)
    del llm
    gc.collect()
    assert is_running(process_id)  # somebody reads its stream
    assert next(stream)
    del stream
    gc.collect()
    until(lambda: not is_running(process_id))


@pytest.mark.parametrize("process", [False, True])
def test_closing_ends_open_requests_with_an_error_and_nobody_hangs(tiny_folder, process, tmp_path):
    llm = LLM(tiny_folder, process=process, max_context=128)
    streams = [llm.stream_generate(PROMPT, **LONG) for _ in range(3)]
    next(streams[0])
    failures = []

    def ask():
        try:
            while True:
                llm.generate(PROMPT, **LONG)
                llm.save_prefixes(tmp_path)
        except EngineFailed as error:
            failures.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    llm.close()
    asker.join(30)
    assert not asker.is_alive()
    assert len(failures) == 1
    streams[0].close()
    for stream in streams[1:]:
        with contextlib.suppress(EngineFailed):
            for _ in stream:
                pass
        assert stream.result.finish_reason in ("error", "length")
    with pytest.raises(EngineFailed, match="closed"):
        llm.generate(PROMPT)
    llm.settle()
    llm.close()


PARENT = """
    import sys, time
    from samovar.llm import LLM
    llm = LLM(sys.argv[1], process=True)
    stream = llm.stream_generate("tea", max_tokens=100, ignore_eos=True)
    next(stream)
    try:
        print(llm._client.process_id, flush=True)
        {then}
    except KeyboardInterrupt:
        print(llm.generate("tea", max_tokens=3, temperature=0).usage.n_completion, llm._client.process_id)
"""


def _parent(folder, then="time.sleep(60)"):
    command = [sys.executable, "-c", textwrap.dedent(PARENT).format(then=then), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)


@pytest.mark.slow
def test_the_process_ends_with_its_parent_however_that_ends(tiny_folder):
    for then, how in (("time.sleep(60)", signal.SIGKILL), ("time.sleep(60)", signal.SIGTERM), ("sys.exit()", None)):
        with _parent(tiny_folder, then) as parent:
            child = int(parent.stdout.readline())
            if how is not None:
                assert is_running(child)
                parent.send_signal(how)
            _, errors = parent.communicate(timeout=30)
            until(lambda child=child: not is_running(child))
            assert errors == ""  # of neither


@pytest.mark.slow
def test_ctrl_c_is_for_the_parent_alone(tiny_folder):
    with _parent(tiny_folder) as parent:
        child = parent.stdout.readline().strip()
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
        out, errors = parent.communicate(timeout=30)
    assert (out.split(), errors) == (["3", child], "")
    assert parent.returncode == 0
