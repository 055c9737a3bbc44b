#!/bin/sh
# Install vLLM for CPUs into an environment of its own, for `secondlook bench peers`:
#
#     benchmarks/peers/install-vllm.sh FOLDER
#
# PYTHON names the interpreter, 3.11 to 3.13. torch comes first, from wherever pip finds it: the build for CPUs
# is enough. All else goes in without its dependencies, in the versions beside this script, for the wheel asks
# for builds of torchaudio, torchcodec and triton that are not needed here.
set -eu
folder=${1:?the folder of the environment}
here=$(cd "$(dirname "$0")" && pwd)
"${PYTHON:-python3}" -m venv "$folder"
pip() { "$folder/bin/python" -m pip "$@"; }
pip install torch==2.13.0
pip install --no-deps -r "$here/requirements-vllm.txt"
if grep -qs AuthenticAMD /proc/cpuinfo; then # faster matrix products there, vLLM's extra "zen"
    pip install --no-deps zentorch==2.13.0.1 deprecated==1.3.1 wrapt==2.5.2
fi
# A torchvision that was built for CUDA's torch has no operators beside the CPU's, and is imported all the same,
# but for two operators whose shapes it describes without asking whether they are there.
sed -i 's/^@torch\.library\.register_fake(\(.*\))$/@(torch.library.register_fake(\1) if torchvision.extension._has_ops() else lambda shape: shape)/' \
    "$folder"/lib/python3.*/site-packages/torchvision/_meta_registrations.py
"$folder/bin/python" -c "import vllm.model_executor.models.llava; print('vLLM', vllm.__version__, 'is in', '$folder')"
