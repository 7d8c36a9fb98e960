"""A pickle read as symbols: what it would import and call is noted, and never imported or called."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import IO, Any

import torch

from workbench.errors import LoadError

_MOST_OPCODES = 1_000_000  # 10,000 tensors have 400,000

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


@dataclass(frozen=True, eq=False)
class Global:
    """Something that the pickle would import, by its full name."""

    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """Something that the pickle would call or construct."""

    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Storage:
    """The bytes of one or several tensors, which lie elsewhere in the file."""

    key: str
    dtype: torch.dtype


class Symbols:
    """Steps through one pickle, from where the file stands to its STOP.

    Lists, dicts, tuples and scalars become themselves; a dict keeps the keys that are strings or numbers.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self.storages: list[Storage] = []

    def load(self) -> Any:
        """What the pickle holds.

        Raises:
            LoadError: Longer than any state dict.
            ValueError: Damaged. (IndexError, KeyError, TypeError as well: `reading` words them.)
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self._file)):
            if count > _MOST_OPCODES:
                raise LoadError(f"Its pickle has more than {_MOST_OPCODES:,} instructions.")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode, argument)
        raise ValueError("the pickle has no end")

    def _since_mark(self) -> list[Any]:
        index = self._marks.pop()
        items = self._stack[index:]
        del self._stack[index:]
        return items

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        stack, memo = self._stack, self._memo
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self._marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
                stack.append(
                    {"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}.get(opcode.name, Call("a set", ()))
                )
            case "TUPLE":
                stack.append(tuple(self._since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                if len(stack) < count:
                    raise ValueError("the pickle's stack is empty")
                stack[-count:] = [tuple(stack[-count:])]
            case "LIST":
                stack.append(self._since_mark())
            case "DICT":
                items = self._since_mark()
                stack.append({})
                self._set_items(items)
            case "APPEND":
                value = stack.pop()
                self._extend([value])
            case "APPENDS":
                self._extend(self._since_mark())
            case "ADDITEMS":
                self._since_mark()
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._since_mark())
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[int(argument)])
            case "GLOBAL":
                stack.append(Global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not isinstance(name, str) or not isinstance(module, str):  # nested tuples may print for ever
                    raise ValueError("the pickle imports what is not a name")
                stack.append(Global(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                args, function = stack.pop(), stack.pop()
                stack.append(self._call(function, args))
            case "NEWOBJ_EX":
                _, args, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(self._call(function, args))
            case "INST" | "OBJ":
                items = self._since_mark()
                kind = items[0] if items and isinstance(items[0], Global) else Global("something unknown")
                stack.append(Call(str(argument).replace(" ", ".", 1) if argument else kind.name, ()))
            case "BUILD":
                stack.pop()  # the state of an object: a dict's attributes, a module's contents
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _ if opcode.stack_before == [] and len(opcode.stack_after) == 1 and opcode.arg is not None:
                stack.append(argument)  # a number, a string or bytes
            case _:
                raise ValueError(f"the pickle has an instruction {opcode.name}, which no state dict has")

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], dict):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str | int | float | bool | None):  # hashing nested tuples may take forever
                self._stack[-1][key] = value

    @staticmethod
    def _call(function: Any, args: Any) -> Any:
        name = function.name if isinstance(function, Global) else "something unknown"
        args = args if isinstance(args, tuple) else ()
        if name == "collections.OrderedDict":
            return args[0] if args and isinstance(args[0], dict) else {}
        if name == "torch.Size" and args and isinstance(args[0], tuple):
            return args[0]
        return Call(name, args)

    def _storage(self, identifier: Any) -> Storage:
        kind, (_, _, class_name), key = identifier[0], identifier[1].name.rpartition("."), identifier[2]
        if kind != "storage" or class_name not in _STORAGES or not isinstance(key, str):
            raise ValueError(f"the pickle refers to something of type {class_name!r}, which is not a storage")
        if len(identifier) > 5 and identifier[5] is not None:
            raise ValueError("a storage is a view of another one, as before torch 0.4")
        storage = Storage(key, _STORAGES[class_name])
        self.storages.append(storage)
        return storage
