#!/usr/bin/env bash
# Prepares CVSS-C for training, step after step; each resumes where it was stopped, so run the same command again.
#
#   examples/cvss_c/prepare.sh LANG [ROOT]          LANG: fr, es, de ...; ROOT (default .) has covost2/LANG,
#   examples/cvss_c/prepare.sh fr data              cvss-c/LANG-en and models/ as check_downloads.py asks for them
#
# On N machines with one folder: SHARD=1/N ... SHARD=N/N, one on each, for features and units; then MERGE=N on one of
# them joins the parts and makes the rest. On a Ray cluster: RAY=ADDRESS (RAY= for this machine's).
# Environment: HUBERT, KMEANS (default ROOT/models/mhubert_base_vp_en_es_fr_it3.pt and ..._L11_km1000.bin), VOCODER
# (folder, noted in the config if it is there; default ROOT/models/vocoder), COVOST, CVSS, OUTPUT (default CVSS),
# JOBS (default: what cores and free memory have room for), DEVICE (of HuBERT, default cpu), LAYER (11), SUBWORDS (6000), CLUSTERS (1000),
# MAX_MISSING (percent of recordings, 1), PYTHON (default .venv/bin/python, else python3)
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,13p' "$0" | sed 's/^# \{0,1\}//'
  exit 2
fi
LANGUAGE=$1 ROOT=${2:-.}
HERE=$(cd "$(dirname "$0")/../.." && pwd)
STEPS=$HERE/scripts/cvss
PYTHON=${PYTHON:-$([ -x "$HERE/.venv/bin/python" ] && echo "$HERE/.venv/bin/python" || echo python3)}
COVOST=${COVOST:-$ROOT/covost2/$LANGUAGE} CVSS=${CVSS:-$ROOT/cvss-c/$LANGUAGE-en}
OUTPUT=${OUTPUT:-$CVSS}
HUBERT=${HUBERT:-$ROOT/models/mhubert_base_vp_en_es_fr_it3.pt}
KMEANS=${KMEANS:-$ROOT/models/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin}
VOCODER=${VOCODER:-$ROOT/models/vocoder}
CORPUS=(--lang "$LANGUAGE" --covost "$COVOST" --cvss "$CVSS" --output "$OUTPUT")

WORK=(--max-missing "${MAX_MISSING:-1}")
[ -z "${JOBS:-}" ] || WORK+=(--jobs "$JOBS")
[ -z "${RAY+x}" ] || WORK+=(--ray ${RAY:+"$RAY"})
[ -z "${SHARD:-}" ] || WORK+=(--shard "$SHARD")
[ -z "${MERGE:-}" ] || WORK+=(--merge "$MERGE")

"$PYTHON" "$STEPS/build_features.py" "${CORPUS[@]}" "${WORK[@]}"
"$PYTHON" "$STEPS/build_units.py" "${CORPUS[@]}" "${WORK[@]}" --hubert "$HUBERT" --layer "${LAYER:-11}" \
  --kmeans "$KMEANS" --device "${DEVICE:-cpu}"
if [ -n "${SHARD:-}" ]; then
  echo "part $SHARD is made; when all are: MERGE=${SHARD#*/} $0 $LANGUAGE ${2:-}"
  exit 0
fi
"$PYTHON" "$STEPS/build_manifests.py" "${CORPUS[@]}"
TEXT=(--subwords "${SUBWORDS:-${PIECES:-6000}}")
[ ! -f "$VOCODER/g_00500000" ] || TEXT+=(--vocoder "$VOCODER/g_00500000" "$VOCODER/config.json")
"$PYTHON" "$STEPS/build_text.py" "${CORPUS[@]}" "${TEXT[@]}"
"$PYTHON" "$STEPS/check.py" "$OUTPUT" --clusters "${CLUSTERS:-1000}"
echo "ready: examples/cvss_c/train.sh $OUTPUT/fbank2unit"
