"""Addresses without secrets, and requests that are repeated while a store is out."""

from __future__ import annotations

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, ProfileNotFound

from ussfc.pipeline.errors import StoreError
from ussfc.pipeline.parallel.backoff import ONCE, Backoff
from ussfc.pipeline.storage import remote

QUICK = Backoff(attempts=3, first=0.01)


class Request:
    """A request that fails with each of the errors in turn, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def test_a_store_gets_a_minute() -> None:
    assert list(remote.STORE_BACKOFF.pauses()) == [1, 2, 4, 8, 16, 30, None]
    assert list(remote.PROBE_BACKOFF.pauses()) == [1, None]


def test_a_request_is_repeated() -> None:
    out = EndpointConnectionError(endpoint_url="http://127.0.0.1:9")
    assert remote.retry_request(Request(OSError("out"), out), QUICK) == 3


def test_the_last_attempt_raises() -> None:
    request = Request(*(OSError(str(number)) for number in range(9)))
    with pytest.raises(OSError, match="2"):
        remote.retry_request(request, QUICK)
    assert request.calls == 3
    with pytest.raises(OSError, match="3"):
        remote.retry_request(request, ONCE)


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), PermissionError(), NoCredentialsError(), ValueError()]
)
def test_a_permanent_error_is_raised_at_once(error: Exception) -> None:
    request = Request(error)
    with pytest.raises(type(error)):
        remote.retry_request(request, QUICK)
    assert request.calls == 1


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (PermissionError("no"), "no permission: no", "check the credentials and what they may do there"),
        (
            NoCredentialsError(),
            "no credentials found",
            "set the store's environment variables or name a profile",
        ),
        (ProfileNotFound(profile="x"), "The config profile (x) could not be found", "check AWS_PROFILE"),
        (FileNotFoundError("a"), "not found: a", "check the name of the bucket or container"),
        (OSError("cannot\nconnect"), "cannot connect", "check the address, for S3 the endpoint"),
        (OSError(), "OSError", "the store may be out for a while: the same command continues"),
    ],
)
def test_an_error_has_reason_and_remedy(error: Exception, reason: str, remedy: str) -> None:
    found, advice = remote.describe_error(error)
    assert found == reason
    assert advice.startswith(remedy)


@pytest.mark.parametrize(("value", "unsigned"), [("YES", True), ("1", True), ("no", False), ("", False)])
def test_public_buckets_need_no_keys(value: str, unsigned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", value)
    assert remote.unsigned() is unsigned
    assert remote.options("s3").get("anon", False) is unsigned
    assert "anon" not in remote.options("gs")


def test_web_addresses_keep_their_scheme() -> None:
    assert remote.is_remote("memory://a")
    assert not remote.is_remote("/a://b")
    assert remote.filesystem("memory://a/b/")[1] == "a/b"
    assert remote.filesystem("https://host/a")[1] == "https://host/a"


@pytest.mark.parametrize("scheme", ["zip", "github", "reference", "blockcache"])
def test_a_scheme_that_needs_more_than_an_address_is_one_line(scheme: str) -> None:
    with pytest.raises(StoreError, match=f"^{scheme}://: cannot be opened by an address alone"):
        remote.filesystem(f"{scheme}://a/b")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StoreError, match=r"gopher://: no file system for it is installed"):
        remote.filesystem("gopher://host/out")


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://user:PW@example.org:8080/a.tif?X-Amz-Signature=SECRET", "https://example.org:8080"),
        ("/vsicurl/http://user:PW@example.org/a.tif", "http://example.org"),
        ("/vsicurl?userpwd=user:PW&url=https://example.org/a.tif", "https://example.org"),
        ('NETCDF:"https://example.org/a.nc":band', "https://example.org"),
        ("/vsizip//vsis3/bucket/a.zip/b.tif", "s3://bucket"),
        ("s3://bucket/prefix", "s3://bucket"),
        ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
        ("/data/a.tif", ""),
        ("C:/data/a.tif", ""),
        ("memory://out", ""),
        ("file:///data/a.tif", ""),
    ],
)
def test_a_host_is_found_in_an_address(address: str, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert remote.host_of(address) == host


def test_a_store_that_is_not_amazons_is_named_with_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:PW@127.0.0.1:9000")
    assert remote.host_of("s3://bucket/prefix") == "s3://bucket at http://127.0.0.1:9000"
