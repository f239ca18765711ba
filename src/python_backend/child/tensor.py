"""Tensor, and the conversions between numpy arrays and Triton's datatypes. Part of triton_python_backend_utils."""

import ctypes
import struct

import numpy as np

import ingot_python_dlpack as dlpack

TYPE_NUMBERS = {
    "BOOL": 1,
    "UINT8": 2,
    "UINT16": 3,
    "UINT32": 4,
    "UINT64": 5,
    "INT8": 6,
    "INT16": 7,
    "INT32": 8,
    "INT64": 9,
    "FP16": 10,
    "FP32": 11,
    "FP64": 12,
    "BYTES": 13,
    "BF16": 14,
}
NUMPY_TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
TYPE_NAMES = {np.dtype(t): name for name, t in NUMPY_TYPES.items()}
_TYPE_NAMES_BY_KIND = {(d.kind, d.itemsize): name for d, name in TYPE_NAMES.items()}
WIDTHS = {name: np.dtype(t).itemsize for name, t in NUMPY_TYPES.items() if name != "BYTES"}
WIDTHS["BF16"] = 2
_TYPE_CODES = {name: np.dtype(t).str for name, t in NUMPY_TYPES.items() if name != "BYTES"}
_ALIAS_FROM = 64 << 10  # smaller arrays are copied, whosever memory they are


class TritonModelException(Exception):
    pass


TritonModelException.__module__ = "c_python_backend_utils"  # as messages show it


def type_name(array):
    """Triton's name for the type of an array."""
    name = TYPE_NAMES.get(array.dtype)
    if name is None:
        if array.dtype.kind in "SU":
            return "BYTES"
        name = _TYPE_NAMES_BY_KIND.get((array.dtype.kind, array.dtype.itemsize))  # foreign byte orders, and twins such as longlong
        if name is not None:
            return name
        raise TritonModelException("numpy type %s has no Triton datatype" % array.dtype)
    return name


def serialize(array):
    """Elements in row-major order, each a 4-byte little-endian length and its bytes."""
    pieces = []
    for element in array.reshape(-1).tolist():
        if isinstance(element, str):
            element = element.encode("utf-8")
        elif not isinstance(element, (bytes, bytearray)):
            element = str(element).encode("utf-8")
        pieces.append(struct.pack("<I", len(element)))
        pieces.append(element)
    return b"".join(pieces)


def deserialize(encoded):
    view, out, at = memoryview(encoded), [], 0
    end = len(view)
    while at < end:
        if end - at < 4:
            raise TritonModelException("a BYTES tensor ends inside the length of element %d" % len(out))
        (length,) = struct.unpack_from("<I", view, at)
        at += 4
        if length > end - at:
            raise TritonModelException("a BYTES tensor ends inside element %d" % len(out))
        out.append(bytes(view[at : at + length]))
        at += length
    array = np.empty(len(out), dtype=np.object_)
    array[:] = out
    return array


class _Memory:
    """What an array over shared memory calls its base; keeps the lease alive."""

    __slots__ = ("owner", "__array_interface__")

    def __init__(self, owner, address, code, shape):
        self.owner = owner
        self.__array_interface__ = {"data": (address, False), "typestr": code, "shape": shape, "version": 3}


