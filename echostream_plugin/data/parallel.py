"""Work over a corpus: in several processes or on a Ray cluster, in order, under a progress bar; and its shards."""

import argparse
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from echostream_plugin.data import DataError

ROOM = 0.8  # part of the free memory that processes may take by default
BATCH = 8  # items that a process gets at a time
_SOURCE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count`, from 1: every count-th item, so that the parts take about equally long."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that `--shard I/N` names."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise argparse.ArgumentTypeError(f"'{text}' is no shard; write I/N with I from 1 to N, such as 1/4")
        return cls(int(number), int(count))

    def take(self, items: list) -> list:
        """Every count-th item, from the shard's own on."""
        return items[self.number - 1 :: self.count]

    def place(self, path) -> Path:
        """Where this part of a file lies: the file itself if there is one part only."""
        path = Path(path)
        if self.count == 1:
            return path
        return path.parent / "parts" / f"{path.stem}.{self.number}-of-{self.count}{path.suffix}"

    def of_all(self) -> "list[Shard]":
        """All shards of this count."""
        return [Shard(number, self.count) for number in range(1, self.count + 1)]


@dataclass(frozen=True)
class Workers:
    """Who does the work: this process, `jobs` processes of this machine, or `jobs` actors of a Ray cluster.

    ray: None for processes; the address of a cluster; or "" for one of this machine (or of RAY_ADDRESS).
    """

    jobs: int | None = 1  # None: as many as the Ray cluster has room for
    ray: str | None = None
    gpus_each: float = 0  # what Ray reserves for an actor

    def ordered(
        self, function: Callable, items: Iterable, label: str, initializer: Callable | None = None, arguments=()
    ) -> Iterator:
        """Yield function(item) in the order of the items. `initializer(*arguments)` runs once in each worker."""
        items = list(items)
        bar = {"total": len(items), "desc": label, "unit": "utt", "disable": not items, "mininterval": 1.0}
        if not items:
            return
        if self.ray is not None:
            results = self._on_ray(function, items, initializer, arguments)
        elif (self.jobs or 1) > 1 and len(items) > 1:
            results = self._in_processes(function, items, initializer, arguments)
        else:
            if initializer is not None:
                initializer(*arguments)
            results = map(function, items)
        yield from tqdm(results, **bar)

    def _in_processes(self, function, items, initializer, arguments):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        # results wait for the one before them, and for whoever writes them down: no more than so many at a time
        room, stopped = threading.Semaphore(self.jobs * BATCH * 8), threading.Event()

        def throttled():
            for item in items:
                room.acquire()
                if stopped.is_set():
                    return
                yield item

        with multiprocessing.get_context("spawn").Pool(self.jobs, initializer, arguments) as pool:
            try:
                for result in pool.imap(function, throttled(), chunksize=BATCH):
                    room.release()
                    yield result
            finally:
                stopped.set()
                room.release()  # the pool's feeding thread may wait for it

    def _on_ray(self, function, items, initializer, arguments):
        ray, pool_of = import_ray()
        begun_here = not ray.is_initialized()
        if begun_here:
            begin_ray(self.ray or None)
        try:
            actor = ray.remote(num_cpus=1, num_gpus=self.gpus_each, max_restarts=2, max_task_retries=2)(_RayWorker)
            batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
            count = min(self._actors(ray), len(batches))
            pool = pool_of([actor.remote(initializer, arguments) for _ in range(count)])
            for results in pool.map(lambda worker, batch: worker.work.remote(function, batch), batches):
                yield from results
        finally:
            if begun_here:
                ray.shutdown()

    def _actors(self, ray) -> int:
        """No more than there is room for: work given to an actor that waits for a place waits with it, for ever."""
        resources = ray.cluster_resources()
        room = resources.get("GPU", 0) / self.gpus_each if self.gpus_each else resources.get("CPU", 1)
        if room < 1:
            raise DataError("--ray: the cluster has no GPU that is free for this; use --device cpu, or add machines")
        return min(self.jobs or int(room), int(room))


class _RayWorker:
    """One process on some machine of the cluster."""

    def __init__(self, initializer, arguments):
        if initializer is not None:
            initializer(*arguments)

    def work(self, function, batch):
        return [function(item) for item in batch]


def import_ray():
    """(ray, its pool of actors), or what to install."""
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise DataError("--ray needs Ray on every machine of the cluster: pip install 'echostream[ray]'") from error
    return ray, ActorPool


def begin_ray(address: str | None = None, **options) -> None:
    """Connect to a Ray cluster, or begin one on this machine where address is None; options: of ray.init."""
    ray, _ = import_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would give its workers the priority of nice 15: beside anything else that computes they hardly run at all
    os.environ.setdefault("RAY_worker_niceness", "0")
    environment = {"PYTHONPATH": str(_SOURCE_ROOT), "OMP_NUM_THREADS": "1"}
    try:
        ray.init(address=address, runtime_env={"env_vars": environment}, log_to_driver=False, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DataError(f"--ray {address or ''}: no Ray cluster answers there ({error})") from error


def _reach(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise DataError(f"--ray {address}: nobody answers there ({error}); is Ray started?") from error


def add_worker_flags(parser: argparse.ArgumentParser) -> None:
    """--jobs, --ray, --shard, --merge; `workers_of` reads the first two."""
    parser.add_argument(
        "--jobs",
        type=int,
        help="processes, or Ray's actors (default: what cores and free memory have room for; with --ray the cluster's)",
    )
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="work on a Ray cluster whose machines see the same files; without ADDRESS, on this machine's Ray",
    )  # fmt: skip
    parser.add_argument(
        "--shard", type=Shard.parse, default=Shard(), metavar="I/N",
        help="make part I of N only (one machine each; then --merge N on one of them)",
    )  # fmt: skip
    parser.add_argument("--merge", type=int, metavar="N", help="join the N parts that --shard 1/N ... N/N made")


def fitting_jobs(gigabytes_each: float) -> int:
    """As many processes as there are cores, but no more than memory has room for, and one at least."""
    room = int(free_gigabytes() * ROOM / gigabytes_each) if gigabytes_each else 1 << 30
    return max(1, min(os.cpu_count() or 1, room))


def free_gigabytes() -> float:
    """Memory that programs may still take, of the machine and of the container that this runs in."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    described = Path("/proc/meminfo")
    if described.is_file():  # what files occupy counts as free there
        lines = dict(line.split(":", 1) for line in described.read_text().splitlines() if ":" in line)
        free = int(lines.get("MemAvailable", f"{free // 1024} kB").split()[0]) * 1024
    folder = Path("/sys/fs/cgroup")
    limit, used = folder / "memory.max", folder / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(0.0, free / 1e9)


def workers_of(args, gpus_each: float = 0, default_jobs: int | None = None, gigabytes_each: float = 0) -> Workers:
    """The workers that the flags ask for; gigabytes_each: what a process needs, where their number is not given."""
    jobs = args.jobs
    if args.merge is not None and (args.merge < 1 or args.shard.count > 1):
        raise DataError(f"--merge {args.merge}: joins the parts of N >= 1 shards; --shard makes one; give one of them")
    if jobs is None and args.ray is None:
        jobs = default_jobs or fitting_jobs(gigabytes_each)
    if jobs is not None and jobs < 1:
        raise DataError(f"--jobs {jobs}: at least 1 is needed")
    if args.ray is not None:
        import_ray()
        _reach(args.ray)
    return Workers(jobs, args.ray, gpus_each)
