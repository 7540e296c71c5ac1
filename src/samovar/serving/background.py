"""Work that outlives the request that began it."""

import asyncio
import logging
from typing import Final, Protocol

SLOTS: Final = 16
LOG: Final = logging.getLogger("samovar.serving")


class Job(Protocol):
    """A piece of such work. `run` is cancelled when the server stops.

    `give_up` is called when its owner wants no more of it; where it returns true, `run` is cancelled next, and ends in its own
    time with a record that says so.
    """

    async def run(self) -> None: ...

    def give_up(self) -> bool: ...


class Background:
    """Jobs by id. Belongs to the server's event loop. `slots` bound the requests of all batches together."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(SLOTS)
        self._jobs = dict[str, Job]()
        self._tasks = dict[str, asyncio.Task[None]]()

    def begin(self, job_id: str, job: Job, *, keep_s: float = 0.0) -> None:
        """Run a job. It can be found until `keep_s` seconds after its end."""
        loop = asyncio.get_running_loop()
        self._jobs[job_id] = job
        self._tasks[job_id] = task = loop.create_task(job.run())

        def ended(_: object) -> None:
            del self._tasks[job_id]
            loop.call_later(keep_s, self._jobs.pop, job_id, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                LOG.error("internal error in the background", exc_info=error)

        task.add_done_callback(ended)

    def find(self, job_id: str) -> Job | None:
        """The job with this id, while it runs and for a while after."""
        return self._jobs.get(job_id)

    async def cancel(self, job_id: str) -> bool:
        """End a job early for its owner, and wait for that. False where it does not run."""
        task = self._tasks.get(job_id)
        if task is None:
            return False
        if self._jobs[job_id].give_up():
            task.cancel()
        await asyncio.wait({task})
        return True

    async def stop(self) -> None:
        """Stop all jobs, as the server does at its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
