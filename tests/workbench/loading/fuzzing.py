"""Loads mutated files in worker processes that may crash, hang or fill the memory without harm.

python fuzzing.py worker     reads "kind<TAB>path" lines and answers each with a line of JSON.
"""

from __future__ import annotations

import json
import resource
import select
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SECONDS = 10
"""Of processor time, so that a busy machine makes no hang; six times as much by the clock, for what waits."""
MEMORY = 2**30
FAILURES = ("crash", "hang", "memory", "code run", "half loaded", "bug")


@dataclass
class Outcome:
    kind: str
    path: Path
    result: str
    """``loaded``, the class of a WorkbenchError, or one of FAILURES."""
    detail: str = ""
    seconds: float = 0.0


def run(files: list[tuple[str, Path]], canary: Path, workers: int = 1) -> Iterator[Outcome]:
    """Load every file; outcomes come as they are ready."""
    pool = [_Worker() for _ in range(workers)]
    waiting = list(reversed(files))
    try:
        while waiting or any(worker.job for worker in pool):
            for worker in pool:
                if not worker.job and waiting:
                    worker.begin(*waiting.pop())
                outcome = worker.poll(0.05 / workers)
                if outcome and canary.exists():
                    canary.unlink()
                    outcome.result, outcome.detail = "code run", outcome.result
                if outcome:
                    yield outcome
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    def __init__(self) -> None:
        self.job: tuple[str, Path] | None = None
        self._start()

    def _start(self) -> None:
        command = [sys.executable, __file__, "worker"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._line(120) == "ready\n", "the worker did not start; run fuzzing.py worker by hand"
        self._watched = psutil.Process(self._process.pid)
        self._baseline = self._watched.memory_info().rss

    def _line(self, seconds: float) -> str | None:
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else None

    def begin(self, kind: str, path: Path) -> None:
        self.job, self._began, self._used = (kind, path), time.monotonic(), self._processor()
        self._process.stdin.write(f"{kind}\t{path}\n")
        self._process.stdin.flush()

    def _processor(self) -> float:
        times = self._watched.cpu_times()
        return times.user + times.system

    def poll(self, seconds: float) -> Outcome | None:
        if self.job is None:
            return None
        line = self._line(seconds)
        if line == "" or self._process.poll() is not None:
            return self._failed("crash", f"exit code {self._process.wait()}", time.monotonic() - self._began)
        spent = self._processor() - self._used
        if line:
            answer = json.loads(line)
            kind, path = self.job
            self.job = None
            return Outcome(kind, path, answer["result"], answer["detail"], spent)
        if spent > SECONDS or time.monotonic() - self._began > 6 * SECONDS:
            return self._failed("hang", "", spent)
        if self._watched.memory_info().rss - self._baseline > MEMORY:
            return self._failed("memory", "", spent)
        return None

    def _failed(self, result: str, detail: str, spent: float) -> Outcome:
        kind, path = self.job
        self.job = None
        self.stop()
        self._start()
        return Outcome(kind, path, result, detail, spent)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def _work() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import torch
    from mutations import network
    from torchvision_stub import declare_torchvision

    from workbench.errors import WorkbenchError
    from workbench.loading import load
    from workbench.recipe import Recipe

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    declare_torchvision()
    answers, sys.stdout = sys.stdout, sys.stderr
    size = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (size + 8 * MEMORY, size + 8 * MEMORY))  # for the machine's sake
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        kind, path = line.rstrip("\n").split("\t")
        model = network()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        baseline = _peak(reset=True)
        answer: dict[str, Any] = {"result": "loaded", "detail": ""}
        try:
            if kind == "recipe":
                Recipe.from_json(Path(path).read_text(encoding="utf-8", errors="replace"))
            elif kind == "config":
                load(f"hf:{Path(path).parent}")
            else:
                load(path, model=model if kind in ("pt", "safetensors") else None)
        except WorkbenchError as error:
            answer = {"result": type(error).__name__, "detail": str(error)[:500]}
            same = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
            if not same:
                answer["result"] = "half loaded"
        except BaseException:
            answer = {"result": "bug", "detail": traceback.format_exc()[-1500:]}
        if _peak(reset=False) - baseline > MEMORY:
            answer = {"result": "memory", "detail": answer["result"]}
        print(json.dumps(answer), file=answers, flush=True)


def _peak(*, reset: bool) -> int:
    """The most resident memory since the last reset, in bytes (Linux; elsewhere the parent's watch has to do)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except OSError:
        return 0


if __name__ == "__main__":
    _work()
