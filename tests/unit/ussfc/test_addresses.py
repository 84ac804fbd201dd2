"""Addresses and messages without secrets."""

from __future__ import annotations

import pickle

import pytest

from ussfc.addresses import shown_address, without_addresses, without_secrets
from ussfc.errors import ModelError
from ussfc.pipeline.errors import DamagedTiles, ReadError

PLAIN = [
    "/data/a?b@c",
    "/data/what?x=1.nc",
    "a#b/c.tif",
    "s3://bucket/a.tif",
    "https://host:80/a.tif",
    "https://[::1]:80/a@2x.tif",
    "tcp://10.0.0.1:8786",
    "memory://a/b",
    "/vsizip//data/a.zip/b?x.tif",
    "/vsicurl/https://host/a.tif",
    "/vsicurl?max_retry=3&url=https%3A%2F%2Fhost%2Fa.tif",
    'NETCDF:"/data/what?x=1.nc":red',
    "WMS:https://host/wms?LAYERS=a&SRS=EPSG:4326",
]
"""Addresses without secrets: they are parts of run keys, and stay as they are."""

SECRET = [
    ("https://me:PASSWORD@host:80/a.tif?X-Amz-Signature=SIGNATURE#x", "https://host:80/a.tif"),
    ("HTTPS://host/a.tif?token=x:SECRET", "https://host/a.tif"),
    ("https://me:PASS/WORD@host/a.tif", "https://host/a.tif"),
    ("https://me:PASS?WORD#@host/a.tif", "https://host/a.tif"),
    ("az://container@account/a", "az://account/a"),
    ("https://proxy/https://me:PASSWORD@host/a?sig=SIGNATURE", "https://proxy/https://host/a"),
    ("zip+https://me:PASSWORD@host/a.zip!b.tif", "zip+https://host/a.zip!b.tif"),
    ("zip://https://me:PASSWORD@host/a.zip", "zip://https://host/a.zip"),
    ("vrt:///vsicurl/http://me:PASSWORD@host/a.tif?bands=1", "vrt:///vsicurl/http://host/a.tif"),
    ("/vsicurl/http://me:PASSWORD@host/a.tif", "/vsicurl/http://host/a.tif"),
    ("/vsicurl/https://host/a.tif?X-Amz-Signature=SIGNATURE", "/vsicurl/https://host/a.tif"),
    ("/vsicurl_streaming/https://host/a.tif?token=SECRET", "/vsicurl_streaming/https://host/a.tif"),
    (
        "/vsicurl?userpwd=me:PASSWORD&url=https%3A%2F%2Fhost%2Fa.tif",
        "/vsicurl?url=https%3A%2F%2Fhost%2Fa.tif",
    ),
    (
        "/vsicurl?url=https%3A%2F%2Fme%3APASSWORD%40host%2Fa.tif%3Fsig%3DSIGNATURE&header.Authorization=SECRET",
        "/vsicurl?url=https://host/a.tif",
    ),
    ("/vsizip//vsicurl/https://me:PASSWORD@host/a.zip/b.tif", "/vsizip//vsicurl/https://host/a.zip/b.tif"),
    (
        "/vsizip/{/vsicurl/https://host/a.zip?sig=SIGNATURE}/b.tif",
        "/vsizip/{/vsicurl/https://host/a.zip}/b.tif",
    ),
    ("/vsis3/bucket/a.tif?X-Amz-Signature=SIGNATURE", "/vsis3/bucket/a.tif"),
    ('NETCDF:"http://me:PASSWORD@host/a.nc?sig=SIGNATURE":red', 'NETCDF:"http://host/a.nc":red'),
    ("NETCDF:http://me:PASSWORD@host/a.nc?sig=SIGNATURE:red", "NETCDF:http://host/a.nc:red"),
    ("WMS:https://host/wms?LAYERS=a&token=SECRET", "WMS:https://host/wms?LAYERS=a"),
    ("PG:host=h user=me password='SEC RET' dbname=d", "PG:host=h user=me password=... dbname=d"),
    (
        "<GDAL_WMS><ServerUrl>http://me:PASSWORD@host/?token=SECRET</ServerUrl><UserPwd>me:PW</UserPwd></GDAL_WMS>",
        "<GDAL_WMS><ServerUrl>http://host/</ServerUrl><UserPwd>...</UserPwd></GDAL_WMS>",
    ),
]


@pytest.mark.parametrize("address", PLAIN)
def test_an_address_without_secrets_stays(address: str) -> None:
    assert shown_address(address) == address
    assert without_addresses(f"{address}: cannot be read") == f"{address}: cannot be read"


@pytest.mark.parametrize(("address", "shown"), SECRET)
def test_an_address_is_shown_without_secrets(address: str, shown: str) -> None:
    assert shown_address(address) == shown
    assert shown_address(shown) == shown
    for message in (f"{address}: no such file", f"cannot open '{address}'", f"Not Found, url={address!r}, x"):
        found = without_secrets(message, address)
        assert not [word for word in ("PASS", "WORD", "SECRET", "SIGNATURE") if word in found]


def test_messages_of_libraries_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-long-secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "short")
    text = "a-long-secret short at https://me:pw@host/a.tif?sig=1 and a.tif?token=2, 'b?x=3'"
    assert without_secrets(text) == "<AWS_SECRET_ACCESS_KEY> short at https://host/a.tif and a.tif, 'b'"
    text = "HTTP 500 - http://host/a.tif?AWSAccessKeyId=a-long-secret&Signature=1. Again"
    assert without_secrets(text) == "HTTP 500 - http://host/a.tif. Again"
    text = "404, message='Not Found', url='https://me:pw@host/a?x=1'; (/a.tif?sig=a,b;c) see"
    assert without_secrets(text) == "404, message='Not Found', url='https://host/a'; (/a.tif) see"
    # GDAL takes what follows the last slash for the name.
    assert (
        without_secrets("`cdefgh' is no raster", "https://host/a.tif?sig=ab/cdefgh") == "`...' is no raster"
    )


@pytest.mark.parametrize("kind", [ReadError, ModelError])
def test_errors_show_addresses_without_secrets(kind: type[Exception]) -> None:
    error = kind("grid.aoi = 'https://me:pw@host/a?sig=1': /data/what?x=1.nc is no area")
    assert str(error) == "grid.aoi = 'https://host/a': /data/what?x=1.nc is no area"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(kind("what?x=1.nc: cannot be read")) == "what?x=1.nc: cannot be read"
    damaged = pickle.loads(pickle.dumps(DamagedTiles("bad", ((1, 2),))))
    assert (str(damaged), damaged.indices) == ("bad", ((1, 2),))
