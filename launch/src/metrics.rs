//! Test metrics in the clear, for the plaintext twin.

/// Share of rows whose score is right: the sign for one column, the largest of several.
#[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
pub(crate) fn accuracy(scores: &[f64], y: &[f64], outputs: usize) -> f64 {
    let right = classes(scores, y, outputs).filter(|(actual, taken_for)| actual == taken_for);
    right.count() as f64 / (y.len() / outputs).max(1) as f64
}

/// Rows of each class (outer), by the class that they were taken for (inner).
pub(crate) fn confusion(scores: &[f64], y: &[f64], outputs: usize) -> Vec<Vec<usize>> {
    let count = outputs.max(2);
    let mut rows = vec![vec![0; count]; count];
    classes(scores, y, outputs).for_each(|(actual, taken_for)| rows[actual][taken_for] += 1);
    rows
}

/// The class of each row, and the one that its scores say.
fn classes(scores: &[f64], y: &[f64], outputs: usize) -> impl Iterator<Item = (usize, usize)> {
    let rows = scores.chunks_exact(outputs).zip(y.chunks_exact(outputs));
    rows.map(|row| match row {
        ([score], [y]) => (usize::from(*y >= 0.5), usize::from(*score >= 0.0)),
        (scores, y) => (largest(y), largest(scores)),
    })
}

/// First index of the largest value.
fn largest(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, index| if values[index] > values[best] { index } else { best })
}

/// Exact area under the ROC curve: pairs ranked right, ties half. None if a class is absent.
#[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
pub(crate) fn auroc(scores: &[f64], y: &[f64]) -> Option<f64> {
    let of = |positive: bool| scores.iter().zip(y).filter(move |(_, y)| (**y >= 0.5) == positive).map(|(s, _)| *s);
    let mut negatives: Vec<f64> = of(false).collect();
    negatives.sort_unstable_by(f64::total_cmp);
    let pairs = of(true).count() * negatives.len();
    let won = |score: f64| {
        let below = negatives.partition_point(|&negative| negative < score);
        let not_above = negatives.partition_point(|&negative| negative <= score);
        0.5 * (below + not_above) as f64
    };
    (pairs > 0).then(|| of(true).map(won).sum::<f64>() / pairs as f64)
}

/// Mean of the squared differences.
#[allow(clippy::cast_precision_loss, reason = "row counts are far below 2^52")]
pub(crate) fn mean_squared(scores: &[f64], y: &[f64]) -> f64 {
    scores.iter().zip(y).map(|(s, y)| (s - y) * (s - y)).sum::<f64>() / y.len().max(1) as f64
}

/// Median of the values; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => 0.5 * (values[count / 2 - 1] + values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_counts_pairs_and_halves_ties() {
        let y = [0.0, 0.0, 1.0, 1.0];
        assert_eq!(auroc(&[0.1, 0.4, 0.35, 0.8], &y), Some(0.75));
        assert_eq!(auroc(&[0.5; 4], &y), Some(0.5));
        assert_eq!(auroc(&[0.1, 0.2, 0.2, 0.3], &y), Some(0.875));
        assert_eq!(auroc(&[1.0], &[1.0]), None);
    }

    #[test]
    fn accuracy_takes_the_sign_or_the_largest() {
        assert_eq!(accuracy(&[-1.0, 2.0, 0.0, 3.0], &[0.0, 1.0, 1.0, 0.0], 1), 0.75);
        assert_eq!(accuracy(&[0.1, 0.9, 0.8, 0.2], &[0.0, 1.0, 0.0, 1.0], 2), 0.5);
    }

    #[test]
    fn confusion_counts_rows_by_class_and_answer() {
        assert_eq!(confusion(&[-1.0, 2.0, 0.0, 3.0], &[0.0, 1.0, 1.0, 0.0], 1), [[1, 1], [0, 2]]);
        let (a, b, c) = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]);
        let matrix = confusion(&[b, b, c, a].concat(), &[a, b, c, a].concat(), 3);
        assert_eq!(matrix, [[1, 1, 0], [0, 1, 0], [0, 0, 1]]);
        assert_eq!(accuracy(&[b, b, c, a].concat(), &[a, b, c, a].concat(), 3), 0.75);
    }

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
