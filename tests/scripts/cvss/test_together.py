"""Shards, processes, Ray and killed runs leave the bytes of one run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import read_index
from echostream_plugin.data.parallel import Shard, Workers, begin_ray
from echostream_plugin.data.source_features import merge_features
from echostream_plugin.data.target_units import merge_units
from echostream_plugin.data.units import read_units
from tests.data_prep.miniature_cvss import CENTRES, ToyFeatures
from tests.scripts.conftest import ROOT
from tests.scripts.cvss.steps import (
    copy_of,
    features_step,
    manifests_step,
    prepare,
    same,
    text_step,
    units_step,
)


def test_shards_joined_are_the_bytes_of_one_run(originals, tmp_path):
    whole = copy_of(originals, "broken", tmp_path / "one")
    prepare(whole)
    parts = copy_of(originals, "broken", tmp_path / "three")
    for shard in Shard(1, 3).of_all():
        features_step.build(parts, shard=shard, max_missing=50)
        units_step.build(parts, ToyFeatures, CENTRES, shard=shard)
        assert len(read_units(shard.place(parts.units_path("dev")))) == 1
        assert 3 <= len(read_index(shard.place(parts.feature_zip))) <= 4
    with pytest.raises(DataError, match=r"src_fbank80.4-of-4.zip|1-of-4.zip: not there; make it with .* --shard 1/4"):
        merge_features(parts, 4)
    features_step.build(parts, merge=3)
    merge_units(parts, 3)
    manifests_step.build(parts)
    text_step.build(parts, size=45, threads=1)
    same(whole, parts, but="parts/")


def test_a_damaged_part_is_found_when_the_parts_are_joined(originals, tmp_path):
    corpus = copy_of(originals, "whole", tmp_path)
    for shard in Shard(1, 2).of_all():
        features_step.build(corpus, shard=shard)
    part = Shard(2, 2).place(corpus.feature_zip)
    content = bytearray(part.read_bytes())
    content[1000] ^= 1
    part.write_bytes(content)
    with pytest.raises(DataError, match="2-of-2.zip: common_voice_fr_01.npy is damaged"):
        merge_features(corpus, 2)


def test_processes_give_the_bytes_of_one_process(originals, tmp_path):
    one, two = copy_of(originals, "whole", tmp_path / "one"), copy_of(originals, "whole", tmp_path / "two")
    for corpus, workers in ((one, Workers(1)), (two, Workers(2))):
        features_step.build(corpus, workers)
        units_step.build(corpus, ToyFeatures, CENTRES, workers)
    same(one, two)


def test_ray_gives_the_bytes_of_one_process(originals, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    one, two = copy_of(originals, "whole", tmp_path / "one"), copy_of(originals, "whole", tmp_path / "two")
    features_step.build(one)
    for name in ("RAY_ADDRESS", "RAY_worker_niceness"):
        monkeypatch.delenv(name, raising=False)
    begin_ray(num_cpus=2, include_dashboard=False)
    try:
        assert list(Workers(None, ray="").ordered(os.nice, [0] * 9, "niceness")) == [os.nice(0)] * 9
        features_step.build(two, Workers(None, ray=""))
    finally:
        ray.shutdown()
    same(one, two)


def test_a_ray_address_where_nobody_is_is_refused_at_once(originals, tmp_path, capsys):
    pytest.importorskip("ray")
    copy_of(originals, "whole", tmp_path)
    assert features_step.main(["--root", str(tmp_path / "data"), "--ray", "127.0.0.1:1"]) == 1
    assert "--ray 127.0.0.1:1: nobody answers there" in capsys.readouterr().err


def test_ray_that_is_not_there_is_asked_for(originals, tmp_path, monkeypatch, capsys):
    corpus = copy_of(originals, "whole", tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert features_step.main(["--root", str(tmp_path / "data"), "--lang", "fr", "--ray"]) == 1
    assert "pip install 'echostream[ray]'" in capsys.readouterr().err and not corpus.feature_zip.exists()


SLOW_STEP = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from echostream_plugin.data import source_features, target_units, units
from echostream_plugin.data.cvss import Corpus
from echostream_plugin.data.parallel import Shard, Workers
from tests.data_prep.miniature_cvss import CENTRES, ToyFeatures

def slowly(function):
    def slow(path):
        time.sleep(0.05)
        return function(path)
    return slow

source_features.features_or_reason = slowly(source_features.features_or_reason)
target_units.units_or_reason = slowly(target_units.units_or_reason)
corpus = Corpus(Path({covost!r}), Path({cvss!r}), Path({cvss!r}), "fr")
source_features.build_features(corpus, Workers(), Shard())
target_units.build_units(corpus, ToyFeatures, CENTRES, Workers(), Shard())
"""


def kill_when(path, lines, corpus):
    """Run both slow steps in a process of their own and kill it when `path` has so many lines."""
    code = SLOW_STEP.format(root=str(ROOT), covost=str(corpus.covost), cvss=str(corpus.cvss))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(originals, tmp_path):
    whole, cut = copy_of(originals, "whole", tmp_path / "whole"), copy_of(originals, "whole", tmp_path / "cut")
    prepare(whole)
    kill_when(cut.output / "src_fbank80.zip.part.jsonl", 3, cut)
    assert not cut.feature_zip.exists()
    kill_when(cut.output / "units" / "dev.txt.part", 1, cut)
    assert cut.feature_zip.exists() and not cut.units_path("dev").exists()
    prepare(cut)
    same(whole, cut)
