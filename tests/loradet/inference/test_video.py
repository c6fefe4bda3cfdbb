"""Videos in, detections by frame and painted videos out."""

import json

import cv2
import numpy as np
import pytest
from helpers.random_detector import NAMES, config, detector, picture
from PIL import Image

from loradet.config.build import build
from loradet.config.splits import evaluation_mapper
from loradet.errors import UserError
from loradet.inference.classes import Classes
from loradet.inference.predictor import predict
from loradet.inference.video import predict_files, predict_videos
from loradet.inference.video_files import VideoReader, write_video
from loradet.views import Views


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Seven frames of 101 x 75 pixels that move, ten a second."""
    file = tmp_path_factory.mktemp("clips") / "clip.mp4"
    wide = picture(75, 200)
    with write_video(file, 10.0) as writer:
        for number in range(7):
            writer.write(np.ascontiguousarray(wide[:, 10 * number : 10 * number + 101]))
    return file


@pytest.fixture(scope="module")
def parts():
    cfg = config("data.image_size=96", "data.max_size=128")
    mapper = build(evaluation_mapper(cfg), "The mapper")
    return {"detector": detector(), "mapper": mapper, "classes": Classes(NAMES, [1, 2, 3])}


def read(outcome):
    content = json.loads(outcome.output.read_text())
    return content, [
        [row["image_id"], row["category_id"], *row["bbox"], row["score"]] for row in content["annotations"]
    ]


def test_what_is_written_is_read_again(clip):
    reader = VideoReader(clip)
    frames = list(reader.frames(every=3))
    assert (reader.expected, reader.decoded, reader.fps, reader.shortfall) == (7, 7, 10.0, None)
    assert [frame.number for frame in frames] == [0, 3, 6]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.3, 0.6])
    wanted = picture(75, 200)[:, 30:131].astype(int)
    assert frames[1].image.shape == (76, 102, 3)  # odd sides got a pixel more
    assert np.abs(frames[1].image[:75, :101] - wanted).mean() < 6
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("views", [None, Views(tiles=64, flip=True)], ids=["whole", "tiles"])
def test_frames_are_as_image_files_of_their_pixels(clip, parts, tmp_path, views):
    files = []
    for frame in VideoReader(clip).frames(every=3):
        files.append(tmp_path / f"{frame.number}.png")
        Image.fromarray(frame.image).save(files[-1])
    options = {**parts, "views": views, "batch_size": 2}
    watched = predict_files(files=[clip], output=tmp_path / "a", every=3, **options)
    looked = predict(files=files, output=tmp_path / "b", pictures=False, **options)
    (content, rows), (_, wanted) = read(watched), read(looked)
    assert len(rows) > 50 and (watched.images, watched.unit, watched.boxes) == (3, "frames", len(rows))
    np.testing.assert_allclose(rows, wanted, atol=1e-3)
    image = content["images"][1]
    assert (image["file_name"], image["video"], image["frame"]) == ("clip.mp4/000003.png", "clip.mp4", 3)
    assert image["seconds"] == pytest.approx(0.3) and (image["width"], image["height"]) == (102, 76)
    painted = VideoReader(tmp_path / "a" / "videos" / "clip.mp4")
    frames = list(painted.frames())
    assert len(frames) == 3 and painted.fps == pytest.approx(10 / 3, abs=0.01)
    assert np.abs(frames[0].image.astype(int) - np.asarray(Image.open(files[0]))).max() > 100


def broken(folder, clip):
    """Files that are no whole videos, with what is to be said of each."""
    content = clip.read_bytes()
    (folder / "end.mp4").write_bytes(content[: len(content) // 2])
    (folder / "text.avi").write_text("no video")
    (folder / "empty.webm").touch()
    with write_video(folder / "whole.mp4", 10.0) as writer:
        for number in range(40):
            writer.write(picture(80, 96, seed=number))
    content = bytearray((folder / "whole.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    middle = start + (content.index(b"moov") - start) // 2
    content[middle : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - middle)
    (folder / "whole.mp4").rename(folder / "good.mp4")
    (folder / "hole.mp4").write_bytes(content)
    writer = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (80, 60))
    writer.write(picture(60, 80))
    writer.release()
    content = (folder / "film.avi").read_bytes()
    (folder / "head.avi").write_bytes(content[: content.index(b"movi") + 4])
    return ["end.mp4", "text.avi", "empty.webm", "head.avi"]


def test_videos_that_cannot_be_decoded_are_named_and_the_others_done(clip, parts, tmp_path, capfd):
    names = broken(tmp_path, clip)
    files = [*(tmp_path / name for name in names), clip, tmp_path / "hole.mp4"]
    outcome = predict_videos(files=files, output=tmp_path / "out", every=4, **parts)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(outcome.failures) == 5 and all(line.startswith("warning: ") for line in lines)
    for name, line in zip(names, lines):
        what = "has no frame that can be decoded" if name == "head.avi" else "cannot be decoded"
        assert f"{name} {what}: " in line and f"ffmpeg -i {name} -c:v libx264" in line
    assert "hole.mp4 is cut short or broken: " in lines[4] and "of its 40 frames could be decoded" in lines[4]
    done = {image["video"] for image in read(outcome)[0]["images"]}
    assert {name.rpartition("/")[2] for name in done} == {"clip.mp4", "hole.mp4"}
    assert sorted(path.name for path in (tmp_path / "out" / "videos").rglob("*.*")) == ["clip.mp4", "hole.mp4"]


def test_what_makes_no_sense_is_refused(clip, parts, tmp_path):
    Image.fromarray(picture(60, 80)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match=r"Images and videos are two calls: .*clip\.mp4 is a video, as 1 of the 2"):
        predict_files(files=[tmp_path / "image.png", clip], output=tmp_path / "out", **parts)
    with pytest.raises(UserError, match="--every is for the frames of videos"):
        predict_files(files=[tmp_path / "image.png"], output=tmp_path / "out", every=2, **parts)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(clip.read_bytes())
    with pytest.raises(UserError, match="would replace"):
        predict_files(files=[folder / "clip.mp4"], output=tmp_path, **parts)
    assert (folder / "clip.mp4").read_bytes() == clip.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png", "videos"]


def test_a_video_that_fails_half_way_leaves_none(tmp_path):
    with pytest.raises(RuntimeError), write_video(tmp_path / "a.mp4", 10.0) as writer:
        writer.write(picture(60, 80))
        raise RuntimeError
    with write_video(tmp_path / "b.mp4", 10.0):
        pass
    assert list(tmp_path.iterdir()) == []


def test_other_containers_are_read(tmp_path):
    frame = picture(60, 80)
    for name, codec in (("a.avi", "MJPG"), ("b.mkv", "mp4v"), ("c.mov", "mp4v")):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*codec), 5.0, (80, 60))
        for _ in range(3):
            writer.write(frame[:, :, ::-1])
        writer.release()
        found = list(VideoReader(tmp_path / name).frames())
        assert len(found) == 3 and np.abs(found[2].image.astype(int) - frame).mean() < 6
