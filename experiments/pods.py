"""Plans a run on pods that are not here: step time, network bytes, memory of a device.

python -m experiments.pods --config=configs/qwen25_3b_metamath.py --devices=v5e-16,h100-8

Reads neither data nor weights. --output writes the tables and the numbers: pods.md and pods.json,
or pods_compiled.md and pods_compiled.json with --compile.
"""

import jax
from absl import flags

from experiments import console

_CONFIG = console.define_config_flag()
_DEVICES = flags.DEFINE_list(
    "devices", ["v5e-16", "v5p-64", "h100-8"], "Slices: v5e-COUNT, v5p-COUNT or h100-COUNT."
)
_POOL = flags.DEFINE_list(
    "pool", [str(2**power) for power in range(8, 15)], "Candidates of a step, e.g. 256,1024."
)
_MODELS = flags.DEFINE_list(
    "models", [], "Presets instead of the config's model, e.g. qwen2.5-3b,llama3.1-8b."
)
_COMPILE = flags.DEFINE_list(
    "compile",
    [],
    "Instead, compile the step with split weights and print what memory the compiler lays out: "
    "v5e-4 (needs the package libtpu, no TPU) or cpu-4 (simulated devices), ...",
)
_CALIBRATE = flags.DEFINE_bool("calibrate", False, "Also measure small steps on this machine.")
_UTILISATION = flags.DEFINE_float(
    "utilisation", 0.4, "Share of the peak that matrix products are taken to reach."
)
_RESPONSE = flags.DEFINE_float("response", 0.5, "Share of a row's tokens that its loss counts.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write the tables and the numbers to.")
flags.mark_flag_as_required("config")

# Devices that can be simulated for --compile.
_SIMULATED = 64


def main() -> None:
    if _COMPILE.value:
        jax.config.update("jax_num_cpu_devices", _SIMULATED)
    from partitionsel_jax import planning

    config, pools = _CONFIG.value.to_dict(), [_whole(text) for text in _POOL.value]
    if _COMPILE.value:
        planning.write_compiled(config, targets=_COMPILE.value, pools=pools, output=_OUTPUT.value)
        return
    planning.write_plan(
        config,
        devices=_DEVICES.value,
        pools=pools,
        models=_MODELS.value,
        calibrated=_CALIBRATE.value,
        utilisation=_UTILISATION.value,
        response=_RESPONSE.value,
        output=_OUTPUT.value,
    )


def _whole(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"--pool takes numbers of candidates, got {text!r}")
    return int(text)


if __name__ == "__main__":
    console.run(main)
