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

"""The theorem of the paper on clusters of points: how the spectral distance of a merge falls as the clusters tighten.

The clusters have sizes in a falling order, as the theorem assumes, centres that are orthogonal (separated), and noise
of a given size around them (tight). The tokens come in a random order. The distance is that between the graph of all
tokens and that of the groups at the end.

- `one step`: half of the tokens merge at once.
- `several steps`: a quarter of the tokens merges, and again, until there are as many groups as clusters.

```bash
python docs/spectral_clusters.py
```
"""

from __future__ import annotations

import argparse

import torch

from optimum_pitome.analysis.spectrum import GRAPHS, spectral_distance, token_graph
from optimum_pitome.merging import KeepRatio, MergeSpec, match_tokens


SIZES = (32, 16, 8, 4, 2)
#: Name → the share of the tokens (1 of so many) that a step removes, groups at the end.
SETTINGS = {
    "one step": (2, sum(SIZES) // 2),
    "several steps": (4, len(SIZES)),
}
ALGORITHMS = {
    "PiToMe (energy of the paper)": {"algorithm": "pitome", "energy": "paper", "margin": 0.5},
    "PiToMe (energy of this package)": {"algorithm": "pitome", "energy": "nearest"},
    "ToMe": {"algorithm": "tome"},
    "random": {"algorithm": "random"},
}


def clusters(noise: float, num_samples: int, seed: int, sizes: tuple[int, ...] = SIZES, dim: int = 64) -> torch.Tensor:
    """Points around `len(sizes)` orthogonal centres of length 1, in a random order.

    Args:
        noise (`float`): expected distance of a point from its centre.
        num_samples (`int`): B.
        seed (`int`): of noise and order.
        sizes (`tuple[int, ...]`): points of each cluster.

    Returns:
        `torch.DoubleTensor` of shape `(B, N, dim)`.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(dim, dtype=torch.float64)[: len(sizes)]
    cluster = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    order = torch.stack([torch.randperm(len(cluster), generator=generator) for _ in range(num_samples)])
    noises = torch.randn(num_samples, len(cluster), dim, generator=generator, dtype=torch.float64) * dim**-0.5
    return centres[cluster[order]] + noise * noises


def coarsen(features: torch.Tensor, num_groups: int, share: int, **settings) -> torch.Tensor:
    """Merges 1 of `share` tokens, and again, until `num_groups` are left.

    Args:
        features (`torch.Tensor` of shape `(B, N, dim)`).
        num_groups (`int`): n.
        share (`int`): of the tokens at the time.
        settings: of [`MergeSpec`].

    Returns:
        `torch.LongTensor` of shape `(B, N)`: the group of every token.
    """
    assignment, sizes = torch.arange(features.shape[1]).expand(features.shape[:2]), torch.ones(features.shape[:2])
    while (num_tokens := features.shape[1]) > num_groups:
        removed = min(max(num_tokens // share, 1), num_tokens - num_groups)
        plan = match_tokens(features, MergeSpec(KeepRatio(removed, num_tokens), **settings))
        features, sizes = plan.merge(features, sizes), plan.merge_sizes(sizes)
        assignment = plan.assignment.gather(1, assignment)
    return assignment


def distances(
    algorithm: str, noise: float, graph: str, setting: str = "one step", num_samples: int = 100, seed: int = 0
) -> torch.Tensor:
    """Spectral distances of one of `ALGORITHMS` in one of `SETTINGS`: `(num_samples,)` float64."""
    share, num_groups = SETTINGS[setting]
    features = clusters(noise, num_samples, seed)
    groups = coarsen(features, num_groups, share, **ALGORITHMS[algorithm])
    return spectral_distance(token_graph(features, graph), groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for setting, (_, num_groups) in SETTINGS.items():
        for graph, title in GRAPHS.items():
            found = f"clusters of {', '.join(map(str, SIZES))}, {num_groups} groups"
            print(f"{setting}, {title}: {found}; mean of {args.samples} samples")
            print("noise".ljust(34) + "".join(f"{noise:>8}" for noise in args.noise))
            for name in ALGORITHMS:
                several = [distances(name, noise, graph, setting, args.samples, args.seed) for noise in args.noise]
                print(name.ljust(34) + "".join(f"{float(one.mean()):8.3f}" for one in several))


if __name__ == "__main__":
    main()
