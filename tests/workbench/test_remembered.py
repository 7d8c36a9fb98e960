"""A bounded memory against a plain model of one."""

from __future__ import annotations

import threading

import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.remembered import Remembered

steps = st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 5), st.integers(0, 12)), max_size=60)


@given(steps, st.integers(0, 40))
def test_the_longest_unused_are_forgotten_and_no_byte_more_is_held(
    steps: list[tuple[str, int, int]], most: int
) -> None:
    memory, model = Remembered(most), dict[int, torch.Tensor]()  # the model: oldest first
    for what, key, size in steps:
        if what == "put":
            tensor = torch.zeros(size, dtype=torch.uint8)
            memory.put(key, tensor)
            if size <= most:
                model.pop(key, None)
                model[key] = tensor
                while sum(t.nbytes for t in model.values()) > most:
                    del model[next(iter(model))]
        else:
            found = memory.get(key)
            assert (found is None) == (key not in model)
            if found is not None:
                assert found is model[key]
                model[key] = model.pop(key)
        assert sum(tensor.nbytes for tensor in memory._held.values()) == memory._bytes <= most


def test_what_is_remembered_is_not_made_again() -> None:
    memory, calls = Remembered(100), []

    def make() -> torch.Tensor:
        calls.append(1)
        return torch.ones(3)

    assert memory.made("a", make) is memory.made("a", make)
    assert len(calls) == 1
    large = Remembered(2)
    assert torch.equal(large.made("a", make), large.made("a", make))
    assert len(calls) == 3  # too large to be kept, so made each time


def test_many_threads_at_once_keep_the_bound() -> None:
    memory = Remembered(1000)

    def work(seed: int) -> None:
        for step in range(300):
            memory.put((seed + step) % 17, torch.zeros((seed * 7 + step) % 90 + 1, dtype=torch.uint8))
            memory.get(step % 17)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(tensor.nbytes for tensor in memory._held.values()) == memory._bytes <= 1000
