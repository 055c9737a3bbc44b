"""Pictures that a browser makes of an original, beside the edge's: what becomes of answers and doubts.

Both are asked about with a second look every time, by one engine. The browser is a headless Chromium that
runs the modules of the server's page; the ways to resize that the page does not take are here, to compare.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import tee
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from rich.console import Console

from secondlook.benchmarks.analysis.replay import Replay, choose_threshold
from secondlook.benchmarks.analysis.statistics import Bootstrap
from secondlook.benchmarks.commands import MeasurementError, complete_rounds, progress
from secondlook.benchmarks.evaluation.asking import Opened, ask_all, load_run_model
from secondlook.benchmarks.evaluation.options import Asking
from secondlook.benchmarks.evaluation.summary import bytes_sent, measures
from secondlook.benchmarks.options import BrowserRun
from secondlook.benchmarks.run_log import LoggedPicture, Record
from secondlook.benchmarks.signs.evaluation import signs_data_set
from secondlook.edge.geometry import Region, Size
from secondlook.edge.imaging import EncodedPicture, JpegSettings, open_picture
from secondlook.edge.wire import View
from secondlook.engine.method.policy import Policy
from secondlook.engine.serve.page import FOLDER

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_ORIGIN: Final = "http://localhost"
"""Nothing listens there: every request is answered here."""

_OPEN: Final = """async () => {
    const { openFile } = await import("/page/picture.js");
    self.picture?.close();
    self.picture = await openFile(await (await fetch("/original")).blob());
    return [self.picture.width, self.picture.height];
}"""

_MAKE: Final = """async ([view, region, drawn]) => {
    const { bitmap, width, height } = self.picture;
    const { left, top, right, bottom } = region ?? { left: 0, top: 0, right: width, bottom: height };
    let made;
    if (drawn) {
        const { sentSize } = await import("/page/view.js");
        const from = [left, top, right - left, bottom - top];
        const size = sentSize(view, { width: from[2], height: from[3] });
        const canvas = new OffscreenCanvas(size.width, size.height);
        const context = canvas.getContext("2d", { alpha: false });
        context.imageSmoothingQuality = "high";
        context.drawImage(bitmap, ...from, 0, 0, size.width, size.height);
        made = { jpeg: await canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 }), ...size };
    } else {
        made = await self.picture.localImage({ left, top, right, bottom }, view);
    }
    const bytes = new Uint8Array(await made.jpeg.arrayBuffer());
    return [btoa(Array.from(bytes, (one) => String.fromCharCode(one)).join("")), made.width, made.height];
}"""

_RESIZE: Final = """async ([width, height, filter]) => {
    const { openFile } = await import("/page/picture.js");
    const { resized } = await import("/page/resample.js");
    const file = await (await fetch("/original")).blob();
    const drawn = (source, width, height) => {
        const canvas = new OffscreenCanvas(width, height);
        const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
        context.imageSmoothingQuality = "high";
        context.drawImage(source, 0, 0, width, height);
        return canvas;
    };
    const halved = (bitmap) => {
        let [source, across, down] = [bitmap, bitmap.width, bitmap.height];
        while (across > 2 * width || down > 2 * height) {
            [across, down] = [Math.max(width, across >> 1), Math.max(height, down >> 1)];
            source = drawn(source, across, down);
        }
        return drawn(source, width, height);
    };
    const high = { resizeWidth: width, resizeHeight: height, resizeQuality: "high" };
    const read = (canvas) => canvas.getContext("2d").getImageData(0, 0, width, height).data;
    const box = ({ width, height }) => ({ left: 0, top: 0, width, height });
    const ways = {
        page: (bitmap) => resized(bitmap, box(bitmap), { width, height }, filter).data,
        drawImage: (bitmap) => read(drawn(bitmap, width, height)),
        createImageBitmap: async (bitmap) => {
            return read(drawn(await createImageBitmap(bitmap, high), width, height));
        },
        halving: (bitmap) => read(halved(bitmap)),
    };
    const found = {};
    for (const [name, way] of Object.entries(ways)) {
        const picture = await openFile(file); // anew, for browsers keep what they made of one
        const begun = performance.now();
        const pixels = await way(picture.bitmap);
        found[name] = [performance.now() - begun, Array.from(pixels)];
        picture.close();
    }
    return found;
}"""


def chromium_path() -> str | None:
    """The Chromium of this machine."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def headless(*switches: str) -> Iterator[Browser]:
    """A Chromium without a window.

    Raises:
        MeasurementError: there is none, or no Playwright to drive it.
    """
    path = chromium_path()
    if path is None:
        raise MeasurementError(
            f"no Chromium on the PATH (one of {', '.join(_NAMES)}); install Debian's chromium"
        )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MeasurementError("a browser is driven by Playwright: pip install playwright") from error
    with sync_playwright() as playwright:
        # Containers are the sandbox: in theirs, as root, Chromium's own does not start.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *switches])
        try:
            yield browser
        finally:
            browser.close()


class Distance(NamedTuple):
    """Of two pictures, in levels of 0 to 255: in the mean and at most; and how long the one took."""

    mean: float
    most: float
    ms: float


