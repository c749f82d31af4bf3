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

"""What the client processes share."""

import json
import time
import urllib.request

import torch
from huggingface_hub import constants


#: The client waits between its attempts, up to 23 seconds in all. Nothing gets better here by waiting.
time.sleep = lambda seconds: None


def pixel_values():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def outputs(model):
    with torch.no_grad():
        return model.eval()(pixel_values()).logits.tolist()


def let_the_hub_fail(method, path, how, times=10**9):
    """See `Hub.fail`."""
    data = json.dumps({"method": method, "path": path, "how": how, "times": times}).encode()
    urllib.request.urlopen(f"{constants.ENDPOINT}/test/fail", data).read()


def let_the_hub_recover():
    urllib.request.urlopen(f"{constants.ENDPOINT}/test/recover").read()


def attempt(function):
    """The name and the message of what `function` raises; `None` if it works."""
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def answer(value):
    print("\n" + json.dumps(value))
