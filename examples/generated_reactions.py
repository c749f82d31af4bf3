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

"""Strings that look like the reactions that rxnfp's BERT was trained on, made up from templates: **not** real data.

Reactants, reagents and solvents, `>>`, and the product, as SMILES. The templates are those of common reaction classes,
the substituents are random, and nobody checked that any of them works. There are no labels that the model knows, so
all that can be measured on them is agreement with the dense model.
"""

from __future__ import annotations

import random

from datasets import Dataset


#: `x`, `y`: substituents of a ring; `a`, `b`: groups in front of or behind what reacts.
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
ENDS = (
    "C",
    "F",
    "Cl",
    "OC",
    "C#N",
    "C(F)(F)F",
    "C(=O)OC",
    "N3CCOCC3",
    "c3ccccc3",
    "c3ccncc3",
    "C3CCCCC3",
    "c3ccc(F)cc3",
)
LINKS = ("C", "CC", "CCC", "OCC", "CO", "C(=O)N", "CN(C)", "C(C)C")


def generated_reactions(num_reactions: int = 2000, seed: int = 0) -> Dataset:
    """Reaction-like strings, the same ones for the same arguments. Column `text`.

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
