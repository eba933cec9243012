"""Does a prepared folder hold together? Every file that training and evaluation read, compared with the others."""

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml
from tqdm import tqdm

from echostream_plugin.constants import MEL_BINS, SPECIALS
from echostream_plugin.data import DataError
from echostream_plugin.data.feature_zip import Moments, index_path, read_index
from echostream_plugin.data.tables import MANIFEST_COLUMNS, read_table
from echostream_plugin.data.waveforms import frames_of
from echostream_plugin.inference.words import normalise
from echostream_plugin.units import units_of

SPLITS = ("train", "dev", "test")
READ_WHOLE_EVERY = 100  # a quick check reads every member's header, and of these the numbers too


@dataclass(frozen=True)
class Check:
    """One thing looked at: `problem` is empty where it is as it should be."""

    what: str
    found: str
    problem: str = ""


def read_span(file, offset: int, size: int, whole: bool) -> tuple[tuple, str, np.ndarray | None]:
    """(shape, problem, features or None) of the npy at a byte offset of an open zip."""
    file.seek(offset)
    content = io.BytesIO(file.read(size if whole else min(size, 256)))
    try:
        if whole:
            features = np.load(content)
            finite = np.isfinite(features).all()
            return features.shape, "" if finite else "a feature is not finite", features
        if np.lib.format.read_magic(content) != (1, 0):
            return (), "is no npy of version 1", None
        shape, _, kind = np.lib.format.read_array_header_1_0(content)
        end = content.tell() + int(np.prod(shape)) * kind.itemsize
        return shape, "" if end == size else f"the array ends at {end} of {size} bytes", None
    except (ValueError, EOFError) as error:
        return (), f"is no npy ({error})", None


def check_zip(path, deep: bool = False, progress: bool = True) -> Check:
    """Every member of the index opens at its offset and has the frames that the index says; deep: checksums too."""
    path = Path(path)
    try:
        index = read_index(path)
    except DataError as error:
        return Check(path.name, "", str(error))
    problems = []
    with open(path, "rb") as file:
        entries = tqdm(index.values(), desc=f"check {path.name}", unit="utt", disable=not progress, mininterval=1.0)
        for number, entry in enumerate(entries):
            whole = deep or number % READ_WHOLE_EVERY == 0
            shape, problem, _ = read_span(file, entry["offset"], entry["size"], whole)
            if not problem and shape != (entry["frames"], MEL_BINS):
                problem = f"has shape {list(shape)}, its index says [{entry['frames']}, {MEL_BINS}]"
            if not problem and deep:
                file.seek(entry["offset"])
                problem = "" if zlib.crc32(file.read(entry["size"])) == entry["crc"] else "is damaged (checksum)"
            if problem:
                problems.append(f"{entry['id']} {problem}")
    return Check(path.name, f"{len(index)} utterances, {path.stat().st_size / 1e9:.2f} GB", summary(problems))


def check_cmvn(path) -> Check:
    """mean and std of 80 features, finite, no std of 0."""
    path = Path(path)
    try:
        with np.load(path) as stored:
            mean, std = stored["mean"], stored["std"]
    except (OSError, KeyError, ValueError) as error:
        return Check(path.name, "", f"{path}: cannot be read ({error!r}); make it with build_features.py")
    problem = ""
    if mean.shape != (MEL_BINS,) or std.shape != (MEL_BINS,):
        problem = f"shapes {list(mean.shape)} and {list(std.shape)}, expected [{MEL_BINS}]"
    elif not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        problem = "a value is not finite, or a standard deviation is 0"
    return Check(path.name, f"mean {mean.mean():.2f}, std {std.mean():.2f}", problem and f"{path}: {problem}")


