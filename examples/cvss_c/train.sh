#!/usr/bin/env bash
# Trains EchoStream on a prepared CVSS-C folder with StreamSpeech's recipe (4 GPUs; on fewer, raise UPDATE_FREQ alike).
#
#   examples/cvss_c/train.sh cvss-c/fr-en/fbank2unit [flags of fairseq-train]
#
# The same command goes on from the last checkpoint. Environment: PYTHON, SAVE (default checkpoints/echostream.cvss_c),
# ARCH (default echostream; echostream_base is 256 wide), UPDATE_FREQ (default 2), MAX_TOKENS (default 22000)
set -euo pipefail

if [ $# -lt 1 ]; then
  sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//'
  exit 2
fi
DATA=$1
shift
cd "$(dirname "$0")/../.."
[ -d "$DATA" ] || DATA=$OLDPWD/$DATA
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

"$PYTHON" -m fairseq_cli.train "$DATA" --user-dir echostream_plugin \
  --config-yaml config_gcmvn.yaml --multitask-config-yaml config_mtl_asr_st_ctcst.yaml \
  --task speech_to_speech_ctc --target-is-code --target-code-size 1000 --vocoder code_hifigan \
  --criterion speech_to_unit_2pass_ctc_asr_st --label-smoothing 0.1 --rdrop-alpha 0.0 \
  --arch "${ARCH:-echostream}" --share-decoder-input-output-embed --uni-encoder \
  --k1 0 --n1 1 --k2 0 --n2 1 --chunk-size 8 --multichunk \
  --dropout 0.1 --attention-dropout 0.1 --relu-dropout 0.1 \
  --train-subset train --valid-subset dev --save-dir "${SAVE:-checkpoints/echostream.cvss_c}" \
  --validate-interval 1000 --validate-interval-updates 1000 --save-interval-updates 1000 \
  --keep-interval-updates 40 --keep-best-checkpoints 20 --keep-last-epochs 15 \
  --optimizer adam --adam-betas "(0.9,0.98)" --clip-norm 1.0 \
  --lr 0.001 --lr-scheduler inverse_sqrt --warmup-init-lr 1e-7 --warmup-updates 10000 \
  --max-tokens "${MAX_TOKENS:-22000}" --max-target-positions 1200 --update-freq "${UPDATE_FREQ:-2}" \
  --seed 1 --fp16 --num-workers 8 --no-progress-bar --log-format json --log-interval 100 "$@"
