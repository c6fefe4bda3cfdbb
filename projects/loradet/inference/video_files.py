"""Video files, decoded and written by OpenCV's FFmpeg."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its own lines: what is wrong is said in one of ours

import cv2
import numpy as np

from loradet.errors import UserError
from loradet.files import atomic_path

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
_FPS = 25.0  # of a file that does not say
# Of containers that only estimate how many frames they have, this share less is no loss.
_ESTIMATE = 0.02


@dataclass(frozen=True)
class Frame:
    """A frame of a video.

    Attributes:
        number: from 0 on, of all frames of the video.
        seconds: since the beginning.
        image: (H, W, 3) uint8 RGB, upright.
    """

    number: int
    seconds: float
    image: np.ndarray


class VideoReader:
    """Frames of a video file.

    Attributes:
        path: of the file.
        expected: number of frames that the file says to have; None where it does not say.
        fps: frames a second, 25 where the file does not say.
        decoded: number of frames that have been decoded so far.

    Raises:
        UserError: there is no video in it that can be decoded.
    """

    def __init__(self, path: Path):
        self.path = path
        with _quiet():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UserError(f"{path} cannot be decoded: it is cut short at its end, or no video. {_advice(path)}")
        count, fps = self._capture.get(cv2.CAP_PROP_FRAME_COUNT), self._capture.get(cv2.CAP_PROP_FPS)
        self.expected = int(count) if math.isfinite(count) and count > 0 else None
        self.fps = fps if math.isfinite(fps) and fps > 0 else _FPS
        self.decoded = 0

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Every n-th frame from the first one on, once; the others are not converted.

        Raises:
            UserError: not one frame can be decoded.
        """
        while self._capture.grab():
            number = self.decoded
            self.decoded += 1
            if number % every == 0:
                is_there, image = self._capture.retrieve()
                if not is_there:
                    break
                milliseconds = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                seconds = milliseconds / 1000 if milliseconds > 0 else number / self.fps
                yield Frame(number, seconds, _rgb(image))
        self._capture.release()
        if not self.decoded:
            raise UserError(
                f"{self.path} has no frame that can be decoded: it is empty, or of a codec that OpenCV's FFmpeg lacks, "
                f"as AV1. {_advice(self.path)}"
            )

    @property
    def shortfall(self) -> str | None:
        """Once all frames have been read: what is to be said where the file has fewer than it says; else None."""
        if self.expected is None or self.decoded >= self.expected * (1 - _ESTIMATE) - 1:
            return None
        return (
            f"{self.path} is cut short or broken: {self.decoded} of its {self.expected} frames could be decoded, and "
            "are done. Copy it again for the others."
        )


class VideoWriter:
    """Writes frames to a video file, MPEG-4 in `.mp4`; see `write_video`."""

    def __init__(self, path: Path, fps: float):
        self.path = path
        self.fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray) -> None:
        """Append a frame (H, W, 3) uint8 RGB; all have the size of the first one. Raises OSError on failure."""
        height, width = image.shape[:2]
        if height % 2 or width % 2:  # the codec takes even sides alone
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, codec, self.fps, image.shape[1::-1])
            if not self._writer.isOpened():
                raise OSError(f"OpenCV cannot write {self.path} as MPEG-4 of {width}x{height} pixels.")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def write_video(path: Path, fps: float) -> Iterator[VideoWriter]:
    """A writer of a file that takes the place of `path` when the block ends well, and has at least a frame.

    Args:
        path: `.mp4`; its folder is made.
        fps: frames a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        writer = VideoWriter(temporary, fps)
        try:
            yield writer
        finally:
            writer.close()


def _advice(path: Path) -> str:
    return f"Copy it again, or convert it: ffmpeg -i {path.name} -c:v libx264 -pix_fmt yuv420p new.mp4"


def _rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what OpenCV logs of files that it cannot open."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
