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

"""An older transformers, in which some models cannot be rewritten: they are refused, and stay as they were."""

import pytest
import torch
import transformers
from packaging.version import Version
from zoo import all_cases, every_case, outputs_of, refused_cases

from optimum_pitome import UnsupportedArchitectureError, apply_pitome


def test_what_is_too_old_is_refused_and_stays_dense():
    for case in refused_cases():
        model, inputs = case.build(), case.inputs(2)
        with torch.no_grad():
            dense = outputs_of(model(**inputs))
            with pytest.raises(UnsupportedArchitectureError) as error:
                apply_pitome(model, 0.8)
            for part in (transformers.__version__, "left dense", "install another version", "newer optimum_pitome"):
                assert part in str(error.value)
            after = outputs_of(model(**inputs))
        assert all(torch.equal(after[name], dense[name]) for name in dense)
        assert not hasattr(model.config, "pitome")


def test_a_current_transformers_can_do_all():
    if Version(transformers.__version__) >= Version("5.24.0"):
        assert all_cases() == every_case() and not refused_cases()
    if Version(transformers.__version__) < Version("5.18.0"):
        assert {case.id.split("For")[0] for case in refused_cases()} >= {"Dinov2", "Dinov2WithRegisters"}