def check_units(path, clusters: int | None = None, names: list | None = None) -> Check:
    """Lines `id|u u u` with units below `clusters`, in the order of `names` where that is given."""
    from echostream_plugin.data.units import read_units

    try:
        units = read_units(path)
    except DataError as error:
        return Check(Path(path).name, "", str(error))
    problems = [f"{name}: unit {max(u)}, clusters {clusters}" for name, u in units.items() if over(u, clusters)]
    if names is not None and list(units) != list(names):
        problems.append(f"{len(units)} utterances, not the {len(names)} of the tables in their order")
    total = sum(map(len, units.values()))
    return Check(f"units/{Path(path).name}", f"{len(units)} utterances, {total / 50 / 3600:.2f} h", summary(problems))


def over(units, clusters: int | None) -> bool:
    """Is any unit no number of a cluster? clusters: how many there are, None: not known."""
    return bool(units) and (min(units) < 0 or (clusters is not None and max(units) >= clusters))


def summary(problems: list[str]) -> str:
    """'' or the first problem and how many there are."""
    return f"{problems[0]}" + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "") if problems else ""


class Prepared:
    """A folder in StreamSpeech's layout, by whomever it was made."""

    def __init__(self, folder, clusters: int | None = 1000, deep: bool = False):
        self.folder, self.clusters, self.deep = Path(folder), clusters, deep
        self.data = self.folder / "fbank2unit"
        self.manifests: dict[str, list[dict]] = {}

    def checks(self) -> Iterator[Check]:
        """All that there is to look at, one after the other."""
        if index_path(self.folder / "src_fbank80.zip").is_file():
            yield check_zip(self.folder / "src_fbank80.zip", self.deep)
        yield check_cmvn(self.folder / "gcmvn.npz")
        yield from self.tables()
        if self.deep and self.manifests.get("train"):
            yield from self._guarded("gcmvn.npz again", self._moments)
        yield from self.text()

    def tables(self) -> Iterator[Check]:
        """The manifests with what they point at, the units, and SimulEval's lists."""
        for split in SPLITS:
            yield from self._guarded(f"fbank2unit/{split}.tsv", self._manifest, split)
        for split in SPLITS if self.manifests else ():
            if (self.folder / "units" / f"{split}.txt").is_file():
                yield check_units(self.folder / "units" / f"{split}.txt", self.clusters)
            if split != "train" or (self.folder / "simuleval" / split).is_dir():
                yield from self._guarded(f"simuleval/{split}", self._simuleval, split)

    def text(self) -> Iterator[Check]:
        """The yamls, dictionaries, and tables of subwords."""
        yield from self._guarded("config_gcmvn.yaml", self._data_config)
        yield from self._guarded("config_mtl_asr_st_ctcst.yaml", self._tasks)

    def _guarded(self, what: str, look, *arguments) -> Iterator[Check]:
        """Checks of one file; what cannot be read is a problem of that file, and the others are looked at still."""
        try:
            yield from look(*arguments)
        except (DataError, OSError, KeyError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            yield Check(what, "", str(error) or repr(error))

    def _manifest(self, split: str):
        path = self.data / f"{split}.tsv"
        rows = self.manifests[split] = read_table(path, MANIFEST_COLUMNS)
        problems = [] if rows else ["no rows"]
        if len({row["id"] for row in rows}) < len(rows):
            problems.append("an id is there twice")
        problems += [f"{row['id']}: {problem}" for row in rows if (problem := self._row_problem(row))]
        problems += self._source_problems(split, rows)
        hours = sum(int(row["src_n_frames"]) for row in rows) / 360000
        yield Check(f"fbank2unit/{split}.tsv", f"{len(rows)} utterances, {hours:.2f} h", summary(problems))
        yield Check(f"fbank2unit/{split}.src .txt .unit", "", summary(self._list_problems(split, rows)))

    def _row_problem(self, row: dict) -> str:
        units = units_of(row["tgt_audio"])
        if len(units) != int(row["tgt_n_frames"]) or not units:
            return f"{len(units)} units, tgt_n_frames {row['tgt_n_frames']}"
        if over(units, self.clusters):
            return f"unit {max(units)} of {self.clusters}"
        if any(unit == following for unit, following in zip(units, units[1:], strict=False)):
            return "units are not reduced (a unit follows itself)"
        return "" if row["tgt_text"].strip() else "tgt_text is empty"

    def _source_problems(self, split: str, rows: list[dict]) -> list[str]:
        """Do the features at the offsets have the frames that the manifest says?"""
        problems, files = [], {}
        for number, row in enumerate(tqdm(rows, desc=f"check {split}.tsv", unit="utt", mininterval=1.0)):
            if row["src_audio"].count(":") < 2:
                problems += self._recording_problems(row)
                continue
            name, offset, size = row["src_audio"].rsplit(":", 2)
            path = self.data / name  # an absolute name stays what it is
            if name not in files:
                if not path.is_file():
                    return [f"{row['id']}: {path} is not there"]
                files[name] = open(path, "rb")
            whole = number % READ_WHOLE_EVERY == 0
            shape, problem, _ = read_span(files[name], int(offset), int(size), whole)
            if not problem and shape != (int(row["src_n_frames"]), MEL_BINS):
                problem = f"has shape {list(shape)}, src_n_frames is {row['src_n_frames']}"
            if problem:
                problems.append(f"{row['id']} at {row['src_audio']}: {problem}")
        for file in files.values():
            file.close()
        return problems

    def _recording_problems(self, row: dict) -> list[str]:
        """Is the recording that a manifest names there, and as long as it says?"""
        path = self.data / row["src_audio"]
        if not path.is_file():
            return [f"{row['id']}: {path} is not there"]
        try:
            frames = frames_of(path)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            return [f"{row['id']}: {path} is not a readable recording ({error})"]
        wrong = frames != int(row["src_n_frames"])
        return [f"{row['id']}: {path} has {frames} frames, src_n_frames is {row['src_n_frames']}"] * wrong

    def _list_problems(self, split: str, rows: list[dict]) -> list[str]:
        wanted = {
            "src": [normalise(row["src_text"]) for row in rows],
            "txt": [row["tgt_text"].lower() for row in rows],
            "unit": [row["tgt_audio"] for row in rows],
        }
        problems = []
        for kind, lines in wanted.items():
            there = lines_of(self.data / f"{split}.{kind}")
            if kind == "src":
                there = [normalise(line) for line in there]
            if there != lines:
                problems.append(f"{split}.{kind} is not that of {split}.tsv ({len(there)} lines, {len(lines)} rows)")
        return problems

    def _moments(self):
        moments = Moments()
        index = read_index(self.folder / "src_fbank80.zip")
        with open(self.folder / "src_fbank80.zip", "rb") as file:
            for row in tqdm(self.manifests["train"], desc="mean and variance again", unit="utt"):
                entry = index[row["id"]]
                moments.add(read_span(file, entry["offset"], entry["size"], True)[2])
        with np.load(self.folder / "gcmvn.npz") as stored:
            away = float(np.abs(stored["mean"] - moments.total / moments.count).max())
        # a clip whose English speech is missing has features but no row
        problem = "" if away < 0.05 else "gcmvn.npz is not of this training split"
        yield Check("gcmvn.npz again", f"mean differs by {away:.4f} at most", problem)

    def _simuleval(self, split: str):
        folder = self.folder / "simuleval" / split
        names = ["wav_list", "target", "src"] + ["unit"] * (folder / "unit.txt").is_file()
        lists = {name: lines_of(folder / f"{name}.txt") for name in names}
        sizes = {name: len(lines) for name, lines in lists.items()}
        problems = [] if len(set(sizes.values())) == 1 else [f"lists of different lengths: {sizes}"]
        ids = self._names(split, lists["wav_list"])
        units = {row["id"]: row["tgt_audio"] for row in self.manifests.get(split, ())}
        if set(ids) != set(units):
            problems.append(f"{len(set(ids) ^ set(units))} utterances are in wav_list.txt or {split}.tsv but not both")
        elif not problems and "unit" in lists and [units[name] for name in ids] != lists["unit"]:
            problems.append("unit.txt is not in the order of wav_list.txt")
        missing = [wav for wav in lists["wav_list"] if not os.path.isfile(wav)]
        if missing:
            problems.append(f"{missing[0]} is not there, of wav_list.txt {len(missing)} in all")
        yield Check(f"simuleval/{split}", f"{len(ids)} utterances", summary(problems))

    def _names(self, split: str, wavs: list[str]) -> list[str]:
        """The utterance of each recording of wav_list.txt: by the table of utterances, else by the file's name."""
        table = self.folder / "utterances" / f"{split}.tsv"
        rows = read_table(table, ("id", "src_wav")) if table.is_file() else ()
        known = {str(Path(row["src_wav"]).resolve()): row["id"] for row in rows}
        return [known.get(wav, Path(wav).stem) for wav in wavs]

    def _data_config(self):
        config = read_yaml(self.data / "config_gcmvn.yaml")
        path = self.data / config["global_cmvn"]["stats_npz_path"]
        yield Check("config_gcmvn.yaml", "", "" if path.is_file() else f"stats_npz_path: {path} is not there")

    def _tasks(self):
        tasks = read_yaml(self.data / "config_mtl_asr_st_ctcst.yaml")
        wanted = {"target_unigram", "source_unigram", "ctc_target_unigram"}
        problem = "" if wanted <= set(tasks) else f"no task {', '.join(sorted(wanted - set(tasks)))}"
        yield Check("config_mtl_asr_st_ctcst.yaml", f"{len(tasks)} tasks", problem)
        for dictionary, folder in sorted({(str(task["dict"]), str(task["data"])) for task in tasks.values()}):
            yield self._dictionary(self.data / dictionary, self.data / folder)

    def _dictionary(self, dictionary: Path, folder: Path) -> Check:
        """The dictionary is the SentencePiece model's, its tables have the manifests' ids and only its subwords."""
        subwords = [line.rsplit(" ", 1)[0] for line in lines_of(dictionary)]
        problems, model = [], dictionary.with_suffix(".model")
        if len(set(subwords)) < len(subwords):
            problems.append("a piece is there twice")
        if model.is_file():
            from echostream_plugin.data.subwords import load_subwords

            processor = load_subwords(model)
            if [processor.id_to_piece(i) for i in range(len(SPECIALS), processor.get_piece_size())] != subwords:
                problems.append(f"not the subwords of {model.name} in their order")
        unknown, known = 0, set(subwords)  # a character that training never had is its own subword
        for split in SPLITS:
            manifest = self.manifests.get(split) or read_table(self.data / f"{split}.tsv", ("id",))
            rows = read_table(folder / f"{split}.tsv", ("id", "tgt_text"))
            if [row["id"] for row in rows] != [row["id"] for row in manifest]:
                problems.append(f"{folder.name}/{split}.tsv has other ids than fbank2unit/{split}.tsv")
            used = [piece for row in rows for piece in row["tgt_text"].split()]
            outside = sum(piece not in known for piece in used)
            unknown += outside
            if split == "train" and outside > len(used) / 100:
                problems.append(f"{outside} of {len(used)} subwords of {folder.name}/{split}.tsv are not in it")
        found = f"{len(subwords)} subwords, {unknown} in the tables unknown"
        return Check(f"{folder.name}/{dictionary.name}", found, summary(problems))


def lines_of(path: Path) -> list[str]:
    """Lines of a text file."""
    return path.read_text(encoding="utf-8").splitlines()


def read_yaml(path: Path) -> dict:
    """A yaml file as dicts and lists."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def print_table(checks) -> int:
    """A line a check as it comes; returns how many have a problem."""
    bad = 0
    for check in checks:
        bad += bool(check.problem)
        tqdm.write(f"{'BAD ' if check.problem else 'ok  '} {check.what:34s} {check.found}".rstrip())
        if check.problem:
            tqdm.write(f"     {check.problem}")
    return bad


def require(*checks: Check) -> None:
    """After a step: its own output is as it should be, or an error."""
    for check in checks:
        if check.problem:
            raise DataError(f"{check.what}: {check.problem}")
        tqdm.write(f"ok   {check.what}: {check.found}")
