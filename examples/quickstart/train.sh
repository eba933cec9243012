#!/usr/bin/env bash
# Trains the quickstart model from nothing: corpus, vocoder, encoder, translation of text, model, punctuator, bundle,
# gate, evaluation.
#
#   examples/quickstart/train.sh [WORK [flags of fairseq-train]]
#
# WORK: folder for everything that is made, default work/quickstart. The flags are for the training of the model.
#
# Every step resumes where it was stopped: run the same command again. Environment:
#   PYTHON           the interpreter to use (default: .venv/bin/python where `make venv` made one, else python3)
#   JOBS             processes for corpus and evaluation (default 2)
#   THREADS          of torch in the trainings (default 2)
#   PROCS            processes that train the model, one thread each and half of an update's sentences each where there
#                    are two (default 2)
#   VOCODER_STEPS    updates of the vocoder (default 40000: a night)
#   ENCODER_UPDATE   updates of the adaptation of Whisper's encoder (default 2000)
#   MT_UPDATE        updates of the MT decoder on text (default 6000: an hour and a half of one core)
#   MAX_UPDATE       updates of the model (default 8000, each of PROCS batches: five hours)
#   STEPS            which steps to run (default "corpus vocoder encoder mt model punctuator bundle gate evaluation")
set -euo pipefail

if [[ ${1:-} == -* ]]; then  # a flag where the folder belongs, or --help
  sed -n '2,19p' "$0" | sed 's/^# \{0,1\}//'
  exit 2
