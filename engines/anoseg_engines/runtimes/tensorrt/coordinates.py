"""Keeps the coordinates of placements in device memory, for all lanes of a runtime. Any thread, in the device's context."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.runtimes.tensorrt.device import Device, Stream, upload_now

MAX_PLACEMENTS = 32
"""The number of placements whose coordinates stay on the device. The one used longest ago is freed first."""


class ResidentCoordinates:
    """Coordinates by the identity of their array. Each is uploaded once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._resident: OrderedDict[int, tuple[NDArray[np.float16], int]] = OrderedDict()
        self._lock = threading.Lock()

    def copy_to(self, target: int, coords: NDArray[np.float16], stream: Stream) -> None:
        """Copy coordinates to a lane's buffer. They are uploaded the first time.

        The array is kept, so that no other array can get its id. The copy has ended on return, so that another lane may free
        the coordinates that were used longest ago.
        """
        with self._lock:
            address = self._address(coords, stream)
            stream.copy(target, address, coords.nbytes)
            stream.synchronize()

    def close(self) -> None:
        """Free all."""
        while self._resident:
            self._device.free(self._resident.popitem()[1][1])

    def _address(self, coords: NDArray[np.float16], stream: Stream) -> int:
        key = id(coords)
        if key not in self._resident:
            if len(self._resident) >= MAX_PLACEMENTS:
                _, (_, oldest) = self._resident.popitem(last=False)
                self._device.free(oldest)
            address = self._device.allocate(coords.nbytes)
            try:
                upload_now(self._device, stream, address, coords)
            except BaseException:
                self._device.free(address)
                raise
            self._resident[key] = (coords, address)
        self._resident.move_to_end(key)
        return self._resident[key][1]
