"""DLPack capsules by hand, so that bfloat16, bool and any numpy version work: capsule <-> (address, dtype, shape)."""

import ctypes

_CPU_DEVICES = (1, 3)  # kDLCPU, kDLCUDAHost
_CODES = {  # (code, bits) -> Triton's type
    (0, 8): "INT8",
    (0, 16): "INT16",
    (0, 32): "INT32",
    (0, 64): "INT64",
    (1, 8): "UINT8",
    (1, 16): "UINT16",
    (1, 32): "UINT32",
    (1, 64): "UINT64",
    (2, 16): "FP16",
    (2, 32): "FP32",
    (2, 64): "FP64",
    (4, 16): "BF16",
    (6, 8): "BOOL",
}
_TYPES = {name: key for key, name in _CODES.items()}


class _Device(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int), ("device_id", ctypes.c_int)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _ManagedTensor(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_ManagedTensor))
_ManagedTensor._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_IsValid.restype = ctypes.c_int
_api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]

_NAME, _USED = b"dltensor", b"used_dltensor"  # referenced by capsules for ever, so kept here

# Of a capsule that nobody consumed, the destructor has to run the deleter. It gets the raw object, whose count is already zero.
_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_raw_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))


@_CapsuleDestructor
def _destroy(capsule):
    if _raw_is_valid(capsule, _NAME):
        _forget(ctypes.cast(_raw_pointer(capsule, _NAME), ctypes.POINTER(_ManagedTensor)))


_exported = {}  # address of a managed tensor -> what it needs to stay alive


@_Deleter
def _forget(managed):
    _exported.pop(ctypes.addressof(managed.contents), None)


def export(owner, address, triton_type, shape, device=(1, 0)):
    """A capsule over memory that `owner` keeps alive."""
    if triton_type not in _TYPES:
        raise TypeError("DLPack does not have support for %s tensors." % triton_type)
    managed = _ManagedTensor()
    extents = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    code, bits = _TYPES[triton_type]
    t = managed.tensor
    t.data, t.device = address, _Device(*device)
    t.ndim, t.dtype = len(shape), _DataType(code, bits, 1)
    t.shape = ctypes.cast(extents, ctypes.POINTER(ctypes.c_int64))
    t.strides, t.byte_offset = None, 0
    managed.deleter = _forget
    _exported[ctypes.addressof(managed)] = (managed, extents, owner)
    return _api.PyCapsule_New(ctypes.addressof(managed), _NAME, ctypes.cast(_destroy, ctypes.c_void_p))


class _Cuda:
    """The few calls of the CUDA driver that bring a tensor to the host."""

    def __init__(self):
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as e:
            raise RuntimeError("a tensor lies on a GPU, and the CUDA driver cannot be reached: %s" % e)

    def _do(self, name, *arguments):
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise RuntimeError("%s failed with CUDA error %d" % (name, code))

    def copy(self, device, source, destination, size):
        handle, context, previous = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuInit", 0)
        self._do("cuDeviceGet", ctypes.byref(handle), device)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
        self._do("cuCtxPushCurrent_v2", context)
        try:
            self._do("cuCtxSynchronize")  # whatever stream still works on the tensor
            self._do("cuMemcpyDtoH_v2", ctypes.c_void_p(destination), ctypes.c_uint64(source), ctypes.c_size_t(size))
        finally:
            self._do("cuCtxPopCurrent_v2", ctypes.byref(previous))
            self._do("cuDevicePrimaryCtxRelease_v2", handle)


_cuda = None


def copy_to_host(imported, destination, size):
    global _cuda
    kind, device = imported.device
    if kind != 2:  # kDLCUDA
        raise RuntimeError("a tensor lies on a device of DLPack kind %d, which is not supported" % kind)
    if _cuda is None:
        _cuda = _Cuda()
    _cuda.copy(device, imported.address, destination, size)


class Imported:
    """What a capsule holds; runs the producer's deleter when dropped."""

    def __init__(self, capsule):
        if not _api.PyCapsule_IsValid(capsule, _NAME):
            raise ValueError("the DLPack capsule was used before, or is none")
        self._managed = ctypes.cast(_api.PyCapsule_GetPointer(capsule, _NAME), ctypes.POINTER(_ManagedTensor))
        t = self._managed.contents.tensor
        self.device = (t.device.device_type, t.device.device_id)
        self.is_cpu = t.device.device_type in _CPU_DEVICES
        self.shape = [t.shape[i] for i in range(t.ndim)]
        key = (t.dtype.code, t.dtype.bits)
        if t.dtype.lanes != 1 or key not in _CODES:
            self._managed = None
            raise TypeError("DLPack type code %d with %d bits has no Triton datatype" % key)
        self.triton_type = _CODES[key]
        self.address = (t.data or 0) + t.byte_offset
        if t.strides:
            expected = 1
            for extent, stride in zip(reversed(self.shape), reversed([t.strides[i] for i in range(t.ndim)])):
                if extent != 1 and stride != expected and 0 not in self.shape:
                    self._managed = None
                    raise ValueError(
                        "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in C-Order are supported."
                    )
                expected *= extent
        _api.PyCapsule_SetName(capsule, _USED)

    def __del__(self):
        managed = getattr(self, "_managed", None)
        if managed and managed.contents.deleter:
            managed.contents.deleter(managed)