class PageEdge:
    """The page's modules in a browser, one original at a time: `open` is an edge's `open_picture`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._original = b""
        page.route("**/*", self._answer)
        page.goto(_ORIGIN)

    def open(self, data: bytes, drawn: bool = False) -> PagePicture:
        """`drawn`: resized by `drawImage`, not as the page does it."""
        self._original = data
        return PagePicture(self, Size(*self.page.evaluate(_OPEN)), drawn)

    def distances(self, view: View) -> Iterator[tuple[str, Distance]]:
        """How far the original in a view's size is from the edge's, by each way to resize it."""
        edges = np.asarray(open_picture(self._original).shrunk(view), np.float64)
        height, width, _ = edges.shape
        for name, (ms, pixels) in self.page.evaluate(_RESIZE, [width, height, view.filter]).items():
            off = np.abs(np.reshape(pixels, (height, width, 4))[..., :3] - edges)
            yield name, Distance(float(off.mean()), float(off.max()), ms)

    def _answer(self, route: Route) -> None:
        name = route.request.url.removeprefix(f"{_ORIGIN}/")
        if name == "original":
            route.fulfill(body=self._original, content_type="image/jpeg")
        elif name.startswith("page/"):
            route.fulfill(path=FOLDER / name.removeprefix("page/"))
        else:
            route.fulfill(body="<!DOCTYPE html>", content_type="text/html")


@dataclass(frozen=True)
class PagePicture:
    """An original that is open in the browser. The page has its own JPEG settings."""

    edge: PageEdge
    size: Size
    drawn: bool

    def global_image(self, view: View, jpeg: JpegSettings) -> EncodedPicture:
        return self._made(view, None)

    def local_image(self, region: Region, view: View, jpeg: JpegSettings) -> EncodedPicture:
        names = ("left", "top", "right", "bottom")
        return self._made(view, dict(zip(names, region.as_tuple(), strict=True)))

    def _made(self, view: View, region: dict[str, int] | None) -> EncodedPicture:
        jpeg, width, height = self.edge.page.evaluate(_MAKE, [view.model_dump(), region, self.drawn])
        return EncodedPicture(base64.b64decode(jpeg), Size(width, height))


@dataclass(frozen=True)
class _Kept:
    """An original that was drawn already."""

    data: bytes
    name: str = ""

    def read(self) -> bytes:
        return self.data


def bench_browser(run: BrowserRun) -> dict[str, Any]:
    asking = Asking(model=run.model)
    model = load_run_model(asking)
    view, threshold = model.global_view, model.settings.default_threshold
    data = signs_data_set("test", run.seed, run.count)
    # One question a picture, to read a number; and each picture is drawn once.
    kept = (
        replace(one, source=_Kept(one.source.read()), questions=one.questions[:1]) for one in data.pictures
    )
    with headless() as browser, progress(Console(stderr=True), "pictures", run.count) as go_on:
        page = PageEdge(browser.new_page())
        ways: list[Callable[[bytes], Opened]] = [open_picture, page.open, partial(page.open, drawn=True)]
        logged = (
            ask_all(asking, each, 1, model=model, opened=opened)
            for each, opened in zip(tee(kept, len(ways)), ways, strict=True)
        )
        numbered = enumerate(zip(*logged, strict=True))
        rows = ((asked, dict(page.distances(view)) if at < run.resized else {}) for at, asked in numbered)
        measured, interrupted = complete_rounds(rows, 1, go_on)
        version = browser.version
    edge, drawn, canvas = (
        Replay([record for asked, _ in measured for record in _records(asked[way])], Policy(threshold))
        for way in range(len(ways))
    )
    distances = [found for _, found in measured if found]
    return {
        "bench": "browser",
        "chromium": version,
        "split": "test",
        "count": len(measured),
        "threshold": threshold,
        "edge": _summary(edge) | _differences(edge, edge),
        "browser": _summary(drawn) | _differences(edge, drawn),
        "canvas": _summary(canvas) | _differences(edge, canvas),
        "resizing": [{"way": way, **_mean([found[way] for found in distances])} for way in distances[0]],
        "interrupted": interrupted,
    }


def _records(picture: LoggedPicture) -> list[Record]:
    assert isinstance(picture, list), "a picture that was drawn can be read"
    return picture


def _summary(replay: Replay) -> dict[str, Any]:
    """At the model's threshold, and what would be chosen for these pictures."""
    best = choose_threshold(replay)
    return {
        **measures(replay),
        "doubt": float(replay.uncertainty.mean()),
        "bytes": bytes_sent(replay),
        "best_threshold": best,
        "accuracy_at_best": replay.at(best).accuracy,
    }


def _differences(edge: Replay, other: Replay) -> dict[str, Any]:
    """Question by question; intervals are paired."""
    boot, threshold = Bootstrap(edge.columns.picture), edge.policy.threshold
    looked, stands = [], []
    for replay in (edge, other):
        looked.append(replay.looked(threshold))
        stands.append(np.where(looked[-1], replay.kept, replay.first))
    texts = zip(edge.columns.first.text, other.columns.first.text, strict=True)
    moved = other.uncertainty - edge.uncertainty
    return {
        "accuracy_at_edges_best": other.at(choose_threshold(edge)).accuracy,
        "doubt_difference": asdict(boot.mean(moved)),
        "doubt_distance": float(np.abs(moved).mean()),
        "accuracy_difference": asdict(boot.mean(stands[1] - stands[0])),
        "decisions_changed": float((looked[0] != looked[1]).mean()),
        "first_answers_changed": float(np.mean([one != two for one, two in texts])),
    }


def _mean(found: list[Distance]) -> dict[str, float]:
    means = np.mean(found, axis=0).tolist()
    return dict(zip(Distance._fields, means, strict=True))
