"""Session settings of the whole suite: eight simulated devices and a strict JAX."""

import importlib.metadata
import os
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
# Halves the time that compiling takes. Later versions do not know the flag, and end at it.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Compilation is most of the suite's time, and many tests compile the same programs.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "partitionsel_jax-compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax
import pytest

from tests.tiny_runs import corpus_directory, finished, project_log, tiny, train  # noqa: F401

jax.config.update("jax_numpy_rank_promotion", "raise")

# Modules that compile many or large programs, start processes, or work through many files.
SLOW = {
    "test_ablation",
    "test_accuracies",
    "test_answer_variants",
    "test_answers",
    "test_axes",
    "test_bad_input",
    "test_benchmark",
    "test_bucketed_step",
    "test_buckets",
    "test_checkpoint_forms",
    "test_choosers",
    "test_compressing",
    "test_compression",
    "test_continuation",
    "test_corpora",
    "test_curriculum_run",
    "test_decoder",
    "test_dropout",
    "test_evaluating",
    "test_factored",
    "test_faults",
    "test_feature_table",
    "test_features",
    "test_fetching",
    "test_fidelity",
    "test_filtering",
    "test_flops",
    "test_hostile_checkpoints",
    "test_kill",
    "test_layouts",
    "test_logit_scores",
    "test_losses",
    "test_lowering",
    "test_planning",
    "test_pools",
    "test_preconditioning",
    "test_pretrained",
    "test_pretrained_run",
    "test_processes",
    "test_proxy",
    "test_readme_snippets",
    "test_records",
    "test_replaying",
    "test_report_command",
    "test_report_page",
    "test_results_command",
    "test_results_page",
    "test_scoring_audit",
    "test_select_command",
    "test_selection_contract",
    "test_selection_hypothesis",
    "test_selection_offline",
    "test_selection_oracles",
    "test_selection_transforms",
    "test_selection_utilities",
    "test_shared_features",
    "test_sketches",
    "test_smollm2",
    "test_spread_selection",
    "test_step",
    "test_subset",
    "test_traffic",
    "test_train",
    "test_twins",
    "test_two_sided",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_go_with_their_module():
    """Every one of them is mapped into memory, and Linux allows a process 65,530 mappings."""
    yield
    jax.clear_caches()