class Tensor:
    """A named tensor: Tensor(name, numpy_array), or Tensor.from_dlpack(name, object)."""

    __slots__ = ("_name", "_type", "_shape", "_array", "_owner", "_address", "_bytes", "__weakref__")

    def __init__(self, name, numpy_array):
        if not isinstance(name, str):
            raise TypeError("the name of a Tensor must be a str, not %s" % type(name).__name__)
        if not isinstance(numpy_array, np.ndarray):
            if not isinstance(numpy_array, np.generic):
                raise TypeError("the value of Tensor '%s' must be a numpy.ndarray, not %s" % (name, type(numpy_array).__name__))
            numpy_array = np.asarray(numpy_array)
        if name == "":
            raise TritonModelException("Tensor name cannot be an empty string.")
        self._name, self._type = name, type_name(numpy_array)
        if not numpy_array.dtype.isnative:
            numpy_array = numpy_array.astype(numpy_array.dtype.newbyteorder("="))
        self._shape = None
        self._array, self._owner, self._address, self._bytes = numpy_array, None, 0, 0

    @classmethod
    def over_memory(cls, name, triton_type, shape, owner, address, size):
        """A tensor in memory that `owner` keeps: an input, or what DLPack brought."""
        self = cls.__new__(cls)
        self._name, self._type, self._shape = name, triton_type, shape
        self._array, self._owner, self._address, self._bytes = None, owner, address, size
        return self

    def name(self):
        return self._name

    def triton_dtype(self):
        return TYPE_NUMBERS[self._type]

    def shape(self):
        return list(self._array.shape if self._shape is None else self._shape)

    def is_cpu(self):
        return not isinstance(self._owner, dlpack.Imported) or self._owner.is_cpu

    def as_numpy(self):
        if self._array is None:
            if not self.is_cpu():
                raise TritonModelException("Tensor is stored in GPU and cannot be converted to NumPy.")
            shape = tuple(self._shape)
            if self._type == "BYTES":
                array = deserialize((ctypes.c_char * self._bytes).from_address(self._address) if self._bytes else b"")
                self._array = array.reshape(shape)
            elif self._type == "BF16":
                raise TritonModelException("Tensor '%s' is BF16, which NumPy does not have; use to_dlpack()." % self._name)
            elif self._bytes == 0:
                self._array = np.empty(shape, dtype=NUMPY_TYPES[self._type])
            else:
                self._array = np.asarray(_Memory(self._owner, self._address, _TYPE_CODES[self._type], shape))
        return self._array

    # DLPack.

    def to_dlpack(self):
        if self._type == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        if self._array is not None and self._address == 0:
            if not self._array.flags.c_contiguous:
                self._array = np.ascontiguousarray(self._array)
            address = self._array.ctypes.data
        else:
            address = self._address
        return dlpack.export(self, address, self._type, self.shape(), self.__dlpack_device__())

    @classmethod
    def from_dlpack(cls, name, tensor):
        if not isinstance(name, str):
            raise TypeError("the name of a Tensor must be a str, not %s" % type(name).__name__)
        if name == "":
            raise TritonModelException("Tensor name cannot be an empty string.")
        if isinstance(tensor, Tensor) and tensor._array is not None and tensor._address == 0:
            return cls(name, tensor._array)
        try:
            capsule = tensor.__dlpack__() if hasattr(tensor, "__dlpack__") else tensor
            imported = dlpack.Imported(capsule)
        except Exception as e:
            raise TritonModelException(str(e))
        size = WIDTHS[imported.triton_type]
        for extent in imported.shape:
            size *= extent
        return cls.over_memory(name, imported.triton_type, imported.shape, imported, imported.address, size)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self.to_dlpack()

    def __dlpack_device__(self):
        return self._owner.device if isinstance(self._owner, dlpack.Imported) else (1, 0)

    def __repr__(self):
        return "Tensor(name='%s', dtype=%s, shape=%s)" % (self._name, self._type, self.shape())

    # On its way to the server.

    def place(self, channel, alias):
        """[name, type, shape, offset, bytes] with the bytes in shared memory. `alias`: an input's own memory may be passed on."""
        if not self.is_cpu():  # the one way out of a GPU is through the host
            offset = channel.allocate(self._bytes) if self._bytes else 0
            if self._bytes:
                try:
                    dlpack.copy_to_host(self._owner, channel.base + offset, self._bytes)
                except RuntimeError as e:
                    channel.arena.free(offset)
                    raise TritonModelException("Tensor '%s': %s" % (self._name, e))
            return [self._name, self._type, self._shape, offset, self._bytes]
        if self._type == "BYTES":
            if self._array is None:
                data = (ctypes.c_char * self._bytes).from_address(self._address) if self._bytes else b""
                return [self._name, "BYTES", self._shape, channel.store(memoryview(data).cast("B")) if self._bytes else 0, self._bytes]
            data = serialize(self._array)
            return [self._name, "BYTES", list(self._array.shape), channel.store(data) if data else 0, len(data)]
        if self._array is None or self._address:
            shape, address, size = self._shape, self._address, self._bytes
        else:
            array = self._array if self._array.flags.c_contiguous else np.ascontiguousarray(self._array)
            shape, address, size = list(array.shape), 0, array.nbytes
            if size and alias and size >= _ALIAS_FROM:
                address = array.__array_interface__["data"][0]
        if size == 0:
            return [self._name, self._type, shape, 0, 0]
        if alias and address and size >= _ALIAS_FROM:
            offset = channel.in_server_arena(address, size)
            if offset is not None:
                return [self._name, self._type, shape, offset, size]
        offset = channel.allocate(size)
        if self._array is None or self._address:
            source = (ctypes.c_char * size).from_address(self._address)
            channel.view[offset : offset + size] = memoryview(source).cast("B")
        elif size < 4096:
            channel.view[offset : offset + size] = array.tobytes()
        else:
            np.frombuffer(channel.view, dtype=array.dtype, count=array.size, offset=offset).reshape(array.shape)[...] = array
        return [self._name, self._type, shape, offset, size]


def place_all(tensors, channel, alias):
    """place() for each; when one fails, the others' memory is free again."""
    placed = []
    try:
        for tensor in tensors:
            placed.append(tensor.place(channel, alias))
    except BaseException:
        for _, _, _, offset, size in placed:
            if size:
                channel.arena.free(offset)  # ignores memory that is not of this arena
        raise
    return placed
