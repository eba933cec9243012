"""The steps of the CVSS-C preparation as modules, on copies of the miniature."""

import shutil

from echostream_plugin.data.cvss import Corpus
from tests.data_prep.miniature_cvss import CENTRES, ToyFeatures
from tests.scripts.conftest import load_script

features_step, units_step = load_script("cvss/build_features"), load_script("cvss/build_units")
manifests_step, text_step = load_script("cvss/build_manifests"), load_script("cvss/build_text")
check_script, downloads_script = load_script("cvss/check"), load_script("cvss/check_downloads")


def copy_of(originals, name, destination, language="fr"):
    shutil.copytree(originals / name, destination / "data")
    return corpus_in(destination / "data", language)


def corpus_in(root, language="fr"):
    covost, cvss = root / "covost2" / language, root / "cvss-c" / f"{language}-en"
    return Corpus(covost, cvss, cvss, language)


def prepare(corpus, max_missing=50):
    features_step.build(corpus, max_missing=max_missing)
    units_step.build(corpus, ToyFeatures, CENTRES)
    manifests_step.build(corpus)
    text_step.build(corpus, size=45, threads=1)


def made(corpus):
    """What preparation left, by name."""
    there = {path.relative_to(corpus.output): path for path in corpus.output.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in there.items() if path.suffix != ".wav"}


def same(one, other, but=None):
    """The same files of the same bytes, but for the absolute paths of the two corpora."""
    files, others = made(one), {name: content for name, content in made(other).items() if not (but and but in name)}
    assert files.keys() == others.keys()
    here, there = str(one.covost.parents[1]).encode(), str(other.covost.parents[1]).encode()
    for name, content in files.items():
        assert content.replace(here, there) == others[name], name


def prepared_folder(originals, tmp_path):
    corpus = copy_of(originals, "whole", tmp_path)
    prepare(corpus)
    return corpus
