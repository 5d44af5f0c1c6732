"""A short video for the tests of `seggen predict`."""

from pathlib import Path

import numpy as np
import pytest


def write_video(file: Path, *, num_frames: int) -> None:
    """Write frames of 48x32 pixels, each brighter than the one before; skip without PyAV."""
    av = pytest.importorskip("av")
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for k in range(num_frames):
            frame = np.full((32, 48, 3), 40 * k, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
