//! `--shadow`: the whole job in plaintext, on this machine alone. What numbers does each layer see, would a run on
//! shares bear them, and what does rounding to fixed point cost?

use std::fmt::Write as _;

use plaintext::{Arithmetic, Excess, LayerRanges, Range, excesses, result_limits};
use serde::Serialize;
use shared::job::{JobSpec, Training};

use super::{Outcome, run_from, run_in};
use crate::data::{Dataset, Weights};
use crate::report::{confusion_text, task_name};

/// Layout of the JSON object.
const SCHEMA: &str = "trefoil-shadow/1";

/// What a job does in plaintext.
#[derive(Debug, Serialize)]
pub(crate) struct Shadow {
    schema: &'static str,
    data: String,
    task: &'static str,
    classes: Vec<String>,
    train_rows: usize,
    test_rows: usize,
    parameters: usize,
    steps: usize,
    fraction_bits: u32,
    compare_bits: u32,
    plaintext_accuracy: Option<f64>,
    plaintext_auroc: Option<f64>,
    plaintext_test_loss: Option<f64>,
    plaintext_confusion: Option<Vec<Vec<usize>>>,
    fixed_accuracy: Option<f64>,
    fixed_auroc: Option<f64>,
    fixed_test_loss: Option<f64>,
    weight_difference: f64,
    layers: Vec<Layer>,
    excesses: Vec<Excess>,
}

/// A layer's numbers and below what its results must stay.
#[derive(Debug, Serialize)]
struct Layer {
    #[serde(flatten)]
    ranges: LayerRanges,
    limit: f64,
}

impl Shadow {
    /// Trains and evaluates twice: in float64, and in the job's fixed point.
    pub(crate) fn new(spec: &JobSpec, training: &Training, data: &Dataset, start: Option<Weights<'_>>) -> Self {
        let (model, train, protocol) = (&training.model, &training.train, &spec.protocol);
        let exact = run_from(start, model, train, data, None);
        let fixed = run_in(Arithmetic::fixed(protocol.fraction_bits, train.seed), start, model, train, data, None);
        let limits = result_limits(model, protocol);
        Self {
            schema: SCHEMA,
            data: data.name.clone(),
            task: task_name(data.task),
            classes: data.classes.clone(),
            train_rows: training.train_rows,
            test_rows: training.test_rows,
            parameters: exact.parameters.len(),
            steps: train.steps(training.train_rows),
            fraction_bits: protocol.fraction_bits.bits(),
            compare_bits: protocol.compare_bits,
            plaintext_accuracy: exact.accuracy,
            plaintext_auroc: exact.auroc,
            plaintext_test_loss: exact.loss,
            fixed_accuracy: fixed.accuracy,
            fixed_auroc: fixed.auroc,
            fixed_test_loss: fixed.loss,
            weight_difference: furthest(&exact, &fixed),
            excesses: excesses(model, &exact.ranges, protocol),
            layers: exact.ranges.into_iter().zip(limits).map(|(ranges, limit)| Layer { ranges, limit }).collect(),
            plaintext_confusion: exact.confusion,
        }
    }

    /// Warnings, layer by layer.
    pub(crate) fn remarks(&self) -> Vec<String> {
        self.excesses.iter().map(Excess::text).collect()
    }

    /// One JSON object, keys in a fixed order. Bounds that are not finite are null.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a shadow holds nothing that JSON cannot")
    }

    /// A table of the layers, and the metrics.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "in plaintext, nothing shared: {}, {} training and {} test rows, {} parameters, {} steps\n\n",
            self.data, self.train_rows, self.test_rows, self.parameters, self.steps
        );
        let width = self.layers.iter().map(|layer| layer.ranges.name.len()).max().unwrap_or(0).max(5);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:width$}  {:>10} {:>10} {:>10} {:>10}  {:>10} {:>10} {:>10}",
            "layer", "least", "greatest", "largest", "limit", "gradient", "weight", "variance"
        );
        for Layer { ranges, limit } in &self.layers {
            let results = ranges.results.unwrap_or_default();
            let [least, greatest, largest, limit] = [results.min, results.max, results.largest(), *limit].map(number);
            let [gradient, weight, variance] = [ranges.gradients, ranges.weights, ranges.variances]
                .map(|range| range.map_or(String::new(), |range| number(range.largest())));
            let line = format!(
                "{:width$}  {least:>10} {greatest:>10} {largest:>10} {limit:>10}  {gradient:>10} {weight:>10} ",
                ranges.name
            );
            let _ = writeln!(text, "{}", format!("{line}{variance:>10}").trim_end());
        }
        let _ = writeln!(text, "\n{:24}{:>12}{:>12}", "", "float64", format!("{} bits", self.fraction_bits));
        let metrics = [
            ("test accuracy", self.plaintext_accuracy, self.fixed_accuracy),
            ("test AUROC", self.plaintext_auroc, self.fixed_auroc),
            ("test mean squared error", self.plaintext_test_loss, self.fixed_test_loss),
        ];
        for (name, exact, fixed) in metrics {
            if let (Some(exact), Some(fixed)) = (exact, fixed) {
                let _ = writeln!(text, "{name:24}{exact:>12.4}{fixed:>12.4}");
            }
        }
        let _ = writeln!(text, "{:24}{:>24}", "weights differ at most by", number(self.weight_difference));
        text += &confusion_text("in plaintext, taken for", self.plaintext_confusion.as_deref(), &self.classes);
        for remark in self.remarks() {
            let _ = writeln!(text, "{:10}{remark}", "warning");
        }
        if self.excesses.is_empty() {
            text += "every layer stays within the ranges of comparisons and products\n";
        }
        text
    }
}

