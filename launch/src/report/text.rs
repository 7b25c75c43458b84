//! The report for people.

use std::collections::BTreeMap;

use super::Report;

/// Classes whose confusions fit a screen.
const CONFUSION_CLASSES_MAX: usize = 10;

impl Report {
    /// A screenful.
    pub(crate) fn text(&self) -> String {
        let mut lines = vec![
            format!(
                "job {}: {} parties, {} each, {}",
                self.job_id,
                self.parties,
                count(self.lanes, "lane"),
                self.device
            ),
            format!(
                "{}: {} training and {} test rows, {} features, {}; {} parameters, {} passes, batch {}",
                self.data,
                self.train_rows,
                self.test_rows,
                self.features,
                self.task,
                self.parameters,
                self.epochs,
                self.batch
            ),
        ];
        lines.extend(self.missing_line());
        lines.push(String::new());
        lines.push(format!("{:22}{:>12}{:>14}", "", "under MPC", "plaintext"));
        lines.extend(self.metric_lines());
        lines.push(match &self.confusion {
            Some(opened) => confusion_text("under MPC, taken for", Some(opened), &self.classes),
            None => confusion_text("in plaintext, taken for", self.plaintext_confusion.as_deref(), &self.classes),
        });
        lines.push(row(
            "time per step",
            &format!(
                "{} median ({} to {}); {} steps in {}, start-up {}",
                seconds(self.seconds_per_step),
                seconds(self.seconds_per_step_min),
                seconds(self.seconds_per_step_max),
                self.steps,
                seconds(self.train_seconds),
                seconds(self.startup_seconds)
            ),
        ));
        lines.extend(self.speedup_line());
        let sent = bytes(self.bytes_per_step_per_party);
        lines.push(row("per step and party", &format!("{sent} sent, {:.0} rounds", self.rounds_per_step)));
        lines.push(row("where the time goes", &phase_text(&self.phases)));
        #[allow(clippy::cast_precision_loss, reason = "memory sizes fit a double's 53 bits")]
        let peak = bytes(self.peak_rss_bytes as f64);
        lines.push(row("peak memory", &format!("{peak} (largest party)")));
        let opened = if self.opened.is_empty() { "nothing".into() } else { self.opened.join(", ") };
        lines.push(row("opened", &format!("{opened}; all else stayed in shares")));
        lines
            .extend(self.weight_difference.map(|difference| {
                row("weights", &format!("at most {difference:.1e} from those of the plaintext run"))
            }));
        lines.push(row("model", &format!("sealed in shares, a folder per party: {}/p0, p1, p2", self.run_folder)));
        lines.extend(self.remarks.iter().map(|remark| row("note", remark)));
        lines.join("\n") + "\n"
    }

    fn missing_line(&self) -> Option<String> {
        let columns = self.missing_values.iter().map(|(column, count)| format!("{column} {count}"));
        let columns = columns.collect::<Vec<_>>().join(", ");
        (!columns.is_empty()).then(|| format!("missing values, filled in: {columns}"))
    }

    fn metric_lines(&self) -> Vec<String> {
        let metrics = [
            ("test accuracy", self.accuracy, self.plaintext_accuracy),
            ("test AUROC", self.auroc, self.plaintext_auroc),
            ("test mean squared error", self.test_loss, self.plaintext_test_loss),
        ];
        let shown = |value: Option<f64>, none: &str| value.map_or(none.into(), |value| format!("{value:.4}"));
        let present = metrics.into_iter().filter(|(_, mpc, plain)| mpc.is_some() || plain.is_some());
        present
            .map(|(name, mpc, plain)| {
                format!("{name:22}{:>12}{:>14}", shown(mpc, "not opened"), shown(plain, "not computed"))
            })
            .collect()
    }

    fn speedup_line(&self) -> Option<String> {
        let (strong, weak, predicted) = (self.speedup_strong?, self.speedup_weak?, self.speedup_predicted?);
        let text =
            format!("strong {strong:.2}, weak {weak:.2}; predicted ceiling {predicted:.2}, ideal {}", self.lanes);
        Some(row(&format!("{} lanes over 1", self.lanes), &text))
    }
}

/// Shares of time by phase, in words.
pub(crate) fn phase_text(phases: &BTreeMap<String, f64>) -> String {
    let named = [
        ("compute", "compute"),
        ("open_send", "send"),
        ("open_wait", "wait"),
        ("truncate", "truncate"),
        ("allreduce", "all-reduce"),
    ];
    let share = |phase: &str| 100.0 * phases.get(phase).copied().unwrap_or(0.0);
    let mut parts: Vec<String> = named.iter().map(|(phase, name)| format!("{name} {:.0} %", share(phase))).collect();
    let other = 100.0 - named.iter().map(|(phase, _)| share(phase)).sum::<f64>();
    if other >= 0.5 && !phases.is_empty() {
        parts.push(format!("other {other:.0} %"));
    }
    parts.join(", ")
}

/// A named line.
pub(crate) fn row(name: &str, text: &str) -> String {
    format!("{name:22}{text}")
}

fn count(number: u16, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Classes down, what they were taken for across; no lines for no matrix and for more classes than fit a screen.
pub(crate) fn confusion_text(heading: &str, matrix: Option<&[Vec<usize>]>, classes: &[String]) -> String {
    let Some(matrix) = matrix.filter(|matrix| matrix.len() <= CONFUSION_CLASSES_MAX) else { return String::new() };
    let name = |class: usize| classes.get(class).map_or(String::new(), |name| name.chars().take(8).collect());
    let header: String = (0..matrix.len()).map(|class| format!("{:>9}", name(class))).collect();
    let mut text = format!("\n{:22}{header}\n", heading);
    for (class, row) in matrix.iter().enumerate() {
        let cells: String = row.iter().map(|count| format!("{count:>9}")).collect();
        text += &format!("{:22}{cells}\n", name(class));
    }
    text
}

/// Bytes with a decimal unit.
pub(crate) fn bytes(value: f64) -> String {
    match value {
        value if value < 1e3 => format!("{value:.0} B"),
        value if value < 1e6 => format!("{:.1} kB", value / 1e3),
        value if value < 1e9 => format!("{:.2} MB", value / 1e6),
        value => format!("{:.2} GB", value / 1e9),
    }
}

/// Seconds with a fitting unit.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        value if value < 1e-3 => format!("{:.0} us", value * 1e6),
        value if value < 1.0 => format!("{:.2} ms", value * 1e3),
        value if value < 120.0 => format!("{value:.2} s"),
        value => format!("{:.1} min", value / 60.0),
    }
}
