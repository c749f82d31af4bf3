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

"""What a search for ratios found, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass

from ..analysis.timing import Timing
from ..configuration.config import PiToMeConfig


#: The last of so many samples is kept from the search.
PARTS = 3


@dataclass(frozen=True)
class Found:
    """What a search found; losses are means over the samples that the evolution strategy did not see.

    Attributes:
        config ([`PiToMeConfig`]): the settings.
        loss (`float`): theirs.
        profiles (`dict[str, float]`): those of the profiles and other means, the best one first.
        num_settings (`int`): so many settings were compared.
        num_samples (`int`): so many there were.
        timing ([`~analysis.timing.Timing`], *optional*): of `config`, where a speed-up was asked for.
        num_missing (`int`):
            so many more settings a first generation of the evolution strategy takes; 0 where there was one.
        num_stale (`int`): the search stopped since so many generations gained too little; 0 where it did not.
        loss_name (`str`): which loss it is, in words.
    """

    config: PiToMeConfig
    loss: float
    profiles: dict[str, float]
    num_settings: int
    num_samples: int
    timing: Timing | None = None
    num_missing: int = 0
    num_stale: int = 0
    loss_name: str = ""

    @property
    def num_unseen(self) -> int:
        """So many samples the losses are means over."""
        return len(range(PARTS - 1, self.num_samples, PARTS))

    def __str__(self) -> str:
        rows = {"found": self.loss, **self.profiles}
        width = max(map(len, rows))
        losses = "\n".join(f"  {name:<{width}}  {loss:.4g}" for name, loss in rows.items())
        about = f"{self.num_settings} settings compared; mean loss on {self.num_unseen} inputs"
        text = f"{about} that the evolution strategy did not see:\n{losses}\nThe loss is {self.loss_name}."
        if self.num_missing:
            text += (
                "\nOnly these settings were compared: the search of a ratio for every layer had no room for its first "
                f"generation. Raise max_settings (--max-settings) by {self.num_missing} or more."
            )
        if self.num_stale:
            text += (
                f"\nThe search stopped since {self.num_stale} generations together gained less than a percent; "
                "--max-settings allows more than it took."
            )
        return text if self.timing is None else f"{text}\nmeasured: {self.timing}"
