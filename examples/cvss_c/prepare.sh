#!/usr/bin/env bash
# Prepares CVSS-C for training, step after step; each goes on where it was stopped, so run the same command again.
#
#   examples/cvss_c/prepare.sh LANGUAGE COVOST CVSS HUBERT KMEANS
#   examples/cvss_c/prepare.sh fr covost2/fr cvss-c/fr-en mhubert_base_vp_en_es_fr_it3.pt mhubert_base_vp_en_es_fr_it3_L11_km1000.bin
#
# Environment: PYTHON (default .venv/bin/python, else python3), JOBS (processes, default all cores), DEVICE (of HuBERT,
# default cpu), LAYER (of HuBERT, default 11), PIECES (default 6000), OUTPUT (default: the CVSS folder)
set -euo pipefail

if [ $# -ne 5 ]; then
  sed -n '2,8p' "$0" | sed 's/^# \{0,1\}//'
  exit 2
fi
LANGUAGE=$1 COVOST=$2 CVSS=$3 HUBERT=$4 KMEANS=$5
STEPS=$(cd "$(dirname "$0")/../../scripts/cvss" && pwd)
VENV=$(cd "$(dirname "$0")/../.." && pwd)/.venv/bin/python
PYTHON=${PYTHON:-$([ -x "$VENV" ] && echo "$VENV" || echo python3)}
CORPUS=(--language "$LANGUAGE" --covost "$COVOST" --cvss "$CVSS" --output "${OUTPUT:-$CVSS}")

"$PYTHON" "$STEPS/build_features.py" "${CORPUS[@]}" --jobs "${JOBS:-$(nproc)}"
"$PYTHON" "$STEPS/build_units.py" "${CORPUS[@]}" --hubert "$HUBERT" --layer "${LAYER:-11}" --kmeans "$KMEANS" \
  --device "${DEVICE:-cpu}"
"$PYTHON" "$STEPS/build_manifests.py" "${CORPUS[@]}"
"$PYTHON" "$STEPS/build_text.py" "${CORPUS[@]}" --pieces "${PIECES:-6000}"
echo "ready: examples/cvss_c/train.sh ${OUTPUT:-$CVSS}/fbank2unit"
