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

"""Labelled and captioned data from a package, a hub or a folder: for the examples."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import AutoImageProcessor, AutoTokenizer

from optimum_pitome.evaluation.columns import find_columns
from optimum_pitome.evaluation.data import SEED, load_labelled, take
from optimum_pitome.evaluation.questions import rgb
from optimum_pitome.evaluation.words import encode_words


#: What `examples/fetch_assets.sh` fetches.
BUILT_IN_MODELS = ("dinov2_small", "minilm", "bert_reactions")
SPLIT_IN_TWO = (
    "fashion_mnist",
    "newsgroups",
    "reuters",
    "reuters_r52",
    "movie_snippets",
    "captioned_stamps",
    "tagged_books",
    "collected_photos",
)
WHOLE = ("stamps", "textiles", "photos", "generated_reactions")
BUILT_IN_DATA = (*SPLIT_IN_TWO, *WHOLE)


def load(name: str, split: str | None = None) -> tuple[Dataset, str]:
    """One split of a data set, and the split's name.

    Args:
        name (`str`): one of `BUILT_IN_DATA`, a hub id, or a folder or file that `load_labelled` reads.
        split (`str`, *optional*): defaults to `test`, `validation`, or the only one.

    Raises:
        ValueError: if there is no such split.
    """
    if name not in BUILT_IN_DATA:
        return load_labelled(name, split=split)
    splits = ("train", "test") if name in SPLIT_IN_TWO else ("all",)
    split = split or splits[-1]
    if split not in splits:
        raise ValueError(f"split {split!r}: expected one of {', '.join(splits)}, the splits of {name}.")
    return _read_built_in(name, split), split


def load_parts(name: str, kind: str, max_train: int | None, max_test: int | None) -> tuple[Dataset, Dataset]:
    """A training and a test part, each at most so large.

    Args:
        name (`str`): as [`load`] takes it.
        kind (`str`): `"image"`, `"text"` or `"words"`.

    Returns:
        Two data sets with columns `input` and `label` (a `ClassLabel`; of words lists of them).

    Raises:
        ValueError: if there is no training or no test part, or no column to classify or to predict.
    """
    (test, split), train = load(name), training_part(name)
    if train is None or split == "train":
        raise ValueError(f"{name} has no split 'train' beside one of 'test' or 'validation': training needs both.")
    parts = []
    for part, limit in ((train, max_train), (test, max_test)):
        part, (column, label) = with_classes(take(part, limit), kind)
        names = {old: new for old, new in ((column, "input"), (label, "label")) if old != new}
        parts.append(part.select_columns([column, label]).rename_columns(names))
    return tuple(parts)


def training_part(name: str, evaluated: str | None = None) -> Dataset | None:
    """The split `train`, unless that is the split that is `evaluated`, or there is none."""
    try:
        return None if evaluated == "train" else load(name, "train")[0]
    except ValueError:
        return None


def with_classes(dataset: Dataset, kind: str, inputs: list[str] | None = None) -> tuple[Dataset, list[str]]:
    """The data set, whose labels have names, and its columns: the inputs, then the label."""
    columns = find_columns(dataset, kind, inputs)
    labels = dataset.features[columns[-1]]
    if not isinstance(getattr(labels, "feature", labels), ClassLabel):
        dataset = dataset.class_encode_column(columns[-1])
    return dataset, columns


def model_path(name: str) -> str:
    """The folder of one of `BUILT_IN_MODELS`; any other name as it is."""
    if name not in BUILT_IN_MODELS:
        return name
    import real_assets

    return str(getattr(real_assets, name)())


def label_settings(names: list[str]) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` for a new head over classes with these names."""
    label2id = {name: index for index, name in enumerate(names)}
    return {"id2label": dict(enumerate(names)), "label2id": label2id, "ignore_mismatched_sizes": True}


