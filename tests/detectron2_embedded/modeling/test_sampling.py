"""Which labels are drawn."""

import torch
from detectron2.modeling.sampling import subsample_labels
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=100, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), max_size=40),
    num_samples=st.integers(1, 30),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    background=st.sampled_from([0, 3]),
)
def test_counts_and_kinds(labels, num_samples, fraction, background):
    labels = torch.tensor(labels, dtype=torch.int64)
    positive, negative = subsample_labels(labels, num_samples, fraction, background)
    are_positive = (labels != -1) & (labels != background)
    available, others = int(are_positive.sum()), int((labels == background).sum())
    wanted = min(int(num_samples * fraction), available)
    assert len(positive) == wanted
    assert len(negative) == min(num_samples - wanted, others)
    assert are_positive[positive].all() and (labels[negative] == background).all()
    drawn = torch.cat((positive, negative)).tolist()
    assert len(set(drawn)) == len(drawn)


def test_every_element_has_the_same_chance():
    torch.manual_seed(0)
    labels = torch.tensor([1] * 6 + [0] * 8 + [-1] * 3)
    counts = torch.zeros(len(labels))
    draws = 3000
    for _ in range(draws):
        counts[torch.cat(subsample_labels(labels, 6, 0.5, 0))] += 1
    chances = counts / draws
    assert (chances[:6] - 3 / 6).abs().max() < 0.05
    assert (chances[6:14] - 3 / 8).abs().max() < 0.05
    assert not counts[14:].any()
