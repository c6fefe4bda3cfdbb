"""Runs a detector over the frames of video files; detections by frame, and painted videos."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from tqdm import tqdm

from loradet.datasets.images.header import SampleFormat
from loradet.datasets.mapper import intensity_of
from loradet.errors import UserError
from loradet.evaluation.score_thresholds import ScoreThresholds
from loradet.inference.classes import Classes
from loradet.inference.formats import file_names, save_detections
from loradet.inference.image_files import common_folder
from loradet.inference.outcome import Outcome, describe
from loradet.inference.predictor import Detector, Mapper, predict, to_annotations
from loradet.inference.video_files import VIDEO_SUFFIXES, Frame, VideoReader, VideoWriter, write_video
from loradet.views import ViewDetector, ViewMapper, Views
from loradet.views.mapper import map_pixels, pixel_reader
from loradet.visualization.painting import LabelledBoxes, paint_boxes

VIDEOS = "videos"


def predict_files(*, files: Sequence[Path], every: int | None = None, **options: Any) -> Outcome:
    """`predict` of images, `predict_videos` of videos, which are told by the endings of their names.

    Args:
        files: images, or videos.
        every: of videos: see `predict_videos`.
        **options: of these.

    Raises:
        UserError: both kinds of files, or `every` without a video.
    """
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        if every is not None:
            raise UserError(f"--every is for the frames of videos ({', '.join(VIDEO_SUFFIXES)}); there is none.")
        return predict(files=files, **options)
    if len(videos) < len(files):
        raise UserError(
            f"Images and videos are two calls: {videos[0]} is a video, as {len(videos)} of the {len(files)} files."
        )
    options.pop("intensity_option", None)  # of deep images
    return predict_videos(files=videos, every=every or 1, **options)


def predict_videos(
    *,
    detector: Detector,
    mapper: Mapper,
    classes: Classes,
    files: Sequence[Path],
    output: str | Path,
    score_threshold: float | ScoreThresholds = 0.0,
    batch_size: int = 1,
    pictures: bool = True,
    source: str = "",
    views: Views | None = None,
    save: Sequence[str] = ("coco",),
    every: int = 1,
) -> Outcome:
    """Detect on the frames of video files; write the same files as `predict`, and painted videos in `videos/`.

    Each frame counts as an image `<video>/<number>.png`, which is not written; `images` have `video`, `frame` (from 0
    on) and `seconds` besides. Painted videos hold the frames that were looked at, at as many fewer a second. A video
    that cannot be decoded is reported on standard error and left out; of one that is cut short, what there is is done.

    Args:
        files: videos.
        every: look at every n-th frame.
        detector, mapper, classes, output, score_threshold, batch_size, pictures, source, views, save: as of `predict`.

    Raises:
        UserError: the mapper takes files alone; a painted video would replace its source.
    """
    thresholds = score_threshold
    if not isinstance(thresholds, ScoreThresholds):
        thresholds = ScoreThresholds(thresholds, "given")
    output, root = Path(output), common_folder(files)
    names = [path.absolute().relative_to(root) for path in files]
    to_sample = _frame_mapper(mapper, views)
    if views is not None:
        detector = ViewDetector(detector, views, batch_size)
    found = _Detections(classes, thresholds)
    failures: list[str] = []
    for file, name, target in zip(files, names, file_names(names, ".mp4")):
        painted = output / VIDEOS / target if pictures else None
        if painted is not None and painted.resolve() == file.resolve():
            raise UserError(f"The painted video would replace {file} itself: give another --output.")
        try:
            reader = VideoReader(file)
            _watch(reader, detector, to_sample, batch_size, every, painted, found, name)
        except (UserError, OSError) as error:
            failures.append(str(error))
        else:
            failures += [] if reader.shortfall is None else [reader.shortfall]
        if failures and str(file) in failures[-1]:
            print(f"warning: {failures[-1]}", file=sys.stderr)
    info = describe(classes, thresholds, source=source, image_root=str(root), views=views, failed=len(failures))
    content = {"info": info | {"every": every}, "images": found.images, "categories": classes.categories()}
    file = save_detections(content | {"annotations": found.annotations}, output, save)
    used = thresholds.describe(classes.names)
    return Outcome(file, len(found.images), len(found.annotations), failures, used, "frames")


@dataclass
class _Detections:
    """What has been found so far, as COCO has it."""

    classes: Classes
    thresholds: ScoreThresholds
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, video: Path, frame: Frame, found: Instances) -> LabelledBoxes:
        """Take in what was found in a frame; returns what is to be painted."""
        found = found[self.thresholds.keep(found)]
        height, width = frame.image.shape[:2]
        number = len(self.images) + 1
        about = {"id": number, "file_name": (video / f"{frame.number:06d}.png").as_posix()}
        about |= {"width": width, "height": height, "video": video.as_posix()}
        self.images.append({**about, "frame": frame.number, "seconds": round(frame.seconds, 6)})
        self.annotations += to_annotations(found, number, self.classes.ids, len(self.annotations))
        return LabelledBoxes(found.pred_boxes.tensor.numpy(), found.pred_classes.numpy(), found.scores.numpy())


def _watch(
    reader: VideoReader,
    detector: Detector,
    to_sample: Callable[[Path, Frame], dict[str, Any]],
    batch_size: int,
    every: int,
    painted: Path | None,
    found: _Detections,
    name: Path,
) -> None:
    """Detect on the frames of one video, and paint them."""
    total = None if reader.expected is None else -(-reader.expected // every)
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=total, unit="frame", disable=None, desc=name.name))
        writer: VideoWriter | None = None
        for batch in _batches(reader.frames(every), batch_size):
            with torch.no_grad():
                results = detector([to_sample(reader.path, frame) for frame in batch])
            if painted is not None and writer is None:
                writer = stack.enter_context(write_video(painted, reader.fps / every))
            for frame, result in zip(batch, results):
                labelled = found.add(name, frame, result["instances"].to("cpu"))
                if writer is not None:
                    writer.write(paint_boxes(frame.image, labelled, found.classes.names))
            progress.update(len(batch))


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    batch: list[Frame] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _frame_mapper(mapper: Mapper, views: Views | None) -> Callable[[Path, Frame], dict[str, Any]]:
    """Makes the input of a model of a frame, as the mapper does of an image file of the same pixels."""
    reader, intensity = pixel_reader(mapper), intensity_of(pixel_reader(mapper))
    looks = None if views is None else ViewMapper(mapper, views)

    def to_sample(path: Path, frame: Frame) -> dict[str, Any]:
        image = _in_format(intensity.apply(frame.image, SampleFormat()), reader.image_format)
        record = {"file_name": f"{path}, frame {frame.number}", "image_id": frame.number}
        return map_pixels(mapper, image, record) if looks is None else looks.map_image(record, image)

    return to_sample


def _in_format(image: np.ndarray, format: str) -> np.ndarray:
    """RGB as a mapper's `image_format` has it."""
    if format == "RGB":
        return image
    if format == "BGR":
        return np.ascontiguousarray(image[:, :, ::-1])
    if format == "L":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    raise UserError(f"The test mapper takes images as {format}; of videos there are RGB, BGR and L.")
