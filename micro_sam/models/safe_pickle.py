"""Reading PyTorch checkpoints without executing anything in them.

A checkpoint is a pickle, and a pickle is a program. Here only the few operations that build containers and describe
tensors have a meaning; every other class or function in the pickle becomes an inert `Placeholder` that is created,
"called" and filled without any code of its own running, and nothing is ever imported on the pickle's behalf. Names
that only a pickle meant to do harm refers to are refused outright.

Tensors stay descriptions (`TensorRecord`) until `TensorRecord.load`, so that optimizer states cost nothing.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol, Self

import torch

from ..errors import CheckpointError

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_PLAIN_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values()}

# Modules whose functions run commands, import, open files or sockets: no training object refers to them.
_HARMFUL_MODULES = {
    "os", "posix", "nt", "subprocess", "pty", "sys", "runpy", "importlib", "imp", "shutil", "socket", "ctypes", "code",
    "codeop", "pdb", "bdb", "timeit", "profile", "cProfile", "webbrowser", "platform", "commands", "popen2", "asyncio",
    "urllib", "http", "ftplib", "smtplib", "requests", "pickle", "_pickle", "marshal", "pip", "ensurepip",
}  # fmt: skip
_HARMFUL_BUILTINS = {
    "eval", "exec", "execfile", "compile", "__import__", "open", "input", "breakpoint", "globals", "locals", "vars",
    "setattr", "delattr", "apply", "exit", "quit", "help", "open_code", "FileIO",
}  # fmt: skip


class Placeholder:
    """Stands for an object of a class or a result of a function that is not rebuilt. It keeps nothing and does nothing."""

    origin = "?"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def add(self, item: Any) -> None:
        pass

    def __repr__(self) -> str:
        return f"<{self.origin}, not rebuilt>"


class PlainDict(dict):
    """Stands for an OrderedDict. Attributes that a pickle sets on it, such as a state dict's version, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class StorageReader(Protocol):
    """Where the numbers of a checkpoint come from."""

    def __call__(self, key: str, dtype: torch.dtype, n_elements: int) -> torch.Tensor:
        """Read a storage as a flat tensor."""


class _Final:
    """Values that a pickle refers to must not be changed by it."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a tensor description must not be changed")


@dataclass(frozen=True, slots=True)
class Storage(_Final):
    """A flat array of numbers in a checkpoint that has not been read yet."""

    key: str
    dtype: torch.dtype
    n_elements: int


@dataclass(frozen=True, slots=True)
class TensorRecord(_Final):
    """A tensor in a checkpoint that has not been read yet."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    read: StorageReader

    def load(self) -> torch.Tensor:
        """Read the numbers.

        Raises:
            CheckpointError: The description does not fit into the stored numbers, or they are damaged.
        """
        flat = self.read(self.storage.key, self.storage.dtype, self.storage.n_elements)
        if self.dtype != self.storage.dtype:
            if flat.numel() * flat.element_size() % self.dtype.itemsize:
                raise CheckpointError("the file is damaged: a tensor does not have the size it should have.")
            flat = flat.view(self.dtype)
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride))
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        if self.offset < 0 or min(self.stride, default=0) < 0 or last >= flat.numel():
            raise CheckpointError("the file is damaged: a tensor lies outside of the stored numbers.")
        return flat.as_strided(self.shape, self.stride, self.offset)


