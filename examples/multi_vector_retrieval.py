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

"""Late interaction (ColBERT-style) with fewer vectors per document: documents are encoded merged, queries dense.

    python examples/multi_vector_retrieval.py --output-dir outputs

Compares, on documents of 20 Newsgroups and MiniLM's token embeddings, what merging inside the encoder stores with
sentence-transformers' hierarchical pooling at the same number of vectors: size of the index, time of encoding, what
stays of the dense index's ten nearest documents, and nDCG (a document is relevant if it comes from the query's group).
Every part of the documents is encoded with each setting in turn. MiniLM was trained for one vector per text, not for
late interaction: the figures compare ways to store fewer vectors, and are no measure of a ColBERT.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from example_data import load_parts, model_path
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling, MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Normalize
from tqdm import tqdm

from optimum_pitome import apply_pitome, pitome_disabled
from optimum_pitome.evaluation.metrics import paired_difference
from optimum_pitome.integrations.multi_vector import MergedTokenPooling


#: Documents that are encoded with each setting in turn.
PART = 64
#: So many times fewer operations.
BUDGETS = (1.25, 1.5, 1.8)
#: Merging early keeps more vectors, and more of what they say. Chosen on training documents.
EARLY = {"profile": "early", "algorithm": "pitome"}


def load_encoder(path: str, max_length: int) -> MultiVectorEncoder:
    transformer = Transformer(path, max_seq_length=max_length, model_kwargs={"pitome": {"flops_ratio": BUDGETS[0]}})
    return MultiVectorEncoder(
        modules=[transformer, MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    )


def encode_in_turn(model: MultiVectorEncoder, texts: list[str]) -> tuple[dict, dict[str, float]]:
    """Vectors of every document by setting, and the seconds of each setting."""
    vectors: dict[str, list[torch.Tensor]] = {}
    seconds: dict[str, float] = {}

    def encode(name: str, part: list[str], **settings) -> None:
        start = time.perf_counter()
        found = model.encode_document(part, show_progress_bar=False, **settings)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        vectors.setdefault(name, []).extend(found)

    encoder = model[0].model
    with pitome_disabled(encoder):
        model.encode_document(texts[:PART], show_progress_bar=False)  # not timed
    for start in tqdm(range(0, len(texts), PART), "documents"):
        part = texts[start : start + PART]
        with pitome_disabled(encoder):
            encode("dense", part)
        for budget in BUDGETS:
            apply_pitome(encoder, {"flops_ratio": budget})
            encode(f"merged {budget}x", part, token_pooling=MergedTokenPooling())
        # At as many vectors as this budget stored of these documents.
        stored = {name: sum(map(len, found[start:])) for name, found in vectors.items()}
        for budget in BUDGETS:
            pooling = HierarchicalTokenPooling(stored["dense"] / stored[f"merged {budget}x"])
            with pitome_disabled(encoder):
                encode(f"pooled as {budget}x", part, token_pooling=pooling)
        # Both: merging for speed, and the rest of the way by pooling.
        for budget in BUDGETS[1:]:
            pooling = HierarchicalTokenPooling(stored["dense"] / stored[f"merged {budget}x"])
            little = f"merged {BUDGETS[0]}x", {"flops_ratio": BUDGETS[0]}
            for name, settings in (little, (f"merged early {budget}x", {"flops_ratio": budget, **EARLY})):
                apply_pitome(encoder, settings)
                encode(f"{name}, pooled as {budget}x", part, token_pooling=pooling)
    return vectors, seconds


def measure(model, queries: list[torch.Tensor], groups: np.ndarray, test_groups: np.ndarray, vectors: dict) -> dict:
    """Of each setting: vectors per document, the dense index's ten nearest that it finds, and nDCG of its ten."""
    found, gains = {}, {}
    discount = 1 / np.log2(np.arange(2, 12))
    for name, documents in vectors.items():
        nearest = model.similarity(queries, documents).topk(10, dim=1).indices.numpy()
        found[name] = nearest
        gains[name] = ((test_groups[nearest] == groups[:, None]) * discount).sum(axis=1) / discount.sum()
    rows = {}
    for name, documents in vectors.items():
        kept = _kept(found[name], found["dense"])
        rows[name] = {
            "vectors per document": float(np.mean([len(document) for document in documents])),
            "index, MB in float16": 2e-6 * sum(document.numel() for document in documents),
            "10 nearest of the dense index kept": float(np.mean(kept)),
            "nDCG@10": float(gains[name].mean()),
        }
        if name != "dense":
            rows[name] |= paired_difference("nDCG@10 against dense", gains["dense"].tolist(), gains[name].tolist())
        if "pooled as" in name:
            others = _kept(found[name.split(", ")[-1].replace("pooled as", "merged")], found["dense"])
            rows[name] |= paired_difference("kept, against merged", others, kept)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="minilm", help="minilm, a hub id, or a path")
    parser.add_argument("--max-documents", type=int, default=1000)
    parser.add_argument("--max-queries", type=int, default=300)
    parser.add_argument("--max-length", type=int, default=256, help="longest document, in tokens")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"))
    arguments = parser.parse_args()
    model = load_encoder(model_path(arguments.model), arguments.max_length)
    # Other documents, of which a query is the beginning.
    asked, indexed = load_parts("newsgroups", "text", arguments.max_queries, arguments.max_documents)
    queries = [" ".join(text.split()[:12]) for text in asked["input"]]
    with pitome_disabled(model[0].model):
        embedded = model.encode_query(queries, show_progress_bar=False)
    vectors, seconds = encode_in_turn(model, list(indexed["input"]))
    rows = measure(model, embedded, _groups(asked), _groups(indexed), vectors)
    for name, row in rows.items():
        row["encoding, times as fast"] = seconds["dense"] / seconds[name]
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "multi_vector_retrieval.json").write_text(json.dumps(rows, indent=2) + "\n")
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))


def _kept(nearest: np.ndarray, dense: np.ndarray) -> list[float]:
    return [len(set(own) & set(others)) / len(others) for own, others in zip(nearest, dense)]


def _groups(documents: Dataset) -> np.ndarray:
    return np.array(documents["label"])


if __name__ == "__main__":
    main()
