"""Lists of pairs: what is read from each kind, where relative paths lead, and what is refused and how."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import fsspec
import pystac
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.servers import SeaweedFS
from ussfc.pipeline.batches import pair_lists as pairs
from ussfc.pipeline.batches.pair_lists import PairEntry, read_pairs
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.parallel.backoff import ONCE
from ussfc.pipeline.storage import layout

BASE = load_config().model_dump()
WORDS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
NAMES = st.from_regex(layout.PAIR_FOLDER, fullmatch=True).filter(lambda name: name.lower() not in pairs.TAKEN)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "threshold": st.floats(0, 1),
        "tiling.tile_size": st.integers(64, 16384),
        "tiling.taper": st.sampled_from(["hann", "pyramid", None]),
        "bands.before": st.lists(st.integers(1, 9), min_size=1, max_size=4),
        "output.keep_work": st.booleans(),
        "grid.crs": st.sampled_from(["EPSG:32636", 'PROJCRS["a: b, c",BASEGEOGCRS["d"]]']),
        "model": st.text(WORDS, min_size=1, max_size=8).map(lambda word: f"card {word}"),
    },
)
# Any file name of a disk but those whose ends a table would lose.
FILES = st.text(
    st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/"), min_size=1, max_size=12
).filter(lambda name: name == name.strip() and name not in (".", "..") and not pairs.GDAL_NAME.match(name))
PAIRS = st.lists(
    st.tuples(NAMES, FILES, FILES, SETTINGS), min_size=1, max_size=5, unique_by=lambda p: p[0].lower()
)
SEGMENTS = st.lists(st.sampled_from(["a", "b.tif", "..", ".", "c d"]), min_size=1, max_size=5)


def cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def as_csv(rows: list[dict[str, str]]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def features(*properties: Any) -> str:
    found = [{"type": "Feature", "geometry": None, "properties": values} for values in properties]
    return json.dumps({"type": "FeatureCollection", "features": found})


def item(name: str, assets: dict[str, str], **properties: Any) -> pystac.Item:
    made = pystac.Item(name, None, None, datetime(2018, 5, 1, tzinfo=UTC), properties)
    for key, href in assets.items():
        made.add_asset(key, pystac.Asset(href))
    return made


def catalogue(folder: Path, *items: pystac.Item) -> str:
    """A catalogue with a collection that has the items, as pystac lays one out."""
    top, collection = pystac.Catalog("top", "a catalogue"), pystac.Collection("city", "pairs", EXTENT)
    top.add_child(collection)
    for one in items:
        collection.add_item(one)
    top.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return str(folder / "catalog.json")


EXTENT = pystac.Extent(
    pystac.SpatialExtent([[-180, -90, 180, 90]]),
    pystac.TemporalExtent([[datetime(2018, 5, 1, tzinfo=UTC), None]]),
)


@settings(max_examples=30)
@given(pairs_=PAIRS)
def test_csv_and_geojson_round_trip(
    tmp_path_factory: pytest.TempPathFactory, pairs_: list[tuple[str, str, str, dict[str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    rows = [{"name": name, "before": one, "after": two, **keys} for name, one, two, keys in pairs_]
    table, layer = folder / "pairs.csv", folder / "pairs.geojson"
    table.write_text(as_csv([{key: cell(value) for key, value in row.items()} for row in rows]), newline="")
    layer.write_text(features(*rows))
    for source in (table, layer):
        found = read_pairs(str(source))
        assert [(e.name, e.before, e.after) for e in found] == [
            (name, f"{folder}/{one}", f"{folder}/{two}") for name, one, two, _ in pairs_
        ]
        for entry, (*_, keys) in zip(found, pairs_, strict=True):
            # In JSON null is what exports write where nothing is set.
            wanted = keys if source == table else {key: v for key, v in keys.items() if v is not None}
            assert entry.settings.keys() == wanted.keys()
            assert load_config(flags=entry.settings, base=BASE) == load_config(flags=wanted, base=BASE)


@given(parts=SEGMENTS, folder=st.lists(st.sampled_from(["x", "y"]), max_size=3), depth=st.integers(0, 2))
def test_relative_paths_in_a_store_act_as_links(parts: list[str], folder: list[str], depth: int) -> None:
    relative = "/".join([*[".."] * depth, *parts, "scene.tif"])
    base = "/".join(["host", *folder, "list.csv"])
    # urljoin knows the rule for http alone.
    wanted = urljoin(f"http://{base}", relative)
    assert pairs._address(relative, f"http://{base}?signature=1", "list") == wanted
    assert pairs._address(f"{relative}?signature=2", f"http://{base}", "list") == f"{wanted}?signature=2"
    assert pairs._address(relative, f"s3://{base}", "list") == wanted.replace("http://", "s3://")


@pytest.mark.parametrize(
    ("base", "text", "wanted"),
    [
        ("/lists/a.csv", "x.tif", "/lists/x.tif"),
        ("/lists/a.csv", "../x.tif", "/lists/../x.tif"),  # a link may lie there: not ours to shorten
        ("/lists/a.csv", "/x.tif", "/x.tif"),
        ("/lists/a.csv", "file:///x.tif", "/x.tif"),
        ("/lists/a.csv", "s3://b/x.tif", "s3://b/x.tif"),
        ("/lists/a.csv", "/vsizip/x.zip/x.tif", "/vsizip/x.zip/x.tif"),
        ("/lists/a.csv", 'NETCDF:"x.nc":v', 'NETCDF:"x.nc":v'),
        ("s3://b/lists/a.csv", "/x.tif", "/x.tif"),
        ("s3://b/a?b/a.csv", "x#y.tif", "s3://b/a?b/x#y.tif"),
        ("s3://b//a.csv", "x.tif", "s3://b//x.tif"),
        ("https://h/lists/a.csv", "/x.tif", "https://h/x.tif"),
        ("https://h/lists/a.csv", "/vsicurl/https://g/x.tif", "/vsicurl/https://g/x.tif"),
    ],
)
def test_addresses_of_each_kind(base: str, text: str, wanted: str) -> None:
    assert pairs._address(text, base, "list") == wanted


def test_a_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    table = tmp_path / "pairs.CSV"
    text = 'before, after ,threshold,grid.aoi\r\n\r\n"a, b.tif",c.tif,,2018\r\n,,,\r\nd.tif,"é\u3000f.tif",0.5,null\r\n'
    table.write_bytes(text.encode("utf-8-sig"))
    assert read_pairs(str(table)) == (
        PairEntry("pair-0001", f"{tmp_path}/a, b.tif", f"{tmp_path}/c.tif", {"grid.aoi": f"{tmp_path}/2018"}),
        PairEntry(
            "pair-0002", f"{tmp_path}/d.tif", f"{tmp_path}/é\u3000f.tif", {"threshold": 0.5, "grid.aoi": None}
        ),
    )
    assert read_pairs(f"file://{table}") == read_pairs(str(table))


def test_masks_of_a_pair_are_beside_its_list(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(
        "before,after,mask_before,masks.after,masks.kind_after\na,b,a_scl.tif,sub/b.gpkg,\nc,d,,/e,scl\n"
    )
    first, second = read_pairs(str(table))
    assert first.settings == {
        "masks.before": f"{tmp_path}/a_scl.tif",
        "masks.after": f"{tmp_path}/sub/b.gpkg",
    }
    assert second.settings == {"masks.after": "/e", "masks.kind_after": "scl"}


def test_relative_list_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairs.csv").write_text("before,after\na,b\n")
    monkeypatch.chdir(tmp_path)
    assert read_pairs("pairs.csv")[0].before == f"{tmp_path}/a"


def test_geojson_properties_may_be_text(tmp_path: Path) -> None:
    layer = tmp_path / "pairs"  # recognised by its content
    layer.write_text(
        features({"name": 2018, "before": "a", "after": "b", "threshold": "0.5", "bands.after": "[3, 1]"})
    )
    (entry,) = read_pairs(str(layer))
    assert (entry.name, entry.settings) == ("2018", {"threshold": 0.5, "bands.after": [3, 1]})


def test_stac_items_keep_order_and_relative_paths(tmp_path: Path) -> None:
    source = catalogue(
        tmp_path,
        item("b", {"before": "./b1.tif", "after": "s3://store/b2.tif"}, platform="x"),
        item("a", {"before": "../a1.tif", "after": "/a2.tif"}, **{"ussfc:threshold": 0.5, "ussfc:grid.aoi": "x.gpkg"}),
    )  # fmt: skip
    city = f"{tmp_path}/city"
    assert read_pairs(source) == (
        PairEntry("b", f"{city}/b/b1.tif", "s3://store/b2.tif", {}),
        PairEntry("a", f"{city}/a/../a1.tif", "/a2.tif", {"threshold": 0.5, "grid.aoi": f"{city}/a/x.gpkg"}),
    )
    assert read_pairs(f"{city}/collection.json") == tuple(
        PairEntry(e.name, e.before, e.after, e.settings) for e in read_pairs(source)
    )


def test_a_catalogue_that_links_in_circles_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(catalogue(tmp_path, item("a", {"before": "b", "after": "c"})))
    document = json.loads(source.read_text())
    document["links"] += [{"rel": "child", "href": "./catalog.json"}, *document["links"]]
    source.write_text(json.dumps(document))
    assert [entry.name for entry in read_pairs(str(source))] == ["a"]
    monkeypatch.setattr(pairs, "MOST_FILES", 2)
    assert "more than 2 files" in refused(str(source))


def test_catalogue_in_a_store_stays_in_the_store(tmp_path: Path) -> None:
    catalogue(tmp_path, item("a", {"before": "b.tif", "after": "https://h/c.tif"}))
    system = fsspec.filesystem("memory")
    system.put(f"{tmp_path}/", "/pairs-test/", recursive=True)
    place = "memory://pairs-test"
    document = json.loads(system.cat_file("/pairs-test/catalog.json"))
    document["links"].append({"rel": "self", "href": "https://elsewhere.invalid/catalog.json"})
    system.pipe_file("/pairs-test/catalog.json", json.dumps(document).encode())
    try:
        wanted = (PairEntry("a", f"{place}/city/a/b.tif", "https://h/c.tif", {}),)
        assert read_pairs(f"{place}/catalog.json") == wanted
        system.rm_file("/pairs-test/city/a/a.json")
        with pytest.raises(
            ReadError, match=r"^memory://pairs-test/city/a/a\.json: cannot be read \(not found"
        ):
            read_pairs(f"{place}/catalog.json")
    finally:
        system.rm("/pairs-test", recursive=True)


def test_lists_and_catalogues_in_s3(
    s3_environment: dict[str, str], seaweed: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    from ussfc.pipeline.storage.remote import filesystem

    catalogue(tmp_path, item("a", {"before": "b.tif", "after": "../c.tif"}))
    place = f"s3://{bucket}/lists"
    system, path = filesystem(place)
    system.put(f"{tmp_path}/", f"{path}/", recursive=True)
    system.pipe_file(f"{path}/pairs.csv", b"before,after\n../b.tif,c.tif\n")
    assert read_pairs(f"{place}/pairs.csv") == (
        PairEntry("pair-0001", f"s3://{bucket}/b.tif", f"{place}/c.tif", {}),
    )
    assert read_pairs(f"{place}/catalog.json") == (
        PairEntry("a", f"{place}/city/a/b.tif", f"{place}/city/c.tif", {}),
    )
    system.pipe_file(f"{path}/empty.csv", b"")
    assert "holds no pair" in refused(f"{place}/empty.csv")
    with pytest.raises(ReadError, match=r"absent\.csv: cannot be read \(not found.*check the address"):
        read_pairs(f"{place}/absent.csv")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_list_on_the_web(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # This server gives files whole, and this one is larger than the parts that fsspec asks for.
    empty = f"{' ' * 100_000},\n" * 60
    (tmp_path / "pairs.csv").write_text(f"before,after\n{empty}scenes/a.tif,/root.tif\n")
    assert read_pairs(f"http://{server}/pairs.csv?signature=1") == (
        PairEntry("pair-0001", f"http://{server}/scenes/a.tif", f"http://{server}/root.tif", {}),
    )
    with pytest.raises(ReadError) as caught:
        read_pairs(f"http://me:hidden@{server}/absent.csv?signature=hidden")
    assert str(caught.value).startswith(f"http://{server}/absent.csv: cannot be read (not found")
    assert "hidden" not in str(caught.value)
    monkeypatch.setattr(pairs, "MOST_BYTES", 2**20)
    assert "is larger than 1 MiB" in refused(f"http://{server}/pairs.csv")


def test_server_errors_differ_from_missing_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "PROBE_BACKOFF", ONCE)
    with pytest.raises(
        ReadError, match=r"^http://127\.0\.0\.1:9/a\.csv: cannot be read \(.*refused.*check the address"
    ):
        read_pairs("http://127.0.0.1:9/a.csv")
    with pytest.raises(ReadError, match=r"^http://a\.\.b/a\.csv: cannot be read \(.*check the address"):
        read_pairs("http://a..b/a.csv")


def refused(source: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_pairs(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "", "{}: holds no pair; expected a CSV, a GeoJSON"),
        ("a.csv", "before,after\n\n", "{}: holds no pair"),
        ("a.csv", "before,later\na,b\n", "{}: has no column after (its header: 'before,later')"),
        ("a.csv", "before;after\na;b\n", "{}: has no column before (its header: 'before;after')"),
        ("passwd", "root:x:0:0\n", "{}: has no column before; expected before, after and optionally name"),
        ("a.csv", "before,after,before\na,b,c\n", "{}: has two columns 'before'"),
        ("a.csv", "before,after,treshold\na,b,1\n", "{}: unknown column 'treshold'; did you mean threshold?"),
        ("a.csv", "before,after,\na,b,1\n", "{}: unknown column ''; remove it"),
        ("a.csv", "before,after\na,b\nc,d,e\n", "{}: row 2 (line 3): has 3 cells, the header 2"),
        ("a.csv", "before,after\na\n", "{}: row 1 (line 2): has 1 cells, the header 2"),
        ("a.csv", "before,after\na, \n", "{}: row 1 (line 2): after is empty; give the path or address of the later"),
        ("a.csv", 'before,after\n"a,b\n', "{}: line 2 is no CSV (unexpected end of data)"),
        ("a.csv", f"before,after\n{'a' * 200_000},b\n", "{}: line 2 is no CSV (field larger than field limit"),
        ("a.csv", 'before,after\n"a\nb",c\n', "{}: row 1 (line 3): before: 'a\\nb' holds control characters"),
        ("a.csv", "before,after\na,https://[x\n", "{}: row 1 (line 2): after: 'https://[x' is no address"),
        ("a.csv", "before,after,name\na,b,../c\n", "{}: row 1 (line 2): name '../c' cannot be a folder's"),
        ("a.csv", f"before,after,name\na,b,{'c' * 129}\n", "{}: row 1 (line 2): name 'cccc"),
        ("a.csv", "before,after,name\na,b,Results.csv\n", "{}: row 1 (line 2): name Results.csv is that of a file"),
        ("a.csv", "before,after,name\na,b,c\nd,e,C\n", "{}: row 2 (line 3): name C is that of row 1 (line 2) too"),
        ("a.csv", "before,after,name\na,b,C\nd,e,c\n", "{}: row 2 (line 3): name c is that of row 1 (line 2) too"),
        ("a.csv", "before,after,name\na,b,pair-0002\nd,e,\n", "{}: row 2 (line 3): name pair-0002 is that of row 1"),
        ("a.csv", "before,after,threshold\na,b,7\n", "{}: row 1 (line 2): threshold = 7: input should be less than"),
        ("a.csv", "before,after,threshold\na,b,!!bool x\n", "{}: row 1 (line 2): threshold = '!!bool x': input should"),
        ("a.csv", f"before,after,threshold\na,b,0x{'f' * 200}\n", "{}: row 1 (line 2): threshold = '0xffff"),
        ("a.csv", f"before,after,threshold\na,b,{'[' * 250}\n", "{}: row 1 (line 2): threshold = '[[[["),
        ("a.csv", f"before,after,threshold\na,b,{'[' * 100_000}\n", "{}: row 1 (line 2): threshold = '[[[["),
        ("a.csv", 'before,after,threshold\na,b,"[&a [1], *a]"\n', "{}: row 1 (line 2): threshold = '[&a [1], *a]'"),
        ("a.csv", b"before,after\n\xff\xfe,b\n", "{}: is not in UTF-8 (byte 13)"),
        ("a.json", "before,after\na,b\n", "{}: is no JSON (Expecting value"),
        ("a.json", "[" * 100_000, "{}: is no JSON ("),
        ("a.json", f'{{"type": {"9" * 5000}}}', "{}: is no JSON ("),
        ("a.json", "[1]", "{}: is JSON but no object"),
        ("a.json", '{"type": "Feature"}', "{}: is JSON of type 'Feature'; expected a CSV"),
        ("a.json", '{"type": "FeatureCollection"}', "{}: its features are no list"),
        ("a.json", features(), "{}: holds no pair"),
        ("a.json", features({"before": "a", "after": "b"}, None), "{}: feature 2: has no properties"),
        ("a.json", features({"before": "a"}), "{}: feature 1: after is empty"),
        ("a.json", features({"before": "a", "after": 1}), "{}: feature 1: after: 1 is no path or address"),
        ("a.json", features({"before": "a", "after": "\ud800"}), "{}: feature 1: after: '\\ud800' holds control"),
        ("a.json", features({"before": "a", "after": "b", "fid": 1}), "{}: feature 1: unknown property 'fid'"),
        ("a.json", features({"before": "a", "after": "b", "name": [1]}), "{}: feature 1: name [1] cannot be"),
        ("a.json", features({"before": "a", "after": "b", "bands.after": {"a": 1}}), "{}: feature 1: bands.after = {"),
        ("a.json", '{"type": "Catalog"}', "{}: is no STAC of version 1.0 or newer (its stac_version: 'None')"),
        ("a.json", '{"type": "Catalog", "stac_version": "0.9.0"}', "{}: is no STAC of version 1.0 or newer"),
        ("a.json", '{"type": "Catalog", "stac_version": "1.0.0"}', "{}: is no valid STAC (KeyError: "),
        (
            "a.json",
            '{"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "b", "links": []}',
            "{}: holds no pair",
        ),
        (
            "a.json",
            '{"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "b", '
            '"links": [{"rel": "item", "href": "a\\u0000"}]}',
            "{}: link to an item or child: 'a\\x00' holds control characters",
        ),
    ],
)  # fmt: skip
def test_bad_rows_are_refused_by_list_and_place(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    source = tmp_path / name
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(str(source)).startswith(expected.replace("{}", str(source), 1))


@pytest.mark.parametrize(
    ("assets", "properties", "expected"),
    [
        ({"after": "b"}, {}, "has no asset before (its assets: 'after'); call the earlier image so"),
        (
            {"before": "a", "after": "b"},
            {"ussfc:treshold": 1},
            "unknown key after ussfc: 'treshold'; did you mean",
        ),
        ({"before": "a", "after": "b"}, {"ussfc:name": "c"}, "ussfc:name is no setting"),
        (
            {"before": "a", "after": "b"},
            {"ussfc:threshold": [1]},
            "threshold = [1]: input should be a valid number",
        ),
    ],
)
def test_bad_items_are_refused_by_file_and_id(
    tmp_path: Path, assets: dict[str, str], properties: dict[str, Any], expected: str
) -> None:
    source = catalogue(tmp_path, item("x", assets, **properties))
    assert refused(source).startswith(f"{tmp_path}/city/x/x.json: item 'x': {expected}")


def test_duplicate_item_ids_are_refused(tmp_path: Path) -> None:
    source = Path(catalogue(tmp_path, item("a", {"before": "b", "after": "c"})))
    (tmp_path / "copy.json").write_bytes((tmp_path / "city/a/a.json").read_bytes())
    document = json.loads(source.read_text())
    document["links"].append({"rel": "item", "href": "copy.json"})
    source.write_text(json.dumps(document))
    assert refused(str(source)).startswith(
        f"{tmp_path}/copy.json: item 'a': name a is that of {tmp_path}/city/a/a.json: item 'a' too"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data())
def test_a_damaged_item_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = item("a", {"before": "b", "after": "c"}, **{"ussfc:threshold": 0.5}).to_dict()
    for path in data.draw(
        st.lists(st.sampled_from([(key,) for key in whole] + DEEP), min_size=1, max_size=3)
    ):
        inner: Any = whole
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[path[-1]] = data.draw(JSON)
    (folder / "item.json").write_text(json.dumps(whole))
    links = [{"rel": "item", "href": "item.json"}]
    (folder / "list.json").write_text(
        json.dumps(
            {"type": "Catalog", "stac_version": "1.0.0", "id": "a", "description": "b", "links": links}
        )
    )
    try:
        message = ""
        assert len(read_pairs(str(folder / "list.json"))) == 1
    except (ConfigError, ReadError) as error:
        message = str(error)
    assert "\n" not in message
    assert not message or message.startswith(str(folder))


DEEP = [
    ("assets", "before"),
    ("assets", "before", "href"),
    ("properties", "datetime"),
    ("properties", "ussfc:threshold"),
    ("properties", "ussfc:grid.aoi"),
    ("properties", "ussfc:bands.before"),
]


def test_missing_and_oversized_lists_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, what in (("absent.csv", "No such file or directory"), ("", "Is a directory")):
        with pytest.raises(ReadError) as caught:
            read_pairs(str(tmp_path / name))
        assert str(caught.value) == f"{tmp_path / name}: cannot be read ({what}); check the path"
    (tmp_path / "large.csv").write_text("before,after\na,b\n")
    monkeypatch.setattr(pairs, "MOST_BYTES", 10)
    assert "split it into smaller lists" in refused(str(tmp_path / "large.csv"))


def test_dates_are_columns_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("before,after,date_before,date_after\na.tif,b.tif,2018-06-30,\n", "utf-8")
    (entry,) = read_pairs(str(file))
    assert entry.settings == {"dates.before": "2018-06-30"}
    file.write_text("before,after,date_before\na.tif,b.tif,June\n", "utf-8")
    with pytest.raises(ConfigError, match=r"dates.before = 'June': expected a date such as 2018-06-30"):
        read_pairs(str(file))
    file.write_text("before,after,date_befor\na.tif,b.tif,June\n", "utf-8")
    with pytest.raises(ConfigError, match=r"did you mean date_before\?"):
        read_pairs(str(file))


def test_lists_of_files_are_beside_the_list(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(
        'before,after\n"a/B04.tif, a/B03.tif","https://x.example/B04.tif,https://x.example/B03.tif"\n'
    )
    (entry,) = read_pairs(str(tmp_path / "pairs.csv"))
    assert entry.before == f"{tmp_path}/a/B04.tif,{tmp_path}/a/B03.tif"
    assert entry.after == "https://x.example/B04.tif,https://x.example/B03.tif"
