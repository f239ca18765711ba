"""The child's end of the shared memory: message rings and tensor arenas.

The region (fd 3) holds three rings and two arenas. Rings: commands and events come from the server, replies go to it; each is
{head u64 @0, tail u64 @64, waiting u64 @96} and its bytes @128. A message is {length u32, kind u32} and its payload, padded to
eight bytes; kind 0: JSON text; kind 1: {offset u64, length u64} of a JSON text too large for the ring. The first arena belongs to the
server (inputs), the second to us (outputs); whoever gets a block returns it with the "free" list of a later message.
"""

import collections
import ctypes
import json
import mmap
import os
import platform
import struct
import threading
import time

_REGION_FD = 3
_COMMANDS_FD = 4
_EVENTS_FD = 5
_REPLIES_FD = 6
_COUNTERS = 128
_INLINE, _SPILLED = 0, 1
_WAKE = struct.pack("=Q", 1)
_HEADER = struct.Struct("=II")
_REFERENCE = struct.Struct("=QQ")
_LARGE = 1 << 20  # returned at once, not with the next message
_KEEP_FREE = 64 << 20  # bytes of free large blocks that stay resident
_ORDERED = platform.machine() in ("x86_64", "AMD64", "i686")


def dump(message):
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class Lease:
    """A block of the server's arena that is ours until nothing refers to it any more."""

    __slots__ = ("channel", "offset", "size")

    def __init__(self, channel, offset, size):
        self.channel, self.offset, self.size = channel, offset, size

    def __del__(self):
        self.channel.give_back(self.offset, self.size)


