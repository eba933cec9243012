"""Results as json, markdown and a picture."""

import dataclasses
from pathlib import Path

from echostream_plugin.benchmark.encoders import CHECKPOINTED
from echostream_plugin.benchmark.measure import Spread
from echostream_plugin.files import write_json, write_text

OFFLINE = ("forward", "forward+backward", CHECKPOINTED)


def as_json(value):
    """Results with their spreads as plain objects."""
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def cell(value) -> str:
    """A number of milliseconds with its quartiles."""
    return f"{value.median:.1f} ({value.low:.1f}-{value.high:.1f})" if isinstance(value, Spread) else str(value)


def table(head: list, rows: list) -> str:
    """A markdown table, closed by a line break."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines) + "\n"


def mega(count) -> str:
    """Millions with one digit; a dash for None."""
    return "-" if count is None else f"{count / 1e6:.1f}"


def age_name(seconds: float) -> str:
    """`5 s`, `10 min`: how old a stream is."""
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:g} min"


def markdown(results: dict) -> str:
    """Everything that was measured, as tables."""
    parts = [f"Command: `{results['command']}`; commit {results['commit']}; {results['machine']}\n"]
    for run in results["runs"]:
        parts.append(f"## {run['threads']} thread(s), {results['device']}\n")
        limits = run["machine"]
        parts.append(
            f"Memory bandwidth {limits['bytes_per_second'] / 1e9:.1f} GB/s, matrix rate "
            f"{limits['operations_per_second'] / 1e9:.0f} GFLOP/s (both measured in this run).\n"
        )
        parts += [f"### {title}\n\n{text}" for title, text in _tables(run)]
        rows = [[name, f"{value:.2f}", wanted] for name, value, wanted in ratios(run)]
        if rows:
            parts.append(f"### Ratios\n\n{table(['ratio', 'measured', 'aim'], rows)}")
    return "\n".join(parts)


def ratios(run: dict) -> list:
    """(name, value, aim) of what this project promises, as far as the run measured it."""
    steps = {stream["name"]: {row["age_s"]: row for row in stream["steps"]} for stream in run["encoders"]}
    offline = {stream["name"]: {row["seconds"]: row for row in stream["offline"]} for stream in run["encoders"]}
    floors = {stream["name"]: stream["floor_ms"] for stream in run["encoders"]}
    found = []

    def add(name, over, under, aim):
        if over is not None and under:
            found.append((name, over / under, aim))

    def step(name, age):
        row = steps.get(name, {}).get(age)
        return row and row["ms"].median

    peer, recomputed = "torchaudio Emformer.infer", "StreamSpeech, recomputed"
    for name in (name for name in steps if name.startswith("EchoStream")):
        compiled = "compiled" in name
        add(f"step at 30 s: {name} / {peer}", step(name, 30), step(peer, 30), f"{0.25 if compiled else 0.5} or less")
        if compiled or "recorded" in name:  # as sessions run it
            most = (1.6 if "encoder" in name else 1.4) if compiled else 1.5
            add(f"step at 30 s: {name} / its floor", step(name, 30), floors[name], f"{most} or less")
            add(f"step at 30 min / at 5 s: {name}", step(name, 1800), step(name, 5), "1.05 or less")
            add(f"step at 30 s: {recomputed} / {name}", step(recomputed, 30), step(name, 30), "80 or more")
        if "int8" in name:
            plain = "EchoStream encoder, float32"
            add(f"step at 30 s: {name} / float32", step(name, 30), step(plain, 30), "0.6 or less")
    for name, rows in offline.items():
        if name.startswith("EchoStream") and rows:
            for work in (work for work in OFFLINE if work in next(iter(rows.values()))):
                if {60, 120} <= rows.keys():
                    add(f"{work}: 120 s / 60 s: {name}", rows[120][work].median, rows[60][work].median, "2.1 or less")
                for seconds in rows:
                    key = f"{work} peak_bytes"
                    add(
                        f"memory of {work} at {seconds} s: {name} / {peer}",
                        rows[seconds][key],
                        offline[peer][seconds][key.replace(CHECKPOINTED, "forward+backward")],
                        "below 1",
                    )
    for kind, rows in _session_kinds(run):
        rtf = {row["seconds"]: row["rtf"] for row in rows}
        for row in rows:
            if row["seconds"] == 30:
                add(f"worst push of a session of 30 s, ms{kind}", row["push_worst_ms"], 1, "320 or less")
                add(f"99th percentile of its pushes, ms{kind}", row["push_p99_ms"], 1, "160 or less")
        add(f"real-time factor of a session of 30 s{kind}", rtf.get(30), 1, "0.10 or less")
        add(f"real-time factor of a session: 300 s / 30 s{kind}", rtf.get(300), rtf.get(30), "1, flat")
    return found


def _session_kinds(run: dict) -> list:
    """Pairs of what a kind of sessions is called and its rows."""
    return [
        ("", run["sessions"]),
        (", vocoder in bfloat16", run["sessions_bf16"]),
        (", code_vocos", run.get("sessions_vocos", [])),
    ]


def _tables(run: dict) -> list:
    ages = sorted({row["age_s"] for stream in run["encoders"] for row in stream["steps"]})
    head = ["ms for 320 ms, at", *map(age_name, ages), "floor", "over floor", "state MB", "peak MB"]
    rows = []
    for stream in run["encoders"]:
        by_age = {row["age_s"]: row for row in stream["steps"]}
        last, first = stream["steps"][-1], stream["steps"][0]
        ratio = f"{first['ms'].median / stream['floor_ms']:.2f}"
        tail = [f"{stream['floor_ms']:.1f}", ratio, mega(last["state_bytes"]), mega(last["peak_bytes"])]
        rows.append([stream["name"], *(cell(by_age[age]["ms"]) if age in by_age else "-" for age in ages), *tail])
    tables = [("Encoder step", table(head, rows))]
    for name in OFFLINE:
        lengths = sorted({row["seconds"] for stream in run["encoders"] for row in stream["offline"]})
        if lengths:
            rows = []
            for stream in (each for each in run["encoders"] if each["offline"] and name in each["offline"][0]):
                by = {row["seconds"]: row for row in stream["offline"]}
                cells = [f"{cell(by[s][name])}, {mega(by[s][name + ' peak_bytes'])} MB" for s in lengths]
                rows.append([stream["name"], *cells])
            tables.append((f"Offline {name}, ms and peak memory", table(["", *map(age_name, lengths)], rows)))
    for kind, sessions in _session_kinds(run):
        if sessions:
            title = f"Whole session{kind}; the stages are parts of the real-time factor"
            tables.append((title, session_table(sessions)))
    if run["vocoder"]:
        tables.append(("Vocoder", vocoder_table(run["vocoder"])))
    if run["batches"]:
        head = ["sessions stacked", "encoder and CTC heads, ms for 320 ms", "sessions at real time"]
        rows = [[row["sessions"], cell(row["ms"]), f"{row['at_real_time']:.0f}"] for row in run["batches"]]
        tables.append(("Many sessions", table(head, rows)))
    if run.get("crowd"):
        tables.append(("Many whole sessions, code_vocos", crowd_table(run["crowd"])))
    if run.get("starts"):
        tables.append(("Starts", start_table(run["starts"])))
    return tables


def session_table(sessions: list) -> str:
    """Markdown of `time_session`'s rows."""
    stages = list(sessions[0]["stages_rtf"])
    head = ["session of", "speech out", "real-time factor", "push ms", "95 %", "99 %", "worst", "first speech", *stages]
    rows = [
        [age_name(row["seconds"]), f"{row['spoken_seconds']:.0f} s", f"{row['rtf']:.3f}", cell(row["push_ms"])]
        + [f"{row[name]:.1f}" for name in ("push_p95_ms", "push_p99_ms", "push_worst_ms")]
        + [cell(row["speech_soonest_ms"]) if row["speech_soonest_ms"] else "-"]
        + [f"{row['stages_rtf'][stage]:.4f}" for stage in stages]
        for row in sessions
    ]
    return table(head, rows)


