"""The frames that a gateway holds: how many, how large, how long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from edge.snapshot_camera import SnapshotCamera, coded, snapshot_camera
from engine.gatewaying import sight
from secondlook.engine.errors import QueueFullError, UnknownFrameError
from secondlook.engine.gateway.camera import Camera, HoldLimits


@pytest.fixture
def camera() -> Iterator[SnapshotCamera]:
    with snapshot_camera(sight) as found:
        yield found


def frames(address: str, hold: HoldLimits, count: int) -> tuple[list[str], list[str]]:
    """The ids of so many frames, and of those that are still held."""

    async def main() -> tuple[list[str], list[str]]:
        camera = Camera(address, hold)
        taken = [(await camera.newest()).id for _ in range(count)]
        kept = [name for name in taken if is_held(camera, name)]
        await camera.close()
        return taken, kept

    return asyncio.run(main())


def is_held(camera: Camera, name: str) -> bool:
    try:
        return camera.held(name).id == name
    except UnknownFrameError:
        return False


@pytest.mark.parametrize(
    ("hold", "kept"),
    [
        (HoldLimits(), 5),
        (HoldLimits(most=2), 3),  # and the newest
        (HoldLimits(seconds=1e-6), 1),
        (HoldLimits(bytes=1), 1),
        (HoldLimits(bytes=2 * len(coded(sight(0))) + 1000), 2),
    ],
)
def test_frames_are_bounded_in_number_bytes_and_seconds(hold: HoldLimits, kept: int) -> None:
    with snapshot_camera(lambda _number: sight(0)) as camera:
        taken, found = frames(f"http://{camera.address}", hold, 5)
    assert found == taken[-kept:]


def test_a_frame_in_use_is_held_and_leaves_no_room(camera: SnapshotCamera) -> None:
    async def main() -> None:
        held = Camera(f"http://{camera.address}", HoldLimits(bytes=1, seconds=1e-6))
        used = await held.newest()
        with held.using(used):
            with pytest.raises(QueueFullError, match=r"hold more \(--hold-mb\)"):
                await held.newest()
            assert held.held(used.id) is used
        newer = await held.newest()
        assert held.held(newer.id) is newer
        assert not is_held(held, used.id)
        await held.close()

    asyncio.run(main())


def test_who_asks_at_once_gets_the_frame_that_is_on_its_way(camera: SnapshotCamera) -> None:
    async def main() -> None:
        held = Camera(f"http://{camera.address}")
        await held.newest()
        shown = len(camera.shown)
        found = await asyncio.gather(*(held.newest() for _ in range(5)))
        assert len(set(found)) == len(camera.shown) - shown == 1
        assert await held.newest() is not found[0]
        await held.close()

    asyncio.run(main())
