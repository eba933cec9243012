"""Rotary position depends on distances only."""

import torch

from echostream_plugin.modules.rotary import rotary_table, rotate


def test_scores_depend_on_the_distance_only():
    torch.manual_seed(0)
    query, key = torch.randn(5, 8), torch.randn(7, 8)
    scores = []
    for origin in (0, -30, 11):
        tables = [rotary_table(torch.arange(count) + origin, 8, torch.float32) for count in (5, 7)]
        scores.append(rotate(query, tables[0]) @ rotate(key, tables[1]).T)
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[2], scores[0], atol=1e-5, rtol=0)
    assert (scores[0] - query @ key.T).abs().max() > 0.1


def test_position_zero_is_left_as_it_is():
    x = torch.randn(2, 1, 6)
    assert torch.equal(rotate(x, rotary_table(torch.zeros(1), 6, torch.float32)), x)