def crowd_table(rows: list) -> str:
    """Markdown of `time_crowd`'s rows."""
    head = ["sessions", "real-time factor of one", "at real time", "ms for 320 ms of all", "99 %", "calls saved"]
    lines = [
        [row["sessions"], f"{row['rtf']:.4f}", f"{row['at_real_time']:.1f}", cell(row["round_ms"])]
        + [f"{row['round_p99_ms']:.1f}", f"{row['calls_saved']:.0%}"]
        for row in rows
    ]
    return table(head, lines)


def start_table(rows: list) -> str:
    """Markdown of `time_starts`' rows."""
    return table(["start", "ms", "aim, at most"], [[row["name"], cell(row["ms"]), row["aim_ms"]] for row in rows])


def vocoder_table(rows: list, frame_ms: float = 20.0) -> str:
    """Markdown of `time_vocoder`'s rows."""
    lines = [
        [
            row["name"],
            f"{row['push_frames'] * frame_ms:g} ms" if row["push_frames"] else "-",
            cell(row["ms_per_second"]),
            f"{row['ms_per_second'].median / 1000:.3f}",
            "-" if row["floor_ms"] is None else f"{row['ms_per_second'].median / row['floor_ms']:.2f}",
            f"{row['state_bytes'] / 1e3:.0f}" if row["state_bytes"] else "-",
        ]
        for row in rows
    ]
    head = ["vocoder", "push", "ms per second of speech", "real-time factor", "times the floor", "state, kB"]
    return table(head, lines)


def plot(results: dict, path: Path):
    """Encoder step over the age of the stream, and push times of sessions, of the first run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    run = results["runs"][0]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5.2), width_ratios=(3, 2), layout="constrained")
    left.set_prop_cycle(color=pyplot.colormaps["tab20"].colors)
    for stream in run["encoders"]:
        ages = [row["age_s"] for row in stream["steps"]]
        spreads = [row["ms"] for row in stream["steps"]]
        errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        left.errorbar(ages, [s.median for s in spreads], yerr=errors, marker="o", capsize=3, label=stream["name"])
    left.set(xscale="log", yscale="log", xlabel="age of the stream in s", ylabel="ms for 320 ms of speech")
    left.set_title(f"Encoder step, {run['threads']} thread(s)")
    left.grid(True, which="both", alpha=0.25)
    left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    bottom = [0.0] * len(run["sessions"])
    names = [age_name(row["seconds"]) for row in run["sessions"]]
    for stage in run["sessions"][0]["stages_rtf"] if run["sessions"] else []:
        heights = [row["stages_rtf"][stage] for row in run["sessions"]]
        right.bar(names, heights, bottom=bottom, label=stage, width=0.6)
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    right.set(xlabel="length of the session", ylabel="real-time factor", title="Whole session by stage")
    if run["sessions"]:
        right.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def write(results: dict, folder: Path):
    """benchmark.json, benchmark.md, benchmark.png."""
    write_json(folder / "benchmark.json", as_json(results))
    write_text(folder / "benchmark.md", markdown(results))
    plot(results, folder / "benchmark.png")
