"""Two ways to see a scene: as a SAR amplitude image with speckle, or as a coloured overhead photograph."""

import cv2
import numpy as np

from loradet.datasets.synthetic.canvas import Canvas, field
from loradet.datasets.synthetic.shapes import Part

Range = tuple[float, float]


class SAR:
    """Radar amplitude: metal is bright, water, tarmac, shadow are dark; multiplicative speckle over all."""

    channels = 1
    ground: dict[str, Range] = {
        "water": (0.05, 0.2),
        "field": (0.2, 0.4),
        "soil": (0.16, 0.3),
        "forest": (0.32, 0.5),
        "tarmac": (0.08, 0.17),
        "road": (0.07, 0.15),
        "roof": (0.4, 0.8),
        "shore": (0.3, 0.5),
    }
    bodies: dict[str, Range] = {
        "ship": (0.35, 1.0),
        "aircraft": (0.42, 0.85),
        "car": (0.6, 1.0),
        "tank": (0.45, 0.8),
        "bridge": (0.45, 0.8),
        "harbor": (0.4, 0.65),
    }
    texture = 0.12

    def __init__(self, rng: np.random.Generator) -> None:
        self.looks = rng.uniform(1.5, 6.0)
        self.gain = rng.uniform(0.85, 1.4)
        self.grain = rng.uniform(0.0, 0.75)  # pixels: oversampled products have correlated speckle
        self.shadow = np.array([rng.uniform(0.6, 1.6), rng.uniform(-0.2, 0.2)])
        self.shadow_opacity = 0.7
        arm = np.abs(np.arange(-12, 13, dtype=np.float32))
        decay = 1 / (1 + arm) * (0.6 + 0.4 * np.cos(np.pi * arm))
        self._sidelobes = np.zeros((25, 25), np.float32)
        self._sidelobes[12], self._sidelobes[:, 12] = decay, decay

    def material(self, name: str, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.uniform(*self.ground[name])], np.float32)

    def body(self, name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        base = rng.uniform(*self.bodies[name])
        return np.array([base], np.float32), np.array([base * 1.25], np.float32)

    def glints(self, canvas: Canvas, outline: list[Part], strength: float, rng: np.random.Generator) -> None:
        """Point scatterers on an object, the strongest with its sidelobes."""
        count = int(rng.integers(1, 6))
        for index in range(count):
            corners = outline[int(rng.integers(len(outline)))].points
            blend = rng.dirichlet(np.ones(len(corners)))
            peak = strength * rng.uniform(0.4, 1.2)
            patch = self._sidelobes if index == 0 and rng.random() < 0.35 else self._sidelobes[11:14, 11:14]
            canvas.add_patch(tuple(blend @ corners), peak * patch)

    def finish(self, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
        """Speckle, gain and 8 bits: (H, W, 3), three equal channels."""
        size = canvas.size
        speckle = rng.standard_gamma(self.looks, size, dtype=np.float32) * np.float32(1 / self.looks)
        if self.grain > 0.25:
            speckle = cv2.GaussianBlur(speckle, (3, 3), self.grain)
        tilt = 1 + 0.1 * field(rng, size, max(size))
        amplitude = canvas.image[..., 0] * np.sqrt(speckle) * tilt * self.gain
        gray = np.clip(amplitude * 255, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)


# Colours are RGB in 0..255; one is drawn, then jittered.
_GROUND = {
    "water": [(28, 62, 92), (40, 92, 110), (22, 48, 70), (70, 104, 98), (52, 120, 138)],
    "field": [(96, 128, 62), (150, 148, 84), (118, 104, 66), (74, 112, 58), (178, 164, 112), (134, 152, 92)],
    "soil": [(152, 128, 98), (176, 154, 122), (124, 104, 82), (140, 138, 126)],
    "forest": [(40, 68, 36), (54, 80, 48), (36, 56, 40)],
    "tarmac": [(112, 112, 114), (140, 138, 132), (88, 90, 94), (164, 160, 152)],
    "road": [(104, 104, 106), (140, 134, 124), (80, 80, 84)],
    "roof": [(148, 84, 66), (124, 124, 128), (186, 182, 174), (96, 74, 60), (98, 112, 128), (208, 204, 196)],
    "shore": [(188, 172, 136), (128, 122, 112), (104, 98, 88)],
}
_BODIES = {
    "ship": [
        (172, 60, 48),
        (92, 96, 104),
        (226, 224, 218),
        (52, 60, 84),
        (148, 150, 154),
        (46, 44, 46),
        (70, 112, 92),
    ],
    "aircraft": [(232, 232, 234), (196, 200, 206), (150, 156, 152), (112, 120, 108), (214, 206, 190)],
    "car": [
        (206, 42, 38),
        (238, 238, 238),
        (40, 72, 158),
        (34, 34, 38),
        (232, 192, 52),
        (166, 170, 176),
        (52, 120, 84),
    ],
    "tank": [(236, 234, 228), (204, 206, 202), (164, 150, 132), (148, 176, 160), (190, 120, 92)],
    "bridge": [(156, 154, 150), (188, 184, 174), (122, 114, 108), (150, 112, 92)],
    "harbor": [(166, 162, 154), (190, 186, 178), (136, 132, 128), (150, 126, 104)],
}
_ACCENTS = [(226, 224, 220), (196, 60, 44), (48, 92, 160), (232, 176, 48), (60, 62, 66), (62, 140, 96)]


class Optical:
    """Sunlit colours with texture, cast shadows, haze, and an exposure of its own for every scene."""

    channels = 3
    texture = 0.1

    def __init__(self, rng: np.random.Generator) -> None:
        sun = rng.uniform(0, 2 * np.pi)
        self.shadow = rng.uniform(0.5, 1.8) * np.array([np.cos(sun), np.sin(sun)])
        self.shadow_opacity = rng.uniform(0.35, 0.7)

    def material(self, name: str, rng: np.random.Generator) -> np.ndarray:
        return self._pick(_GROUND[name], rng)

    def body(self, name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self._pick(_BODIES[name], rng), self._pick(_ACCENTS, rng)

    def glints(self, canvas: Canvas, outline: list[Part], strength: float, rng: np.random.Generator) -> None:
        """Sunlight has none of them."""

    def finish(self, canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
        """Illumination, haze, contrast, colour cast, blur, a little sensor noise; (H, W, 3) uint8."""
        size = canvas.size
        image = canvas.image * (1 + 0.08 * field(rng, size, max(size) / 2))[..., None]
        cast = rng.uniform(0.92, 1.08, 3).astype(np.float32)
        haze = np.float32(rng.uniform(0, 0.2) if rng.random() < 0.4 else 0.0)
        image = image * (cast * (1 - haze)) + haze * 0.75
        mean = image.mean()
        image = (image - mean) * np.float32(rng.uniform(0.65, 1.35)) + mean * np.float32(rng.uniform(0.7, 1.3))
        if rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (5, 5), rng.uniform(0.4, 1.0))
        noise = rng.standard_normal(size, dtype=np.float32) * np.float32(rng.uniform(0.0, 0.02))
        image += noise[..., None]
        if rng.random() < 0.06:
            image[:] = image.mean(2, keepdims=True)
        return np.clip(image * 255, 0, 255).astype(np.uint8)

    @staticmethod
    def _pick(colours: list[tuple[int, int, int]], rng: np.random.Generator) -> np.ndarray:
        colour = np.array(colours[int(rng.integers(len(colours)))], np.float32) / 255
        return np.clip(colour * rng.uniform(0.8, 1.2) + rng.normal(0, 0.025, 3), 0.02, 1).astype(np.float32)


STYLES: dict[str, type[SAR] | type[Optical]] = {"sar": SAR, "optical": Optical}