class _Call:
    """A function the unpickler may call. One per load, so that nothing a pickle does to it outlives the load."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class InertUnpickler(pickle._Unpickler):
    """An unpickler that rebuilds containers and tensor descriptions only.

    It is based on the one in Python, since the one in C takes the size of its tables from the pickle: one damaged byte
    can make it fill all memory.

    Args:
        file: The pickle.
        read: Reads the storages the pickle refers to.
    """

    def __init__(self, file: IO[bytes], read: StorageReader) -> None:
        super().__init__(file, encoding="utf-8")
        self._read = read
        self.storages: dict[str, Storage] = {}
        self._known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): PlainDict,
            ("torch", "Size"): _Call(tuple),
            ("torch._utils", "_rebuild_tensor"): _Call(self._tensor),
            ("torch._utils", "_rebuild_tensor_v2"): _Call(self._tensor),
            ("torch._utils", "_rebuild_tensor_v3"): _Call(self._typed_tensor),
            ("torch._utils", "_rebuild_parameter"): _Call(_first),
            ("torch._utils", "_rebuild_parameter_with_state"): _Call(_first),
            ("torch._tensor", "_rebuild_from_type_v2"): _Call(self._from_type),
        }

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for. Nothing is imported.

        Raises:
            CheckpointError: The name is one that only a harmful pickle needs.
        """
        refuse_harmful(module, name)
        key = (module, name)
        if key not in self._known:
            self._known[key] = self._dtype(module, name) or type(
                "Inert", (Placeholder,), {"origin": f"{module}.{name}"}
            )
        return self._known[key]

    def get_extension(self, code: int) -> Any:
        """Extension codes stand for objects this process has registered; checkpoints have none."""
        raise pickle.UnpicklingError(f"extension code {code}")

    def persistent_load(self, pid: Any) -> Any:
        """Describe a storage: ("storage", type, key, location, number of elements[, view]).

        Old files also have ("module", class, source file, source code); the class is a placeholder as any other.
        """
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError("unknown kind of persistent id")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("views of storages are not supported")
        return self.storages.setdefault(str(pid[2]), Storage(str(pid[2]), pid[1], int(pid[4])))

    @staticmethod
    def _dtype(module: str, name: str) -> torch.dtype | None:
        if module in ("torch", "torch.storage", "torch.cuda") and name in _DTYPES:
            return _DTYPES[name]
        return _PLAIN_DTYPES.get(name) if module == "torch" else None

    def _tensor(self, storage: Storage, offset: int, shape: Any, stride: Any, *_: Any) -> TensorRecord:
        return self._record(storage, storage.dtype, offset, shape, stride)

    def _typed_tensor(self, storage: Storage, offset: int, shape: Any, stride: Any, *rest: Any) -> TensorRecord:
        return self._record(storage, rest[2], offset, shape, stride)

    def _record(self, storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any) -> TensorRecord:
        numbers = (offset, *shape, *stride)
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype) or len(shape) != len(stride):
            raise pickle.UnpicklingError("malformed tensor")
        if any(type(number) is not int or number < 0 for number in numbers):
            raise pickle.UnpicklingError("malformed tensor")
        return TensorRecord(storage, dtype, offset, tuple(shape), tuple(stride), self._read)

    @staticmethod
    def _from_type(function: Any, _type: Any, args: Any, _state: Any) -> Any:
        if not isinstance(function, _Call):
            raise pickle.UnpicklingError("malformed tensor")
        return function(*args)


def refuse_harmful(module: str, name: str) -> None:
    """Raise a `CheckpointError` for names that run commands or import code, such as ``os.system``."""
    root = module.partition(".")[0]
    harmful = root in _HARMFUL_MODULES
    if root in ("builtins", "__builtin__", "io", "_io"):
        harmful = name.partition(".")[0] in _HARMFUL_BUILTINS
    if harmful:
        raise CheckpointError(
            f"the file refers to {module}.{name}, which other programs would execute when they open it (here it was not): "
            "do not use this file, get the model again from a source you trust."
        )


def load_inert(file: IO[bytes], read: StorageReader) -> tuple[Any, dict[str, Storage]]:
    """Read one pickle with `InertUnpickler`.

    Args:
        file: The pickle; it is left at the pickle's end.
        read: Reads a storage, when `TensorRecord.load` asks for it.

    Returns:
        What the pickle holds, and the storages it refers to by their key.

    Raises:
        CheckpointError: The pickle is truncated, damaged or harmful.
    """
    unpickler = InertUnpickler(file, read)
    try:
        return unpickler.load(), unpickler.storages
    except CheckpointError:
        raise
    except MemoryError as error:
        raise CheckpointError("the file is damaged: it asks for more memory than there is.") from error
    except Exception as error:  # a damaged pickle can fail in any opcode, with any exception
        raise CheckpointError(f"the file is truncated or damaged ({type(error).__name__}: {error}).") from error


def _first(value: Any, *_: Any) -> Any:
    return value
