"""Products and STAC items in an object store and on a web server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.support.products import BANDS_10M, band, write_item, write_safe
from tests.support.servers import SeaweedFS
from tests.support.web_server import SIGNATURE, SIGNED, locked_server
from ussfc.pipeline.reading import SceneRecipe, describe_scene
from ussfc.pipeline.types import Box, SceneInfo

EXPECTED = np.stack([band(2), band(1), band(0)])


def read(argument: str) -> tuple[SceneInfo, np.ndarray]:
    """Return a scene's header and its bands of red, green and blue, as a worker reads them."""
    info = describe_scene(argument)
    numbers = {(found.description or ""): found.index for found in info.bands}
    bands = tuple(
        numbers[name] for name in (("B04", "B03", "B02") if "B04" in numbers else ("red", "green", "blue"))
    )
    recipe = SceneRecipe.of(argument, info, info.geobox, bands, "cubic")
    object.__setattr__(recipe, "identity", info.identity)
    return info, recipe.open().read(Box(0, 0, 120, 120)).values


def test_products_and_items_in_s3(
    s3_environment: None, seaweed: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    safe = write_safe(tmp_path)
    item = write_item(tmp_path / "item", scale=1e-4, offset=-0.1)
    for path in (*safe.rglob("*.*"), *item.parent.iterdir()):
        if path.is_file():
            seaweed.client.put_object(
                Bucket=bucket, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes()
            )
    for argument in (f"s3://{bucket}/{safe.name}", f"s3://{bucket}/item/item.json"):
        info, values = read(argument)
        np.testing.assert_array_equal(values, EXPECTED)
        assert info.product == "Sentinel-2 L2A"
        assert info.uri == argument
        assert info.scales((1,)) == ((1e-4, -0.1),)
        assert not info.identity.startswith("uri:")


def test_an_item_with_signed_addresses_shows_no_secret(tmp_path: Path) -> None:
    item = write_item(tmp_path, scale=1e-4, offset=-0.1)
    with locked_server(tmp_path) as host:
        document = json.loads(item.read_text())
        for asset in document["assets"].values():
            asset["href"] = f"http://{host}/{Path(asset['href']).name}?{SIGNED}"
        item.write_text(json.dumps(document))
        for argument in (f"http://{host}/item.json?{SIGNED}", str(item)):
            info, values = read(argument)
            np.testing.assert_array_equal(values, EXPECTED)
            recipe = SceneRecipe.of(argument, info, info.geobox, (1, 2, 3), "cubic")
            shown = f"{info} {recipe}"
            assert SIGNATURE not in shown
            assert "Amz" not in shown
            assert len(info.bands) == len(BANDS_10M)