class Arena:
    """Blocks of our half of the region. Sizes are rounded up to an eighth of their power of two, and reused by size."""

    def __init__(self, mapping, start, size):
        self._mapping = mapping
        self._next, self._end = start, start + size
        self._free = collections.defaultdict(list)
        self._sizes = {}
        self._kept = 0  # bytes of free large blocks whose pages are still there
        self._lock = threading.Lock()
        self._returned = collections.deque()

    def allocate(self, size):
        """Offset of a block of at least `size` bytes, or None."""
        if size > _LARGE:
            step = max(4096, 1 << (size.bit_length() - 4))
        else:
            step = max(64, 1 << max(0, size.bit_length() - 3))
        size = max(step, (size + step - 1) // step * step)
        if size >= 4096:
            size = (size + 4095) // 4096 * 4096
        with self._lock:
            self._collect()
            blocks = self._free.get(size)
            if blocks:
                if size >= _LARGE:
                    self._kept = max(0, self._kept - size)
                offset = blocks.pop()
            else:
                offset = self._next
                if size >= 4096:
                    offset = (offset + 4095) // 4096 * 4096
                if offset + size > self._end:
                    return None
                self._next = offset + size
            self._sizes[offset] = size
            return offset

    def free(self, offset):
        self._returned.append(offset)  # taken up by the next allocate(): this is called from anywhere

    def free_large(self):
        with self._lock:
            self._collect()

    def _collect(self):
        while self._returned:
            offset = self._returned.popleft()
            size = self._sizes.pop(offset, None)
            if size is None:
                continue
            if size >= _LARGE:
                if self._kept + size > _KEEP_FREE:
                    try:
                        self._mapping.madvise(mmap.MADV_REMOVE, offset, size)
                    except (AttributeError, OSError, ValueError):
                        self._kept += size
                else:
                    self._kept += size
            self._free[size].append(offset)


class RingReader:
    def __init__(self, view, offset, capacity, fd, wake_fd):
        self._counters = view[offset : offset + _COUNTERS].cast("Q")
        self._bytes = view[offset + _COUNTERS : offset + _COUNTERS + capacity]
        self._capacity, self._fd, self._wake_fd = capacity, fd, wake_fd
        self._tail = 0

    def pop(self):
        """Waits for the next message: (kind, payload)."""
        while self._counters[0] == self._tail:
            os.read(self._fd, 8)
        at = self._tail % self._capacity
        length, kind = _HEADER.unpack_from(self._bytes, at)
        at += 8
        if at >= self._capacity:
            at = 0
        end = at + length
        if end <= self._capacity:
            payload = self._bytes[at:end].tobytes()
        else:
            payload = self._bytes[at:].tobytes() + self._bytes[: end - self._capacity].tobytes()
        self._tail += 8 + (length + 7) // 8 * 8
        self._counters[8] = self._tail
        if self._counters[12]:
            os.write(self._wake_fd, _WAKE)
        return kind, payload


class RingWriter:
    def __init__(self, view, offset, capacity, fd):
        self._counters = view[offset : offset + _COUNTERS].cast("Q")
        self._bytes = view[offset + _COUNTERS : offset + _COUNTERS + capacity]
        self._capacity, self._fd = capacity, fd
        self._head = 0
        self._fence = threading.Lock()

    def push(self, payload, kind):
        length = len(payload)
        need = 8 + (length + 7) // 8 * 8
        while self._capacity - (self._head - self._counters[8]) < need:
            time.sleep(0.0005)  # the server reads without pause: this is back-pressure on a fast producer
        at = self._head % self._capacity
        _HEADER.pack_into(self._bytes, at, length, kind)
        at += 8
        if at >= self._capacity:
            at = 0
        end = at + length
        if end <= self._capacity:
            self._bytes[at:end] = payload
        else:
            first = self._capacity - at
            self._bytes[at:] = payload[:first]
            self._bytes[: length - first] = payload[first:]
        self._head += need
        if not _ORDERED:  # two pairs of lock and unlock order the stores above before the one below on weakly ordered machines
            with self._fence:
                pass
            with self._fence:
                pass
        self._counters[0] = self._head
        os.write(self._fd, _WAKE)


class OutOfSharedMemory(MemoryError):
    pass


class Channel:
    def __init__(self, layout):
        self.size = layout["size"]
        self._mapping = mmap.mmap(_REGION_FD, self.size)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        self.view = memoryview(self._mapping)
        capacity = layout["ring_bytes"]
        self._inline_most = capacity // 4
        self._commands = RingReader(self.view, layout["commands"], capacity, _COMMANDS_FD, _REPLIES_FD)
        self._events = RingReader(self.view, layout["events"], capacity, _EVENTS_FD, _REPLIES_FD)
        self._replies = RingWriter(self.view, layout["replies"], capacity, _REPLIES_FD)
        self._server_arena = (layout["server_arena"], layout["server_arena"] + layout["arena_bytes"])
        self.arena = Arena(self._mapping, layout["child_arena"], layout["arena_bytes"])
        self._lock = threading.Lock()
        self._give_back = collections.deque()
        self._later = collections.deque()
        self._ours = True
        os.register_at_fork(after_in_child=self._leave)
        for fd in (_REGION_FD, _COMMANDS_FD, _EVENTS_FD, _REPLIES_FD):
            os.set_inheritable(fd, False)

    def _leave(self):
        """In a process that the model forked: its copies of our objects must not write into the rings."""
        self._ours = False
        self._lock = threading.Lock()  # whoever held it does not exist here

    # Receiving.

    def next_command(self):
        return self._open(*self._commands.pop())

    def next_event(self):
        return self._open(*self._events.pop())

    def _open(self, kind, payload):
        if kind == _SPILLED:
            offset, length = _REFERENCE.unpack(payload)
            payload = self.view[offset : offset + length].tobytes()
            self.give_back(offset, length)
        message = json.loads(payload)
        returned = message.get("free")
        if returned:
            for offset in returned:
                self.arena.free(offset)
            self.arena.free_large()
        return message

    # Sending.

    def send(self, message):
        if not self._ours:
            raise RuntimeError("a process that the model forked has no connection to the server: use the model's own process")
        with self._lock:
            self._send(message)
        self._flush()

    def send_later(self, message):
        """Sends without waiting for a send that this thread may be in the middle of: for destructors."""
        if self._ours:
            self._later.append(message)
            self._flush()

    def give_back(self, offset, size):
        if not self._ours:
            return
        self._give_back.append(offset)
        if size >= _LARGE or len(self._give_back) >= 32:
            self._flush(True)

    def _flush(self, returns=False):
        while (self._later or (returns and self._give_back)) and self._lock.acquire(False):
            try:
                while self._later:
                    self._send(self._later.popleft())
                if returns and self._give_back:
                    self._send({"m": "free"})
            finally:
                self._lock.release()

    def _send(self, message):
        if self._give_back:
            returned = []
            while self._give_back and len(returned) < 1000:  # never so many that the message has to be spilled
                returned.append(self._give_back.popleft())
            message["free"] = returned
        payload = dump(message)
        if len(payload) <= self._inline_most:
            self._replies.push(payload, _INLINE)
            return
        self._replies.push(_REFERENCE.pack(self.store(payload), len(payload)), _SPILLED)

    # Tensors.

    def store(self, data):
        """Copies a bytes-like object into a new block of our arena."""
        offset = self.allocate(len(data))
        self.view[offset : offset + len(data)] = data
        return offset

    def allocate(self, size):
        offset = self.arena.allocate(size)
        if offset is None:
            raise OutOfSharedMemory("no room for %d bytes in the model's shared memory" % size)
        return offset

    def in_server_arena(self, address, size):
        """The offset of memory that lies in the server's arena, or None."""
        offset = address - self.base
        if self._server_arena[0] <= offset and offset + size <= self._server_arena[1]:
            return offset
        return None