fi
cd "$(dirname "$0")/../.."
WORK=${1:-work/quickstart}
shift $(($# > 0))
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
JOBS=${JOBS:-2}
PROCS=${PROCS:-2}
MAX_UPDATE=${MAX_UPDATE:-8000}
STEPS=${STEPS:-corpus vocoder encoder mt model punctuator bundle gate evaluation}
export OMP_NUM_THREADS=${THREADS:-2}
CORPUS=$WORK/corpus
SAVE=$WORK/checkpoints

step() { [[ " $STEPS " == *" $1 "* ]] && echo "== $1"; }

if step corpus; then
  "$PYTHON" examples/quickstart/build_corpus.py --out "$CORPUS" --jobs "$JOBS"
fi

UNITS=$("$PYTHON" -c "import json, sys; print(json.load(open(sys.argv[1]))['units'])" "$CORPUS/settings.json")
K=$("$PYTHON" -c "import json, sys; print(json.load(open(sys.argv[1]))['clusters'])" "$CORPUS/settings.json")

if step vocoder; then
  "$PYTHON" scripts/train_vocoder.py --kind code_vocos --num-units "$K" \
    --units "$CORPUS/units/$UNITS/train.txt" --dev-units "$CORPUS/units/$UNITS/dev.txt" \
    --wav-dir "$CORPUS/tgt_wav" --out "$WORK/vocoder" --max-steps "${VOCODER_STEPS:-40000}" --adversarial-start 0.6 \
    --max-minutes 0
fi

# Whisper's encoder learns to hear in segments; in the end it still hears people, whom the corpus has few of
if step encoder; then
  "$PYTHON" scripts/adapt_encoder.py --output "$WORK/encoder" --threads "$OMP_NUM_THREADS" \
    --labelled "$CORPUS/fbank2unit/train.tsv" --others "$CORPUS/unlabelled/train.tsv" \
    --dev synthetic="$CORPUS/fbank2unit/dev.tsv" --updates "${ENCODER_UPDATE:-2000}"
fi

# the MT decoder reads the transcript, and learns to translate from ten times more text than is spoken
if step mt; then
  "$PYTHON" examples/quickstart/translation_text.py --corpus "$CORPUS"
  "$PYTHON" scripts/pretrain_mt.py --data "$CORPUS/fbank2unit" --pairs "$CORPUS/text/pairs.tsv" \
    --dev "$CORPUS/text/dev.tsv" --out "$WORK/mt.safetensors" --bf16 --updates "${MT_UPDATE:-6000}" \
    --threads "$OMP_NUM_THREADS"
fi

# beside the corpus, which synthesizers speak, people of other languages: of these the encoder goes on hearing what
# Whisper hears
people_of() { [ -f "$1" ] && [ "$(wc -l < "$1")" -gt 1 ]; }
if step model; then
  OTHERS=()
  people_of "$CORPUS/unlabelled/train.tsv" && OTHERS=(--unlabelled "$CORPUS/unlabelled/train.tsv")
  OMP_NUM_THREADS=$((PROCS > 1 ? 1 : OMP_NUM_THREADS)) "$PYTHON" -m torch.distributed.run --standalone \
    --nproc-per-node "$PROCS" -m fairseq_cli.train "$CORPUS/fbank2unit" --user-dir echostream_plugin \
    --task speech_to_speech_ctc --config-yaml config_gcmvn.yaml --multitask-config-yaml config_mtl_asr_st_ctcst.yaml \
    --target-is-code --target-code-size "$K" --vocoder code_hifigan \
    --criterion speech_to_unit_2pass_ctc_asr_st --label-smoothing 0.1 --k1 0 --n1 1 --k2 0 --n2 1 \
    --multichunk --multichunk-sizes 4,8,16,24 --mt-word-dropout 0.3 --autocast bf16 \
    --arch echostream_whisper --load-whisper-encoder "$WORK/encoder/adapted.safetensors" \
    --encoder-lr-scale 0.07 --mt-decoder ctc_conditioned --load-mt-decoder "$WORK/mt.safetensors" \
    --ctc-upsample-rate 10 \
    "${OTHERS[@]}" --uni-encoder --dropout 0.1 --attention-dropout 0 --relu-dropout 0 \
    --train-subset train --valid-subset dev --save-dir "$SAVE" --tensorboard-logdir "$WORK/tensorboard" \
    --optimizer adam --adam-betas "(0.9,0.98)" --clip-norm 5.0 --lr 0.001 --warmup-updates 500 \
    --lr-scheduler polynomial_decay --total-num-update "$MAX_UPDATE" --power 1 --end-learning-rate 0 --max-tokens 8000 --max-target-positions 1200 \
    --max-update "$MAX_UPDATE" --save-interval-updates 500 --keep-interval-updates 5 --no-epoch-checkpoints \
    --validate-interval-updates 500 --validate-interval 1000 --num-workers 1 --seed 1 --cpu --log-interval 50 "$@"
fi

if step punctuator; then
  "$PYTHON" examples/quickstart/punctuation_text.py --out "$WORK/punctuation_text"
  "$PYTHON" scripts/train_punctuator.py --languages es en --out "$WORK/punctuator" \
    --text es:"$WORK/punctuation_text/train.es.txt" --text en:"$WORK/punctuation_text/train.en.txt"
fi

if step bundle; then
  SAMPLES=()
  for lists in "$CORPUS"/simuleval/test-{espeak,pico,kokoro}; do
    [ -d "$lists" ] && SAMPLES+=(--samples "$lists:0,1")
  done
  "$PYTHON" -m echostream_plugin.cli bundle --overwrite --checkpoint "$SAVE/checkpoint_best.pt" --int8 encoder \
    --data "$CORPUS/fbank2unit" --languages es en --vocoder "$WORK/vocoder" --punctuator "$WORK/punctuator" \
    --card examples/quickstart/card.json "${SAMPLES[@]}" --recordings examples/quickstart/recordings \
    --session '{"chunk_ms": 960, "lagging_k1": 1, "whole_word": false, "fresh_encoder": true, "vad": true, "max_repeats": 4, "speech_factor": 3.0}' --out "$WORK/bundle"
fi

if step gate; then
  PEOPLE=()  # of dev there are none; without any, a gate knows synthesizers only
  grep -qs "$(printf '\thuman\t')" "$CORPUS/text/train.tsv" && PEOPLE=(--speech "$CORPUS/text/train.tsv:human:2")
  LANGUAGES=()
  if [ -f "$CORPUS/languages/others.tsv" ]; then
    LANGUAGES=(--language "$CORPUS/text/train.tsv" --language "$CORPUS/languages/source.tsv"
      --other-languages "$CORPUS/languages/others.tsv")
    people_of "$CORPUS/unlabelled/train.tsv" && LANGUAGES+=(--other-languages "$CORPUS/unlabelled/train.tsv")
  fi
  "$PYTHON" scripts/calibrate_gate.py --bundle "$WORK/bundle" --speech "$CORPUS/simuleval/dev" "${PEOPLE[@]}" \
    --not-speech "$CORPUS/not_spanish/dev.tsv" "${LANGUAGES[@]}" --refuse 2 --jobs "$JOBS" --write
fi

if step evaluation; then
  "$PYTHON" -m echostream_plugin.cli evaluate --bundle "$WORK/bundle" --data "$CORPUS/simuleval/test" \
    --units "$CORPUS/fbank2unit/test.unit" --output "$WORK/evaluation" --jobs "$JOBS"
  "$PYTHON" scripts/evaluate_voices.py --bundle "$WORK/bundle" --corpus "$CORPUS" \
    --output "$WORK/evaluation" --jobs "$JOBS"
fi
