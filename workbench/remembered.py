"""A memory of tensors that forgets the longest unused ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class Remembered:
    """Tensors by key, up to a number of bytes."""

    def __init__(self, most: int) -> None:
        """
        Args:
            most: Bytes that are held at most; a larger tensor is not kept at all.
        """
        self.most = most
        self._held: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Tensor | None:
        """The tensor of this key, or None."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: Hashable, tensor: Tensor) -> None:
        """Remember a tensor."""
        if tensor.nbytes > self.most:
            return
        with self._lock:
            before = self._held.pop(key, None)
            self._bytes += tensor.nbytes - (0 if before is None else before.nbytes)
            self._held[key] = tensor
            while self._bytes > self.most:
                _, oldest = self._held.popitem(last=False)
                self._bytes -= oldest.nbytes

    def made(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of this key, made where it is not remembered."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found
