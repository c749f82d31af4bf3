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

"""What lies beside the weights of a model and says what its configuration does not: tokenizer, image processor."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers.utils import has_file, logging


logger = logging.get_logger(__name__)

#: (what, name or path, revision, when its files were written) → what was read. A search over ratios rewrites a model
#: many times.
_READ: dict[tuple[Any, ...], Any] = {}


def read_beside(config: Any, what: str, files: Sequence[str], read: Callable[..., Any], **hub: Any) -> Any:
    """What `read(name, trust_remote_code=False, ...)` makes of what lies beside the weights; `None` if nothing does,
    or it does not load, which must not keep the model from loading.

    Args:
        config: of the model; its `name_or_path` says where the weights are.
        what (`str`): such as `"tokenizer"`, for the log.
        files (`Sequence[str]`): a place without any of them has none.
        read (`Callable`): takes the name or path, and what `from_pretrained` takes beside it.
        hub: where to look: `token`, `cache_dir` and `local_files_only` of `from_pretrained`.
    """
    name, revision = getattr(config, "name_or_path", None), getattr(config, "_commit_hash", None)
    if not name:
        return None
    paths = [os.path.join(name, file) for file in files]
    key = what, name, revision, *(os.stat(path).st_mtime_ns for path in paths if os.path.isfile(path))
    if key not in _READ:
        hub = {**hub, "revision": revision}
        try:
            # First what is here: without a connection each question takes its time.
            places = ({**hub, "local_files_only": True}, hub)
            if not any(has_file(name, file, **place) for place in places for file in files):
                return None
            _READ[key] = read(name, trust_remote_code=False, **hub)
        except Exception as error:
            logger.info(f"The {what} of {name} was not read: {error}")
            return None
    return _READ[key]
