"""How many activations live at the same time: from when each is made to when it is last read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor


class Living:
    """Follows storages through a run. An address that is made anew is another storage: memory is used again."""

    def __init__(self) -> None:
        self._steps = 0
        self._current: dict[int, int] = {}
        """Storage at an address."""
        self._spans: list[tuple[int, int, int]] = []
        """Elements, first and last step of each storage."""

    def step(self, read: Iterable[int], made: Sequence[Tensor], given: set[int]) -> None:
        """One operator.

        Args:
            read: Addresses of the activations that it reads.
            made: What it returned.
            given: All addresses that it was given: what lies there is not new.
        """
        for place in read:
            if place in self._current:
                elements, first, _ = self._spans[self._current[place]]
                self._spans[self._current[place]] = (elements, first, self._steps)
        for tensor in made:
            if not tensor.numel() or tensor.is_meta:
                continue
            try:
                storage = tensor.untyped_storage()
            except (RuntimeError, NotImplementedError):  # sparse, packed
                continue
            if storage.data_ptr() not in given:
                self._current[storage.data_ptr()] = len(self._spans)
                elements = storage.nbytes() // max(tensor.element_size(), 1)
                self._spans.append((elements, self._steps, self._steps))
        self._steps += 1

    def peak(self) -> int:
        """Elements at most; the network's own inputs not among them."""
        changes = [0] * (self._steps + 1)
        for elements, first, last in self._spans:
            changes[first] += elements
            changes[last + 1] -= elements
        living = most = 0
        for change in changes:
            living += change
            most = max(most, living)
        return most
