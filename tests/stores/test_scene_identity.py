"""Identities of scenes in stores: other content, another identity; an outage changes none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cogs import BOX, assert_same, opened, write_cog
from tests.support.fault_proxy import FaultProxy
from tests.support.servers import SeaweedFS
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.types import Box


def test_identity_is_of_the_content(
    proxied: FaultProxy, seaweed: SeaweedFS, scene: str, bucket: str, local: Path
) -> None:
    client = seaweed.connect(seaweed.access_key, seaweed.secret_key, proxied.endpoint)
    place = {"Bucket": bucket, "Key": "city/scene.tif"}
    signed = [client.generate_presigned_url("get_object", Params=place, ExpiresIn=n) for n in (600, 700)]
    client.close()
    first = [describe_scene(uri).identity for uri in (scene, *signed)]
    assert first == [describe_scene(uri).identity for uri in (scene, *signed)]
    assert first[1] == first[2]
    grid = describe_scene(scene).geobox
    recipe = SceneRecipe(scene, grid, (1,), "bilinear", identity=first[0])
    recipe.open().read(BOX)
    content = bytearray(local.read_bytes())
    content[-1] ^= 1
    seaweed.put(bucket, "city/scene.tif", bytes(content))
    again = [describe_scene(uri).identity for uri in (scene, *signed)]
    assert not set(first) & set(again)
    with pytest.raises(ReadError, match=r"scene\.tif: has changed since the run began"):
        recipe.open()


def test_a_replaced_file_is_read_as_the_new_one(
    s3_environment: None, seaweed: SeaweedFS, scene: str, bucket: str, local: Path, tmp_path: Path
) -> None:
    grid = describe_scene(scene).geobox
    old = opened(scene, grid)
    old.read(BOX)
    other = write_cog(tmp_path / "other.tif", 1500, blocksize=512, compress="LZW")
    seaweed.put(bucket, "city/scene.tif", other.read_bytes())
    assert_same(opened(scene, grid).read(BOX), opened(other, grid).read(BOX))
    with pytest.raises(ReadError, match="has changed since it was first opened"):
        old.read(Box(0, 0, 1500, 1500))


@pytest.mark.parametrize("kind", ["drop", "status"])
def test_an_outage_is_no_other_identity(proxied: FaultProxy, scene: str, quick: None, kind: str) -> None:
    expected = describe_scene(scene).identity
    proxied.inject(kind, "HEAD", times=2)
    assert describe_scene(scene).identity == expected
    proxied.inject(kind, "HEAD", times=None)
    with pytest.raises(ReadError, match=r"scene\.tif: cannot be read"):
        describe_scene(scene)
