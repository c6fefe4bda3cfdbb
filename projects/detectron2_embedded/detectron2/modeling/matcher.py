"""Which ground truth an anchor or a proposal belongs to."""

import math

import torch


class Matcher:
    """Gives every prediction its best ground truth, and a label by how good that match is."""

    def __init__(self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False) -> None:
        """
        Args:
            thresholds: rising, positive; they divide the qualities into len(thresholds) + 1 intervals, each
                closed below and open above.
            labels: one per interval: 0 negative, 1 positive, -1 ignored.
            allow_low_quality_matches: also label as positive the predictions that are the best for some
                ground truth (several where they tie), whatever that quality is.

        Raises:
            AssertionError: thresholds or labels that do not fit this description.
        """
        assert len(thresholds) > 0 and thresholds[0] > 0, f"Thresholds are positive, got {list(thresholds)}."
        assert list(thresholds) == sorted(thresholds), f"Thresholds rise, got {list(thresholds)}."
        assert set(labels) <= {-1, 0, 1}, f"Labels are -1, 0 or 1, got {list(labels)}."
        assert len(labels) == len(thresholds) + 1, (
            f"{len(thresholds)} thresholds need {len(thresholds) + 1} labels, got {len(labels)}."
        )
        self.thresholds = [-math.inf, *thresholds, math.inf]
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            match_quality_matrix: (M ground truths, N predictions), IoU for instance, not negative.

        Returns:
            int64 (N,), the index of the best ground truth (the first where several tie); int8 (N,), the
            labels. Without ground truth, indices are 0 and labels those of the lowest interval.
        """
        assert match_quality_matrix.dim() == 2, (
            f"Expected (ground truths, predictions), got shape {tuple(match_quality_matrix.shape)}."
        )
        device, num_predictions = match_quality_matrix.device, match_quality_matrix.shape[1]
        labels = torch.full((num_predictions,), self.labels[0], dtype=torch.int8, device=device)
        if match_quality_matrix.numel() == 0:
            return torch.zeros(num_predictions, dtype=torch.int64, device=device), labels

        quality, matches = match_quality_matrix.max(dim=0)
        for threshold, label in zip(self.thresholds[1:-1], self.labels[1:]):
            labels.masked_fill_(quality >= threshold, label)
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(labels, match_quality_matrix)
        return matches, labels

    def set_low_quality_matches_(self, match_labels: torch.Tensor, match_quality_matrix: torch.Tensor) -> None:
        """Label as positive, in place, the predictions that are the best for some ground truth.

        Args:
            match_labels: (N,).
            match_quality_matrix: (M, N).
        """
        best_of_ground_truth = match_quality_matrix.amax(dim=1, keepdim=True)
        match_labels.masked_fill_((match_quality_matrix == best_of_ground_truth).any(dim=0), 1)
