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


class PiToMeSummaryCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("summary", help="Tokens and operations per layer, dense and merged. Reads no weights.")

    @staticmethod
    def parse_args(parser):
        from optimum_pitome.commands import arguments

        arguments.add_model(parser)
        arguments.add_settings(parser)
        arguments.add_summary(parser)

    def run(self):
        from optimum_pitome.commands.summary import run

        run(self.args, self.parser)


class PiToMeEvaluateCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(
        "evaluate", help="A model dense against merged on real data: accuracy, agreement, speed; model cards."
    )

    @staticmethod
    def parse_args(parser):
        from optimum_pitome.commands import arguments

        arguments.add_model(parser)
        arguments.add_settings(parser)
        arguments.add_evaluation(parser)

    def run(self):
        from optimum_pitome.commands.evaluate import run

        run(self.args, self.parser)


class PiToMeBenchmarkCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo(
        "benchmark", help="Time of forwards or training steps, dense and merged, on random inputs. Reads no weights."
    )

    @staticmethod
    def parse_args(parser):
        from optimum_pitome.commands import arguments

        arguments.add_model(parser)
        arguments.add_settings(parser)
        arguments.add_benchmark(parser)

    def run(self):
        from optimum_pitome.commands.benchmark import run

        run(self.args, self.parser)


class PiToMeCommand(BaseOptimumCLICommand):
    COMMAND = CommandInfo("pitome", help="Faster transformers by merging tokens (optimum_pitome).")
    SUBCOMMANDS = tuple(
        CommandInfo(command.COMMAND.name, help=command.COMMAND.help, subcommand_class=command)
        for command in (PiToMeSummaryCommand, PiToMeEvaluateCommand, PiToMeBenchmarkCommand)
    )


REGISTER_COMMANDS = [PiToMeCommand]
