"""Tracing keeps away from running, in threads that do both all the time."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import fx, nn

from workbench.tracing import running, tracing


def test_a_model_runs_whole_while_another_is_traced() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    stop, failures, runs = threading.Event(), [], []

    def run() -> None:
        while not stop.is_set():
            try:
                with running():
                    model(torch.zeros(1, 4))
                runs.append(1)
            except Exception as error:  # whatever a traced module raises
                failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        with tracing():
            fx.symbolic_trace(nn.Sequential(*(nn.Linear(4, 4) for _ in range(30))))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert runs


def test_running_may_be_nested_while_a_trace_waits() -> None:
    entered, waiting, done = threading.Event(), threading.Event(), []

    def trace() -> None:
        entered.wait(10)
        waiting.set()
        with tracing():
            done.append("traced")

    thread = threading.Thread(target=trace)
    thread.start()
    with running():
        entered.set()
        waiting.wait(10)
        with running():
            done.append("nested")
    thread.join(10)
    assert done == ["nested", "traced"]


def test_what_is_traced_is_run_by_the_same_thread() -> None:
    with tracing(), running():
        pass
    with running():
        pass


def test_a_trace_within_a_run_is_refused_instead_of_waiting_for_itself() -> None:
    with running(), pytest.raises(RuntimeError, match="trace it before"), tracing():
        pass


def test_both_are_free_again_after_an_error() -> None:
    for hold in (running, tracing):
        with pytest.raises(ValueError, match="x"), hold():
            raise ValueError("x")
    with tracing():
        pass
