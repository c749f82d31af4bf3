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

"""Registers `optimum-cli pitome`. Imported at every call of `optimum-cli`, so it imports nothing heavy."""

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


def _command(name: str, help: str) -> CommandInfo:
    """The command that the module `name` runs."""

    class PiToMeSubcommand(BaseOptimumCLICommand):
        COMMAND = CommandInfo(name, help=help)

        @staticmethod
        def parse_args(parser):
            from optimum_pitome.commands.options import add_options

            add_options(parser, name)

        def run(self):
            from optimum_pitome.commands.results import run_command

            run_command(name, self.args, self.parser)

    return CommandInfo(name, help=help, subcommand_class=PiToMeSubcommand)


class PiToMeCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("pitome", help="Faster transformers by merging tokens (optimum_pitome).")
    SUBCOMMANDS = (
        _command("summary", "Tokens and operations per layer, dense and merged. Reads no weights."),
        _command("evaluate", "A model dense against merged on real data: accuracy, agreement, speed; model cards."),
        _command("compare", "Many settings on many tasks, from a YAML file: which of them really differ."),
        _command("tune", "The ratio of every layer for a budget, or the budget that keeps what the dense model says."),
        _command("spectrum", "How far each layer's merge moves the spectrum of its tokens, and what it costs."),
        _command("visualize", "What merges of pictures, clips, sounds or texts: layer by layer, as pictures."),
        _command("export", "A model that merges, as a file for ONNX Runtime, OpenVINO or PyTorch, compared with it."),
        _command("serve", "An OpenAI-compatible server: transformers serve, with a model that merges."),
        _command("benchmark", "Time of forwards, first tokens or training steps, dense and merged, by runtime."),
    )


REGISTER_COMMANDS = [PiToMeCommand]
