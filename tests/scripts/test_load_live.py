"""The load test measures what it says, on a tiny bundle for a second."""

import re

import soundfile

from tests.scripts.conftest import load_script
from tests.tiny_bundle import save_tiny_bundle, speechlike

load_live = load_script("load_live")


def test_one_command_prints_the_table_with_those_who_were_refused(tmp_path, capsys):
    bundle = save_tiny_bundle(tmp_path)
    (bundle / "samples").mkdir()
    soundfile.write(bundle / "samples" / "a.wav", speechlike(1.5, 16000), 16000)
    flags = ["--sessions", "1", "3", "--seconds", "1.5", "--room", "2", "--latency"]
    assert load_live.main(["--bundle", str(bundle), *flags]) == 0
    out = capsys.readouterr().out
    assert re.match(r".+, \d+ cores; room for 2 \(--max-sessions 2\)\n", out)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    head, _, one, three = rows
    assert one[:3] == ["1", "1", "0"] and three[:3] == ["3", "2", "1"]
    assert one[head.index("audio lost s")] == three[head.index("audio lost s")] == "0.0"
    assert float(one[head.index("lag ms, median")]) > 0 and len(one) == len(three) == len(head)
    assert "bare session: a push takes" in out and "ms after they were said" in out


def test_figures_are_read_by_their_whole_names():
    metrics = 'a_load 0.5\na_load_total 7.0\nb_bucket{le="0.1"} 3.0\n'
    assert load_live.figure(metrics, "a_load") == 0.5 and load_live.figure(metrics, 'b_bucket{le="0.1"}') == 3.0
    after = 'echostream_reply_seconds_count 9\nechostream_reply_seconds_bucket{le="0.1"} 8\n'
    before = 'echostream_reply_seconds_count 1\nechostream_reply_seconds_bucket{le="0.1"} 1\n'
    assert load_live.replies_later_than(before, after, "0.1").startswith("1 of 8 replies left later than 100 ms")
