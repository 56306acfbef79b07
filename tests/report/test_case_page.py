"""The page of a case is one file, shows outlines where the labels are, obeys keys and addresses, and trusts no text."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cardiac_autoseg.report.case_images import grey_levels, heart_region, make_sheets, rings, thumbnail
from cardiac_autoseg.report.case_page import CasePage, NumberRow, PageFinding, page_data, write_case_page

NAMES = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
CENTRE = (50.0, 70.0)
HOSTILE = '<script>alert("x")</script>&{{ 7 * 7 }}</script><img src=x onerror=alert(1)>'


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    """A mask of the pixels whose centres are within ``radius`` of ``centre``, (y, x) in pixels from the image's corner."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.hypot(y - centre[0], x - centre[1]) < radius


def hearts(frames: int, slices: int, shape: tuple[int, int], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels (T, Z, Y, X) of a beating disc in a ring, with a second disc beside it."""
    labels = np.zeros((frames, slices, *shape), np.uint8)
    for t in range(frames):
        for z in range(slices):
            size = radius * (1 - 0.25 * np.sin(np.pi * t / max(1, frames))) * (1 - 0.03 * z)
            labels[t, z][disc(shape, (CENTRE[0], CENTRE[1] - 1.9 * radius), 0.9 * size)] = 1
            labels[t, z][disc(shape, CENTRE, size + 5)] = 2
            labels[t, z][disc(shape, CENTRE, size)] = 3
    noise = np.random.default_rng(0).normal(0, 6, labels.shape)
    return (np.array([40, 150, 60, 200])[labels] + noise).astype(np.float32), labels


def make_page(frames: int = 6, slices: int = 3, shape: tuple[int, int] = (110, 140), **changes: Any) -> CasePage:
    image, labels = hearts(frames, slices, shape, 16.0)
    volumes = {name: tuple(float((frame == NAMES[name]).sum()) / 50 for frame in labels) for name in ("LV", "RV")}
    page = CasePage(
        name="case 7",
        description="made up",
        image=image,
        labels=labels,
        spacing=(8.0, 1.5, 1.5),
        names=NAMES,
        times_ms=tuple(40.0 * t for t in range(frames)) if frames > 1 else None,
        volumes=volumes,
        ed=0,
        es=frames // 2 if frames > 1 else None,
        numbers=(
            NumberRow("LV_EF", "LV ejection fraction", 41.26, "%", (38.0, 44.5), (57.0, 77.0)),
            NumberRow("LV_EDV", "LV end-diastolic volume", 213.6, "mL", None, (106.0, 214.0)),
            NumberRow("RV_EF", "RV ejection fraction", None, "%", None, (52.0, 72.0), "the base is missing"),
            NumberRow("CO", "Cardiac output", 5.24, "L/min"),
        ),
        quality=(0.87, 0.81, 0.92, 76.4),
        findings=(PageFinding("note", "a remark"), PageFinding("warning", "a jump", frame=3, slice=1)),
        notes=("positions were used",),
        links={"Labels": "case 7/labels.nii.gz"},
        model="a network",
        licence="CC BY-NC-SA 4.0",
    )
    return dataclasses.replace(page, **changes)


class Page(HTMLParser):
    """The addresses, elements and words of a page, and its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        (self.scripts if self.elements and self.elements[-1][0] in ("script", "style") else self.words).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def ids(self) -> set[str | None]:
        return {attributes.get("id") for _, attributes in self.elements}

    @property
    def addresses(self) -> list[str]:
        return [attributes[key] or "" for _, attributes in self.elements for key in ("src", "href") if key in attributes]


def written(path: Path, page: CasePage) -> str:
    write_case_page(path, page)
    return path.read_text(encoding="utf-8")


def state(dom: str) -> dict[str, str]:
    """What the page says of itself in the attributes of its root element."""
    root = re.search(r"<html[^>]*>", dom)
    assert root is not None
    return dict(re.findall(r'data-([a-z]+)="([^"]*)"', root.group()))


def test_page_is_one_file_and_says_what_matters(tmp_path: Path) -> None:
    html = written(tmp_path / "page.html", make_page())
    page = Page(html)
    assert not re.search(r"(?:https?|ftp):(?!//www\.w3\.org/2000/svg)|url\(|@import|<link|<iframe", html)
    assert page.addresses == ["case%207/labels.nii.gz", "#frame=4&slice=2"]
    assert (
        page.text.index("Flagged: check the outlines")
        < page.text.index("LV ejection fraction")
        < page.text.index("a remark")
    )
    for words in ("research only, not a medical device", "a network", "CC BY-NC-SA 4.0", "positions were used", "Moderate"):
        assert words in page.text
    assert "0.81 to 0.92" in page.text and "Score 76 of 100" in page.text
    calm = Page(written(tmp_path / "calm.html", make_page(findings=(PageFinding("note", "a remark"),), quality=None)))
    assert "Flagged" not in calm.text and "Predicted Dice" not in calm.text


def test_numbers_are_marked_against_their_range_as_printed(tmp_path: Path) -> None:
    html = written(tmp_path / "page.html", make_page())
    rows = dict(re.findall(r'<tr data-name="(\w+)"(.*?)</tr>', html))
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", row) for name, row in rows.items()}
    assert cells["LV_EF"][1:4] == ["41.3", "%", "38.0 to 44.5"] and "▼ below" in rows["LV_EF"]
    # 213.6 is printed as 214, which is the end of the range.
    assert cells["LV_EDV"][1:] == ["214", "mL", "", "106 to 214"]
    assert cells["RV_EF"][1] == "–" and "the base is missing" in rows["RV_EF"] and "below" not in rows["RV_EF"]
    above = make_page(numbers=(NumberRow("LV_EDV", "volume", 214.6, "mL", None, (106.0, 214.0)),))
    assert "▲ above" in written(tmp_path / "above.html", above)


def test_outlines_lie_on_the_border_of_the_labels() -> None:
    data = json.loads(json.dumps(page_data(make_page())))
    region, index = data["region"], {item["name"]: place for place, item in enumerate(data["classes"])}
    assert set(index) == {"RV", "MYO", "LV"}

    def ring_of(t: int, z: int, name: str, number: int = 0) -> np.ndarray:
        ring = np.cumsum(np.reshape(data["outlines"][t][z][index[name]][number], (-1, 2)), axis=0) / data["fraction"]
        return ring + np.array([region["x"], region["y"]])

    for t, z, radius in ((0, 0, 16.0), (3, 0, 12.0), (0, 2, 16 * 0.94)):
        ring = ring_of(t, z, "LV")
        distances = np.hypot(*(ring - CENTRE[::-1]).T)
        assert abs(distances.mean() - radius) < 0.25 and np.ptp(distances) < 1.2
        assert np.allclose(ring.mean(axis=0), CENTRE[::-1], atol=0.15)
    sizes = sorted(np.hypot(*(ring_of(0, 0, "MYO", n) - CENTRE[::-1]).T).mean() for n in (0, 1))
    assert np.allclose(sizes, (16, 21), atol=0.25)


def test_a_ring_encloses_its_mask_also_at_the_edge_of_the_image() -> None:
    mask = disc((60, 60), (30.0, 2.0), 20.0)
    (ring,) = rings(mask)
    x, y = ring.T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert area == pytest.approx(mask.sum(), rel=0.02) and x.min() > -0.01
    single = np.zeros((5, 5), bool)
    single[2, 3] = True
    assert np.allclose(rings(single)[0].mean(axis=0), (3.5, 2.5))
    assert rings(np.zeros((5, 5), bool)) == []


def test_sheets_hold_every_frame_of_every_slice() -> None:
    page = make_page(frames=35)
    region = heart_region(page.labels, page.spacing[1:])
    grey = grey_levels(page.image, region)
    sheets = make_sheets(grey)
    for z, uri in enumerate(sheets.images):
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        for t in (0, 31, 32, 34):
            top, left = 4 + t // 32 * sheets.step[0], 4 + t % 32 * sheets.step[1]
            tile = sheet[top : top + sheets.height, left : left + sheets.width]
            assert np.abs(tile.astype(float) - grey[t, z]).mean() < 6  # the noise of JPEG; another frame is twice as far
    assert sheet.shape == (2 * sheets.step[0], 32 * sheets.step[1])


def test_region_is_square_around_the_heart_and_everything_without_labels() -> None:
    labels = np.zeros((1, 2, 300, 400), np.uint8)
    labels[0, 1, 140:180, 150:250] = 1
    region = heart_region(labels, (1.0, 1.0))
    assert region.height == pytest.approx(164, abs=1) and region.width == pytest.approx(164, abs=1)
    assert region.y + region.height / 2 == pytest.approx(160, abs=1) and region.x + region.width / 2 == pytest.approx(
        200, abs=1
    )
    assert heart_region(labels, (1.0, 1.0), 0).window == (slice(140, 180), slice(150, 250))
    everything = heart_region(np.zeros((1, 2, 30, 40), np.uint8), (1.0, 1.0))
    assert everything.window == (slice(0, 30), slice(0, 40))
    broken = np.full((1, 2, 30, 40), np.nan, np.float32)
    assert grey_levels(broken, everything).max() == 0


def test_a_single_volume_has_neither_play_nor_curve(tmp_path: Path) -> None:
    page = Page(written(tmp_path / "page.html", make_page(frames=1, findings=())))
    assert not page.ids & {"play", "curve", "frame", "ed", "paper-es"}
    assert page.ids >= {"stage", "slice", "grid", "contours"}


def test_a_cine_of_ten_slices_is_small_and_quick(tmp_path: Path) -> None:
    image, labels = (np.tile(part, (4, 10, 1, 1)) for part in hearts(5, 1, (220, 220), 22.0))
    page = make_page(frames=20, image=image, labels=labels, spacing=(8.0, 1.4, 1.4))
    write_case_page(tmp_path / "warm.html", make_page())
    start = time.process_time()
    write_case_page(tmp_path / "page.html", page)
    assert time.process_time() - start < 1.5
    assert (tmp_path / "page.html").stat().st_size < 3_000_000


def test_hostile_texts_stay_texts(tmp_path: Path, browse: Callable[..., str]) -> None:
    page = make_page(
        name=HOSTILE,
        description=HOSTILE,
        findings=(PageFinding("warning", HOSTILE, 1, 1),),
        notes=(HOSTILE,),
        links={HOSTILE: "javascript:alert(1)"},
        model=HOSTILE,
        names={HOSTILE: 1, "MYO": 2, "LV": 3},
        numbers=(NumberRow(HOSTILE, HOSTILE, 1.0, HOSTILE, None, None, HOSTILE),),
    )
    html = written(tmp_path / "page.html", page)
    assert "<script>alert" not in html and "<img" not in html and 'href="javascript:' not in html
    shown = state(browse(tmp_path / "page.html"))
    assert shown["state"] == "ready" and "error" not in shown


def test_the_address_chooses_frame_slice_and_view(tmp_path: Path, browse: Callable[..., str]) -> None:
    write_case_page(tmp_path / "page.html", make_page())
    shown = state(browse(tmp_path / "page.html", "#frame=5&slice=3&view=grid&contours=off"))
    wanted = {"state": "ready", "frame": "5", "slice": "3", "view": "grid", "contours": "false", "playing": "false"}
    assert shown == wanted


def test_keys_buttons_links_and_curve_move_the_page(tmp_path: Path, browse: Callable[..., str]) -> None:
    write_case_page(tmp_path / "page.html", make_page())
    script = """
    const seen = [], note = () => {
      const { frame, slice, view, contours } = root.dataset;
      seen.push(frame + slice + view[0] + contours[0]);
    };
    const press = (key, target = document.body) => {
      target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
      note();
    };
    const point = (target, type, clientX, clientY) => {
      target.dispatchEvent(new PointerEvent(type, { clientX, clientY, bubbles: true }));
      note();
    };
    note();
    for (const key of ['ArrowLeft', 'ArrowRight', 'ArrowDown', 'ArrowDown', 'ArrowUp']) press(key);
    for (const key of ['s', 'E', 'c', 'g', 'Escape']) press(key);
    press('ArrowRight', byId('fill'));
    document.querySelector('.flags a').click(); note();
    const svg0 = document.querySelector('#curve svg'), box = svg0.getBoundingClientRect();
    svg0.setPointerCapture = () => {};
    point(svg0, 'pointerdown', box.right - 20, box.top + 50);
    byId('grid').click(); note();
    const first = byId('stage').boxes[0], place = byId('stage').getBoundingClientRect();
    point(byId('stage'), 'click', place.left + first.x + 9, place.top + first.y + 9);
    root.dataset.seen = seen.join(' ');
    press(' '); root.dataset.started = root.dataset.playing;
    setTimeout(() => { root.dataset.moved = root.dataset.frame; press(' '); }, 130);
    """
    shown = state(browse(tmp_path / "page.html", script=script))
    assert "error" not in shown
    expected = "12st 62st 12st 13st 13st 12st 42st 12st 12sf 12gf 12sf 12sf 42sf 62sf 62gf 61sf"
    assert shown["seen"] == expected
    # The beat of 240 ms takes as long on the screen: some frames later, playing stopped.
    assert shown["started"] == "true" and shown["playing"] == "false" and shown["moved"] != "6"


def test_outlines_are_drawn_where_the_image_shows_the_heart(tmp_path: Path, browse: Callable[..., str]) -> None:
    """The centre and area of what is bright on the image's canvas and of what is filled on the outlines' canvas agree."""
    image, labels = hearts(2, 1, (110, 140), 16.0)
    lv = (labels == 3).astype(np.uint8)
    # Rows and columns of different size: the page must show the disc as an ellipse, image and outline alike.
    page = make_page(frames=2, slices=1, image=lv * 1000.0 + image * 0, labels=lv * 3, spacing=(8.0, 1.2, 1.8))
    write_case_page(tmp_path / "page.html", page)
    script = """
    set({ fill: 1 });
    const moments = [...byId('stage').querySelectorAll('canvas')].map((canvas, layer) => {
      const { data: pixels, width } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let count = 0, x = 0, y = 0;
      for (let i = 0; i < pixels.length / 4; i += 1) {
        const on = layer ? pixels[4 * i] > 200 && pixels[4 * i + 2] < 60 && pixels[4 * i + 3] > 128 : pixels[4 * i] > 128;
        if (on) { count += 1; x += i % width; y += Math.floor(i / width); }
      }
      return [count, x / count, y / count].map((value) => value.toFixed(2));
    });
    root.dataset.moments = moments.join(' ');
    """
    shown = state(browse(tmp_path / "page.html", script=script))
    bright, filled = (np.array(text.split(","), float) for text in shown["moments"].split())
    assert bright[0] > 5000 and filled[0] == pytest.approx(bright[0], rel=0.06)  # the line adds half its width
    assert np.abs(bright[1:] - filled[1:]).max() < 1.0


def test_thumbnail_shows_the_fullest_slice_with_outlines() -> None:
    page = make_page()
    uri = thumbnail(page.image, page.labels, page.spacing, NAMES, side=96)
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert max(picture.size) == 96 and picture.mode == "RGB"
    pixels = np.asarray(picture).astype(int)
    assert (np.ptp(pixels, axis=-1) > 60).sum() > 50  # coloured, on a grey image


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels"):
        write_case_page(tmp_path / "page.html", make_page(labels=np.zeros((6, 3, 10, 10), np.uint8)))
    assert not list(tmp_path.iterdir())
