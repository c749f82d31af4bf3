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

"""Merging as pure tensor functions. Imports torch, the table of methods and where kernels run: not
transformers, nothing else of ours."""

from . import algorithms, diffrate, fused_checks, mutual  # noqa: F401
from .attention import class_attention
from .candidates import Candidates, rank_by_energy
from .constants import Constants, is_traced
from .counts import KeepRatio, length_of
from .energy import pairwise_similarity
from .exporting import exporting_for, is_open, runtime
from .fused import merge_tokens
from .masks import TokenMasks
from .matching import match_tokens, over_heads
from .opaque import is_opaque
from .pairs import plan_from_pairs
from .plan import MergePlan
from .resample import ResamplePlan
from .rows import gather_tokens, take_rows
from .spec import MergeSpec


__all__ = [
    "Candidates",
    "Constants",
    "KeepRatio",
    "MergePlan",
    "MergeSpec",
    "ResamplePlan",
    "TokenMasks",
    "class_attention",
    "exporting_for",
    "gather_tokens",
    "is_opaque",
    "is_open",
    "is_traced",
    "length_of",
    "match_tokens",
    "merge_tokens",
    "over_heads",
    "pairwise_similarity",
    "plan_from_pairs",
    "rank_by_energy",
    "runtime",
    "take_rows",
]