/// Largest difference of a parameter.
fn furthest(a: &Outcome, b: &Outcome) -> f64 {
    let differences = a.parameters.iter().zip(&b.parameters).map(|(a, b)| (a - b).abs());
    let mut range = None;
    Range::see(&mut range, &differences.collect::<Vec<_>>());
    range.unwrap_or_default().largest()
}

/// Four digits, and an exponent where it is shorter.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-3..1e5).contains(&size) => {
            let digits = if size < 1.0 {
                4
            } else if size < 100.0 {
                3
            } else {
                1
            };
            format!("{value:.digits$}")
        }
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use shared::config::{BuiltIn, JobFile};
    use shared::fixed::FixedPoint;
    use shared::job::Work;
    use shared::model::ModelName;

    use super::*;
    use crate::job;

    fn shadow(change: impl Fn(&mut JobFile)) -> Shadow {
        let mut file = JobFile::default();
        (file.data.set, file.model.kind, file.model.hidden) = (BuiltIn::Digits, ModelName::Mlp, vec![16]);
        (file.train.epochs, file.train.lr) = (3, 0.1);
        change(&mut file);
        let data = job::load(&file, None).unwrap();
        let spec = job::spec(&file, &data, None, crate::data::Digests::default()).unwrap();
        let Work::Train(training) = &spec.work else { panic!("it trains") };
        Shadow::new(&spec, training, &data, None)
    }

    /// Every key stands in docs/formats.md, and every key there is one.
    #[test]
    fn the_json_has_the_documented_keys() {
        let value: serde_json::Value = serde_json::from_str(&shadow(|_| ()).json()).unwrap();
        let documented = include_str!("../../../docs/formats.md");
        let section = documented.split("## Shadow").nth(1).unwrap().split("\n## ").next().unwrap();
        let mut expected: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut found: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let layer = &value["layers"][0];
        assert_eq!((layer["name"].as_str(), layer["kind"].as_str()), (Some("linear-1"), Some("linear")));
        assert!(layer["results"]["max"].as_f64() > layer["results"]["min"].as_f64());
        assert_eq!(value["plaintext_confusion"].as_array().unwrap().len(), 10);
    }

    #[test]
    fn fewer_bits_are_further_from_float64() {
        let with_bits = |bits| shadow(|file| file.protocol.fraction_bits = FixedPoint::new(bits).unwrap());
        let (coarse, fine) = (with_bits(8), with_bits(18));
        assert_eq!(coarse.plaintext_accuracy, fine.plaintext_accuracy);
        assert!((fine.fixed_accuracy.unwrap() - fine.plaintext_accuracy.unwrap()).abs() < 0.02);
        // A ReLU whose input is within the rounding of zero may pass a gradient or not: more than rounding alone.
        assert!(fine.weight_difference < 0.01 && coarse.weight_difference > 5.0 * fine.weight_difference);
        let text = fine.text();
        assert!(text.contains("18 bits") && text.contains("every layer stays within"), "{text}");
        assert!(text.contains("linear-1") && text.contains("relu-1"), "{text}");
    }

    #[test]
    fn what_leaves_its_range_is_named() {
        let diverging = shadow(|file| (file.train.lr, file.train.epochs) = (100.0, 1));
        assert!(!diverging.excesses.is_empty());
        let text = diverging.text();
        assert!(text.contains("warning") && text.contains("layer \"linear-1\""), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, -0.01234, 2.71, 99_999.0, -1e5, 2.5e-7].map(number);
        assert_eq!(shown, ["0", "-0.0123", "2.710", "99999.0", "-1.00e5", "2.50e-7"]);
    }
}