def load_preparer(
    path: str, kind: str, side: int | None = None, max_length: int | None = None
) -> tuple[Any, Callable]:
    """The model's processor, and what makes a batch of inputs out of pictures or texts (of pairs: two lists).

    Args:
        kind (`str`): `"image"`, `"text"` or `"words"` (words and their classes: two lists).
        side (`int`, *optional*): of the pictures, in pixels. Defaults to the size that the model is made for.
        max_length (`int`, *optional*): longest text, in tokens.
    """
    if kind == "image":
        sizes = {} if side is None else {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        processor = AutoImageProcessor.from_pretrained(path, **sizes)
        return processor, lambda images: processor(rgb(images), return_tensors="pt")
    tokenizer = AutoTokenizer.from_pretrained(path)
    if kind == "words":
        return tokenizer, functools.partial(encode_words, tokenizer, length=max_length)

    def tokenize(*texts):
        cut = {"truncation": True, "max_length": max_length}
        return tokenizer(*map(list, texts), **cut, padding=True, return_tensors="pt")

    return tokenizer, tokenize


def _read_built_in(name: str, split: str) -> Dataset:
    import real_assets

    if name == "generated_reactions":
        return generated_reactions()
    if name == "stamps":
        return real_assets.stamps(8)
    if name.startswith("reuters"):
        return real_assets.reuters("r52" if name == "reuters_r52" else "r8", split)
    if name in WHOLE:
        return getattr(real_assets, name)()
    if name == "movie_snippets":
        rows = real_assets.movie_snippets().remove_columns("rating")
        return rows.train_test_split(test_size=0.3, seed=SEED, stratify_by_column="label")[split]
    if name == "captioned_stamps":
        rows = real_assets.stamps().train_test_split(train_size=0.7, seed=SEED, stratify_by_column="label")
        return rows[split].remove_columns("label")
    return getattr(real_assets, name)(split=split)


#: `x`, `y`: substituents of a ring; `a`, `b`: groups before or after what reacts.
TEMPLATES = (
    "{a}C(=O)O.{b}N.CCN=C=NCCCN(C)C.On1nnc2ccccc21.ClCCl>>{a}C(=O)N{b}",
    "{a}C(=O)Cl.{b}N.CCN(CC)CC.ClCCl>>{a}C(=O)N{b}",
    "{a}C(=O)O.{b}O.O=S(Cl)Cl>>{a}C(=O)O{b}",
    "Brc1ccc({x})cc1.OB(O)c1ccc({y})cc1.O=C([O-])[O-].[K+].[K+].C1COCCO1.[Pd]>>c1({x})ccc(-c2ccc({y})cc2)cc1",
    "O=[N+]([O-])c1ccc({x})cc1.[Fe].[Cl-].[NH4+].CCO.O>>Nc1ccc({x})cc1",
    "CC(C)(C)OC(=O)N{b}.O=C(O)C(F)(F)F.ClCCl>>N{b}",
    "Oc1ccc({x})cc1.BrC{b}.O=C([O-])[O-].[Cs+].[Cs+].CN(C)C=O>>C({b})Oc1ccc({x})cc1",
    "CCOC(=O)C{b}.[OH-].[Na+].C1CCOC1.O>>OC(=O)C{b}",
    "O=Cc1ccc({x})cc1.{a}N.CC(=O)O[BH-](OC(C)=O)OC(C)=O.[Na+].ClCCCl>>{a}NCc1ccc({x})cc1",
    "O=S(=O)(Cl)c1ccc({x})cc1.{a}N.c1ccncc1>>O=S(=O)(N{b})c1ccc({x})cc1",
    "Clc1ncc({x})cn1.{a}N.CCN(C(C)C)C(C)C.CCCCO>>{a}Nc1ncc({x})cn1",
    "CC(=O)c1ccc({x})cc1.[BH4-].[Na+].CO>>CC(O)c1ccc({x})cc1",
)
ENDS = "C F Cl OC C#N C(F)(F)F C(=O)OC N3CCOCC3 c3ccccc3 c3ccncc3 C3CCCCC3 c3ccc(F)cc3".split()
LINKS = "C CC CCC OCC CO C(=O)N CN(C) C(C)C".split()


def generated_reactions(num_reactions: int = 2000, seed: int = 0) -> Dataset:
    """Strings like the reactions that rxnfp's BERT was trained on, made up from templates: **not** real data.

    Reactants, reagents and solvents, `>>`, and the product, as SMILES. The templates are those of common reaction
    classes, the substituents are random, and nobody checked that any of them works. There are no labels that the model
    knows, so all that can be measured on them is agreement with the dense model. The same arguments give the same
    strings. Column `text`.

    Args:
        num_reactions (`int`): how many, all different.
        seed (`int`): of the random choices.
    """
    choice = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < num_reactions:
        groups = {name: _group(choice) for name in "xyab"}
        made[choice.choice(TEMPLATES).format(**groups)] = None
    return Dataset.from_dict({"text": list(made)})


def _group(choice: random.Random) -> str:
    links = choice.choices(LINKS, k=choice.randint(0, 3))
    return "".join(links) + choice.choice(ENDS)
