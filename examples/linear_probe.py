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

"""A classifier out of a pretrained encoder in a minute or two: logistic regression on dense features becomes its head.

Writes the classifier, and the test part of the data for `optimum-cli pitome evaluate`, into the output folder:

    python examples/linear_probe.py --model dinov2_small --dataset fashion_mnist --output-dir outputs
    python examples/linear_probe.py --model minilm --dataset newsgroups --output-dir outputs
    python examples/linear_probe.py --model minilm --dataset tagged_books --max-train 60 --output-dir outputs

Any hub ids or paths in their place. Fine-tuning can start from the classifier, too (`--model outputs/...`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from example_data import SPLIT_IN_TWO, label_settings, load, load_parts, load_preparer, model_path
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from optimum_pitome.evaluation.data import Batches
from optimum_pitome.evaluation.judges import IGNORED, ClassJudge


NUM_FOLDS = 5
AUTO_CLASSES = {
    "image": AutoModelForImageClassification,
    "text": AutoModelForSequenceClassification,
    "words": AutoModelForTokenClassification,
}


def import_sklearn() -> None:
    """Only heads need scikit-learn, and other scripts import this module for what needs none."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise SystemExit(
            'A linear head is trained with scikit-learn, which is not installed: pip install ".[demo]" in the folder '
            "of optimum_pitome."
        ) from None


class ProbeJudge(ClassJudge):
    """Classes, from a logistic regression on the dense model's features.

    Without [`~ProbeJudge.fit`], the evaluated samples train it, in folds: each is judged by a head that was trained on
    the other folds. `pool` is that of an [`EmbeddingJudge`].
    """

    def __init__(self, model, pool: Callable[..., torch.Tensor]):
        import_sklearn()
        super().__init__(model)
        self._pool, self._head, self._folds = pool, None, []

    def answer(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        return list(self._pool(self._model(**inputs), inputs).float().cpu().numpy())

    @torch.no_grad()
    def fit(self, batches: Iterable[Mapping[str, Any]], device: torch.device) -> None:
        """Trains the head on batches with `labels`, of all processes."""
        features, labels = [], []
        for batch in tqdm(batches, "dense features of the training part", unit="batch"):
            features += self.answer({name: value.to(device) for name, value in batch.items() if name != "labels"})
            labels += batch["labels"].tolist()
        self._head = fit_head(*map(np.array, (gather_object(features), gather_object(labels))))

    def decide(self, answers: list[np.ndarray], references: list[int]) -> list[list[int]]:
        features, labels = np.array(answers), np.array(references)
        if self._head is not None:
            return self._head.predict(features)[:, None].tolist()
        if not self._folds:  # these are the dense model's
            from sklearn.model_selection import StratifiedKFold

            # Processes bring the samples in another order: the folds must not depend on it.
            order = features[:, 0].argsort()
            folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0).split(order, labels[order])
            for seen, held_out in ((order[seen], order[held_out]) for seen, held_out in folds):
                self._folds.append((fit_head(features[seen], labels[seen]), held_out))
        decisions = np.empty_like(labels)
        for head, held_out in self._folds:
            decisions[held_out] = head.predict(features[held_out])
        return decisions[:, None].tolist()


def fit_head(features: np.ndarray, labels: np.ndarray) -> Any:
    """A logistic regression on centred features, as strongly regularised as is best on held-out parts of the samples.
    (Stretching each feature to variance 1 would blow up those that say little.)"""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = make_pipeline(StandardScaler(with_std=False), LogisticRegression(max_iter=2000))
    if np.unique(labels, return_counts=True)[1].min() < 3:
        return head.fit(features, labels)
    strengths = [C / features.std() ** 2 for C in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)]
    # Shuffled, since samples come sorted: texts by their length.
    parts = StratifiedKFold(3, shuffle=True, random_state=0)
    return GridSearchCV(head, {"logisticregression__C": strengths}, cv=parts).fit(features, labels).best_estimator_


def kind_of(path: str, dataset: str) -> str:
    """What a model reads of a data set: `"image"`, `"text"`, or `"words"` where each of them has a class."""
    if type(AutoConfig.from_pretrained(path)) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return "image"
    split, _ = load(dataset)
    return "text" if all(getattr(feature, "feature", None) is None for feature in split.features.values()) else "words"


