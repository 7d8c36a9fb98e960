from __future__ import annotations

import gc
import threading
import weakref

import pytest

from widgets.worker import Pace, Worker

LONG = 20  # seconds: a guard against hanging, never what a test is about


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    assert worker.close()


@pytest.fixture
def errors():
    return []


def held(started: threading.Event, go: threading.Event, did: list, name: object):
    """A job that says that it started, then waits to be let go or cancelled, then says what happened."""

    def job(cancel):
        started.set()
        while not (cancel.wait(0.002) or go.is_set()):
            pass
        did.append((name, "cancelled" if cancel.is_set() else "done"))

    return job


def test_no_thread_before_the_first_request():
    before = threading.active_count()
    worker = Worker("test")
    worker.cancel()
    assert worker.wait(0)
    assert worker.close()
    assert threading.active_count() == before


def test_a_job_is_done_on_a_daemon_thread(worker, errors):
    seen = []
    worker.submit(lambda cancel: seen.append((threading.current_thread().daemon, worker.here)), errors.append)
    assert worker.wait(LONG)
    assert seen == [(True, True)]
    assert not worker.here
    assert errors == []


def test_a_new_job_cancels_the_running_one_and_replaces_the_waiting_one(worker, errors):
    started, go, did = threading.Event(), threading.Event(), []
    worker.submit(held(started, go, did, "first"), errors.append)
    assert started.wait(LONG)
    for number in range(50):
        worker.submit(held(threading.Event(), go, did, number), errors.append)
    go.set()
    assert worker.wait(LONG)
    assert did[0] == ("first", "cancelled")
    assert did[-1] == (49, "done")
    assert all(how == "cancelled" for _, how in did[:-1])


def test_cancel_stops_what_runs_and_forgets_what_waits(worker, errors):
    entered, leave, later = threading.Event(), threading.Event(), []

    def deaf(cancel):  # looks at its event only at the end
        entered.set()
        leave.wait(LONG)
        later.append(cancel.is_set())

    worker.submit(deaf, errors.append)
    assert entered.wait(LONG)
    worker.submit(lambda cancel: later.append("waited"), errors.append)
    assert worker.cancel() is True
    leave.set()
    assert worker.wait(LONG)
    assert later == [True]
    assert worker.cancel() is False


@pytest.mark.parametrize("error", [ValueError("wrong"), SystemExit(3), KeyboardInterrupt()], ids=type)
def test_an_error_is_reported_and_the_thread_lives_on(worker, errors, error):
    def fail(cancel):
        raise error

    worker.submit(fail, errors.append)
    assert worker.wait(LONG)
    assert errors == [error]
    done = threading.Event()
    worker.submit(lambda cancel: done.set(), errors.append)
    assert done.wait(LONG)


def test_an_error_in_the_report_of_an_error_is_logged_and_the_thread_lives_on(worker, caplog):
    def fail(*_):
        raise ValueError("wrong")

    worker.submit(fail, fail)
    assert worker.wait(LONG)
    assert "wrong" in caplog.text
    done = threading.Event()
    worker.submit(lambda cancel: done.set(), fail)
    assert done.wait(LONG)


def test_wait_says_when_the_time_is_up(worker, errors):
    started, go = threading.Event(), threading.Event()
    worker.submit(held(started, go, [], 0), errors.append)
    assert worker.wait(0.01) is False
    go.set()
    assert worker.wait(LONG) is True


def test_close_cancels_joins_and_refuses(errors):
    worker, started, did = Worker("test"), threading.Event(), []
    worker.submit(held(started, threading.Event(), did, "running"), errors.append)
    assert started.wait(LONG)
    assert worker.close(LONG)
    assert did == [("running", "cancelled")]
    assert worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(lambda cancel: None, errors.append)


def test_close_does_not_wait_for_ever(errors):
    worker, started, leave = Worker("test"), threading.Event(), threading.Event()

    def deaf(cancel):
        started.set()
        leave.wait(LONG)

    worker.submit(deaf, errors.append)
    assert started.wait(LONG)
    assert worker.close(timeout=0.01) is False
    leave.set()
    assert worker.close(LONG) is True


def test_close_from_inside_a_job_does_not_wait_for_itself(errors):
    worker, closed = Worker("test"), []
    worker.submit(lambda cancel: closed.append(worker.close(LONG)), errors.append)
    assert worker.wait(LONG)
    assert worker.close(LONG)
    assert closed == [False]
    assert errors == []


def test_an_idle_thread_keeps_nothing_alive(worker, errors):
    class Thing:
        def job(self, cancel):
            pass

    thing = Thing()
    gone = weakref.ref(thing)
    worker.submit(thing.job, errors.append)
    assert worker.wait(LONG)
    del thing
    gc.collect()
    assert gone() is None


def test_pace_lets_the_first_through_and_then_at_most_one_per_interval():
    now = [100.0]
    pace = Pace(0.1, clock=lambda: now[0])
    passed = []
    for step in range(41):  # 41 offers, 25 ms apart: one second
        now[0] = 100 + step / 40
        passed.append(pace.due())
    assert passed[0]
    assert sum(passed) <= 11
    assert sum(passed) >= 9


def test_memory_is_given_back_once_after_a_rest(worker, errors, monkeypatch):
    given, rested = [], threading.Event()

    def give_back():
        given.append(worker.idle)
        rested.set()

    monkeypatch.setattr("widgets.worker.RESTED", 0.05)
    monkeypatch.setattr("widgets.worker.give_back", give_back)
    for _ in range(2):
        rested.clear()
        worker.submit(lambda cancel: None, errors.append)
        assert rested.wait(LONG)
    rested.clear()
    assert not rested.wait(0.2)  # nothing was done since
    assert given == [True, True] and not errors
