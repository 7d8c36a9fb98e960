"""Tracing a model and running one must not happen at the same time.

While torch traces (`torch.fx`, and the exporter through it), it replaces `nn.Module.__call__` for the
whole process: a model that another thread runs meanwhile is traced as well, and fails. So whoever
runs modules says `running()`, any number at a time, and whoever traces says `tracing()`, alone.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

TALKATIVE = ("torch.onnx", "torch._dynamo", "torch.export", "torch.fx", "torch._export")

_change = threading.Condition()
_running = 0
_tracing = 0  # a trace that is waiting counts: it must not starve behind ever new runs
_mine = threading.local()
_alone = threading.Lock()


@contextmanager
def running() -> Iterator[None]:
    """Hold this for a batch, not for a whole evaluation. It may be nested."""
    global _running
    depth = getattr(_mine, "depth", 0)
    if not depth:
        with _change:
            _change.wait_for(lambda: not _tracing)
            _running += 1
    _mine.depth = depth + 1
    try:
        yield
    finally:
        _mine.depth = depth
        if not depth:
            with _change:
                _running -= 1
                _change.notify_all()


@contextmanager
def tracing() -> Iterator[None]:
    """Hold this while a model is traced; never within `running`.

    Raises:
        RuntimeError: This thread is within `running`, and would wait for itself.
    """
    global _tracing
    if getattr(_mine, "depth", 0):
        raise RuntimeError("a model is traced within a run; trace it before")
    with _alone:
        with _change:
            _tracing = 1
            _change.wait_for(lambda: not _running)
        _mine.depth = 1  # what is traced is run, in this thread
        try:
            yield
        finally:
            _mine.depth = 0
            with _change:
                _tracing = 0
                _change.notify_all()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch from printing what its errors say as well: an export that fails is an answer here, not an accident."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
