"""Work over a corpus in several processes, in order, under a progress bar."""

import multiprocessing
import os


def ordered(function, items, jobs: int, label: str, initializer=None, arguments=()):
    """Yield function(item) in the order of the items; `jobs` processes, or this one alone."""
    from tqdm import tqdm

    items = list(items)
    bar = {"total": len(items), "desc": label, "unit": "utt", "disable": not items, "mininterval": 1.0}
    if jobs <= 1 or len(items) < 2:
        if items and initializer is not None:
            initializer(*arguments)
        yield from tqdm(map(function, items), **bar)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with multiprocessing.get_context("spawn").Pool(jobs, initializer, arguments) as pool:
        yield from tqdm(pool.imap(function, items, chunksize=8), **bar)