def columns_of(split, kind: str) -> tuple[list[str], dict[str, list[int]]]:
    """The columns of a part of the data that are prepared, and the references that go beside them."""
    return (["input", "label"], {}) if kind == "words" else (["input"], {"labels": split["label"]})


@torch.no_grad()
def accuracy(model: torch.nn.Module, batches: Iterable[Mapping[str, Any]]) -> float:
    """The share of the labels in `batches` (of words: of all that have one) that the model says."""
    right = number = 0
    for batch in tqdm(batches, "test part"):
        labels = batch.pop("labels")
        right += (model(**batch).logits.argmax(dim=-1) == labels).sum().item()  # an ignored label is never an answer
        number += (labels != IGNORED).sum().item()
    return right / number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dinov2_small", help="dinov2_small, minilm, a hub id, or a path")
    packaged = ", ".join(name for name in SPLIT_IN_TWO if name not in ("captioned_stamps", "collected_photos"))
    text = f"packaged data with a training part and classes ({packaged}), a Hub id, or a folder"
    parser.add_argument("--dataset", default="fashion_mnist", help=text)
    parser.add_argument("--max-train", type=int, default=1000)
    parser.add_argument("--max-test", type=int, default=500)
    parser.add_argument("--image-size", type=int, help="side of the pictures in pixels (default: the processor's)")
    parser.add_argument("--max-length", type=int, default=256, help="longest text, in tokens")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    arguments = parser.parse_args()
    import_sklearn()
    set_seed(0)
    path = model_path(arguments.model)
    try:
        kind = kind_of(path, arguments.dataset)
        train, test = load_parts(arguments.dataset, kind, arguments.max_train, arguments.max_test)
    except ValueError as error:
        parser.error(f"--dataset {arguments.dataset}: {error}")
    labels = train.features["label"]
    settings = label_settings(getattr(labels, "feature", labels).names)
    model = AUTO_CLASSES[kind].from_pretrained(path, **settings).eval()
    processor, prepare = load_preparer(path, kind, arguments.image_size, arguments.max_length)
    # The head of a classifier is its last linear layer: whatever comes before, these are its features.
    head, seen, wanted = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1], [], []
    watch = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for batch in tqdm(Batches(train, *columns_of(train, kind), arguments.batch_size, prepare), "dense features"):
            labels = batch.pop("labels")
            model(**batch)
            labelled = labels != IGNORED
            seen[-1], wanted = seen[-1][labelled], [*wanted, labels[labelled]]
        features = torch.cat(seen).numpy()
        scaler, regression = fit_head(features, torch.cat(wanted).numpy()).named_steps.values()
        weight = torch.tensor(regression.coef_, dtype=head.weight.dtype)
        bias = torch.tensor(regression.intercept_, dtype=head.weight.dtype)
        bias -= weight @ torch.tensor(scaler.mean_, dtype=head.weight.dtype)
        if len(bias) == 1:  # two classes: one score, for the second
            weight, bias = (torch.cat([torch.zeros_like(values), values]) for values in (weight, bias))
        # A class that the training part does not have is never the answer.
        head.weight.zero_()
        head.bias.fill_(torch.finfo(head.bias.dtype).min)
        head.weight[regression.classes_], head.bias[regression.classes_] = weight, bias
    watch.remove()
    dense_accuracy = accuracy(model, Batches(test, *columns_of(test, kind), arguments.batch_size, prepare))
    name = f"{Path(arguments.model).name}-{Path(arguments.dataset).name}".replace("_", "-")
    model.save_pretrained(arguments.output_dir / name)
    processor.save_pretrained(arguments.output_dir / name)
    data = arguments.output_dir / Path(arguments.dataset).name
    names = {"input": "tokens", "label": "tags"} if kind == "words" else {"input": kind}
    test.rename_columns(names).save_to_disk(data)
    print(arguments.output_dir / name, data, sep="\n")
    print(f"accuracy on the test part, dense: {100 * dense_accuracy:.1f} %")


if __name__ == "__main__":
    main()
