"""Questions that experiments.evaluate asks a model, and how it asks them.

    python -m experiments.evaluate --workdir=RUN --benchmarks=gsm8k,svamp --config.directory=FILES

FILES holds a folder of each benchmark with its published files: FILES/gsm8k/test.jsonl and so on
(`partitionsel_jax/evaluation/benchmarks/registry.py` lists them). The questions of reasoning_gym
are generated: none of those that a run was trained on, whatever its seed.
"""

from ml_collections import ConfigDict

from configs import common
from configs.tasks import QUICKSTART_TASKS
from partitionsel_jax.evaluation.benchmarks import BENCHMARKS


def get_config(text=None):
    """--config=configs/evaluation.py[:smoke].

    `smoke` asks eight questions of reasoning-gym and takes 16 tokens for an answer.
    """
    arguments = common.arguments(text, smoke=False)
    config = ConfigDict()
    config.benchmarks = ()  # or --benchmarks
    config.directory = ""  # of the benchmarks' folders
    # Solved examples in a prompt of each; models that were tuned on instructions need none.
    config.few_shot = ConfigDict(dict.fromkeys(BENCHMARKS, 0))
    config.new_tokens = 0  # most of an answer; 0: the benchmark's own
    config.batch = 16
    config.limit = 0  # questions of each benchmark; 0: all
    config.template = ""  # of the prompt; empty: the run's own, or the tokenizer's chat template
    config.dtype = "float32"  # of a --model; a run keeps its own
    config.seed = 0  # of examples, and of the questions that a limit leaves
    config.reasoning_gym = procedural = ConfigDict()
    procedural.tasks = ConfigDict(dict(QUICKSTART_TASKS))
    procedural.questions = 64  # of each task
    procedural.seed = 1_000_003
    if arguments.smoke:
        config.benchmarks = ("reasoning_gym",)
        config.new_tokens = 16
        config.batch = 8
        procedural.questions = 1
    return config
